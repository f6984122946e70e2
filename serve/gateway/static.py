"""Serves the web page's files, which are read once into memory: no request can reach other files."""

import hashlib
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.gateway.schemas import Refusal

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
STATIC = "/static"
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def router(folder: Path = FOLDER) -> APIRouter:
    """``/`` is the page, ``/static/NAME`` its other files."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in _TYPES}
    page = APIRouter(include_in_schema=False)

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", INDEX)
        if name not in files:
            raise Refusal(404, "NotFound", f"the page has no file {name[:100]!r}")
        return _file_response(request, files[name], name)

    for path in ("/", STATIC + "/{name}"):
        page.add_api_route(path, file, methods=["GET", "HEAD"])
    return page


def _file_response(request: Request, content: bytes, name: str) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # the browser caches the file, but revalidates it each time
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    return Response(content, 200, headers, _TYPES[Path(name).suffix])
