"""The page's files, read once into memory: a path that asks for anything else finds nothing."""

import hashlib
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.gateway.schemas import Refusal

FOLDER = Path(__file__).with_name("page")
FIRST = "index.html"
STATIC = "/static"
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def router(folder: Path = FOLDER) -> APIRouter:
    """``/`` is the page, ``/static/NAME`` are its other files."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in _TYPES}
    made = APIRouter(include_in_schema=False)

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", FIRST)
        if name not in files:
            raise Refusal(404, "NotFound", f"the page has no file {name[:100]!r}")
        return _answer(request, files[name], name)

    for path in ("/", STATIC + "/{name}"):
        made.add_api_route(path, file, methods=["GET", "HEAD"])
    return made


def _answer(request: Request, content: bytes, name: str) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # kept, and asked about each time
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    kind = _TYPES[Path(name).suffix]
    return Response(content, 200, headers, kind)
