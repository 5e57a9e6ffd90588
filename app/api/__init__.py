"""The HTTP side: everything that knows FastAPI, except `app.main`, which puts it together."""
