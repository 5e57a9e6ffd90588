"""`/docs`: Swagger UI from local files, under a policy that allows no inline script, behind any path prefix."""

from html import escape

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

# Swagger UI sets style attributes and draws its icons from data URLs; nothing else is taken from the page itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="{root}/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-page="{root}/docs" data-url="{root}{openapi_url}"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</body>
</html>
"""

# Swagger UI resolves the relative token URL against the page's, which may have been asked for with a slash at its end.
_START = """const element = document.getElementById("swagger-ui");
history.replaceState(null, "", element.dataset.page + location.search + location.hash);
SwaggerUIBundle({
  url: element.dataset.url,
  domNode: element,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
"""


class _Assets(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response


def install(app: FastAPI) -> None:
    """Serve the page, what it loads, and nothing where the app has no OpenAPI document."""
    if not app.openapi_url:
        return

    async def page(request: Request) -> Response:
        root = escape(request.scope.get("root_path", "").rstrip("/"))
        html = _PAGE.format(root=root, title=escape(app.title), openapi_url=app.openapi_url)
        return HTMLResponse(html, headers={"Content-Security-Policy": _POLICY})

    async def start(_request: Request) -> Response:
        return Response(_START, media_type="text/javascript")

    app.add_route("/docs", page, include_in_schema=False)
    app.add_route("/docs/start.js", start, include_in_schema=False)
    app.mount("/docs/assets", _Assets(packages=[("fastapi_swagger", "resources")]))
