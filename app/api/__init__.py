"""The HTTP layer: everything that depends on FastAPI, except `app.main`."""
