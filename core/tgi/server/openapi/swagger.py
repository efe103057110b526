"""The route `/docs`: Swagger UI for the OpenAPI document of this server. Its files come from an
installed package, never from a network.
"""

from __future__ import annotations

from importlib import resources
from typing import final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tgi.server.http.responses import empty_response, json_response
from tgi.server.openapi.document import openapi_document

__all__ = ["DocsRoutes"]

_PACKAGE, _FOLDER = "fastapi_swagger", "resources"
_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Text Generation Inference API</title>
<link rel="stylesheet" href="swagger-ui.css">
<link rel="icon" href="favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = (
    'SwaggerUIBundle({ url: "../api-doc/openapi.json", dom_id: "#swagger-ui", deepLinking: true,'
    " validatorUrl: null });\n"
)


@final
class DocsRoutes:
    """Handlers of the routes that describe the API."""

    def __init__(self, version: str) -> None:
        self._document = msgspec.json.encode(openapi_document(version))

    async def openapi(self, request: Request) -> Response:
        """Handle `GET /api-doc/openapi.json`."""
        del request
        return json_response(self._document)

    async def redirect(self, request: Request) -> Response:
        """Handle `GET /docs` with a redirect to `/docs/`, because the links of the page are
        relative.
        """
        del request
        return empty_response(303, {"location": "/docs/"})

    async def page(self, request: Request) -> Response:
        """Handle `GET /docs/`."""
        del request
        return Response(_PAGE, headers={"content-security-policy": _POLICY}, media_type="text/html")

    async def asset(self, request: Request) -> Response:
        """Handle `GET /docs/{file}`, where `file` is one of the files to which the page refers."""
        name = request.path_params["file"]
        if name == "start.js":
            return Response(_START, media_type="text/javascript")
        media_type = _MEDIA_TYPES.get(name)
        if media_type is None:
            return empty_response(404)
        data = (resources.files(_PACKAGE) / _FOLDER / name).read_bytes()
        return Response(data, headers={"cache-control": "max-age=3600"}, media_type=media_type)
