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
<link rel="stylesheet" href="{root}/docs/page.css">
</head>
<body>
<div id="swagger-ui" data-page="{root}/docs" data-url="{root}{openapi_url}"></div>
<script src="{root}/docs/assets/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</body>
</html>
"""

# Swagger UI resolves the relative token URL against the page's, which may have been asked for with a slash at its end.
_START = """const plugin = () => ({
  statePlugins: {
    auth: {
      wrapSelectors: {
        // What takes callers without a token, too, is shown as locked only once there is one.
        isAuthorized: (original) => (_, needs) => original(needs?.filter((need) => need.size)),
      },
      wrapActions: {
        // What survives a reload is in the storage of the browser: the access token, and nothing that lasts longer.
        authorizeOauth2: (original) => ({ auth, token: { access_token, token_type } }) =>
          original({ auth: { ...auth, password: "" }, token: { access_token, token_type } }),
      },
    },
  },
});
const element = document.getElementById("swagger-ui");
history.replaceState(null, "", element.dataset.page + location.search + location.hash);
SwaggerUIBundle({
  url: element.dataset.url,
  domNode: element,
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  persistAuthorization: true,
  plugins: [plugin],
});
"""

# Of an error a line is enough: all of them are problems of one shape. Clients have no ids and secrets here, nor scopes.
_STYLE = """
.swagger-ui :is([data-code^="4"], [data-code^="5"]) .response-col_description > :not(.response-col_description__inner),
.swagger-ui .responses-table .response-col_links,
.swagger-ui .auth-container .wrapper:has(> :is(label[for="password_type"], label[for^="client_"])),
.swagger-ui .scope-def {
  display: none;
}
.swagger-ui .responses-table tbody tr.response > td.response-col_status,
.swagger-ui .responses-table tbody tr.response > td.response-col_description { padding: 3px 0; }
.swagger-ui .response-col_description__inner p { margin: 0; font-size: 14px; }
.swagger-ui textarea.body-param__text { min-height: 130px; height: 130px; }
"""

_FILES = {"start.js": (_START, "text/javascript"), "page.css": (_STYLE, "text/css")}


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

    async def file(request: Request) -> Response:
        content, media_type = _FILES[request.url.path.rpartition("/")[2]]
        return Response(content, media_type=media_type)

    assets = _Assets(packages=[("fastapi_swagger", "resources")])

    async def icon(request: Request) -> Response:
        return await assets.get_response("favicon-32x32.png", request.scope)

    app.add_route("/docs", page, include_in_schema=False)
    for name in _FILES:
        app.add_route(f"/docs/{name}", file, include_in_schema=False)
    app.add_route("/favicon.ico", icon, include_in_schema=False)
    app.mount("/docs/assets", assets)
