"""The promoter's door: a small HTTP server for the gateways and the servers.

    POST /routes            a gateway's report; the answer is which servers and versions get its requests
    GET  /archives/NAME     an archive of the model store, for servers that do not share it
    GET  /metrics           in Prometheus' format
    GET  /livez             the door answers; whether the promoter's rounds go well is its heartbeat

Whoever reaches it may ask, so it belongs into networks that only gateways, servers and Prometheus share.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from serve.errors import SettingsError
from serve.rollout.torchserve_client import MODEL
from serve.routing.comparison import REPORT
from serve.routing.route_board import RouteBoard
from serve.routing.route_table import ROUTES
from trainer.promotion.fleet.server_addresses import ARCHIVES_PATH

log = logging.getLogger(__name__)

ARCHIVE_NAME = re.compile(rf"{MODEL}-\d+(\.0)?\.mar")
LARGEST_REPORT = 1_000_000
"""Bytes; a report with all counts and verdicts has some thousand."""
START_S, POLL_S = 30.0, 0.05


class Door:
    """What the door answers. ``store``: the model store's folder; ``metrics``: what /metrics shows."""

    def __init__(self, board: RouteBoard, store: Path, metrics: CollectorRegistry) -> None:
        self._board, self._store, self._metrics = board, store, metrics
        self.app = Starlette(
            routes=[
                Route("/routes", self._routes, methods=["POST"]),
                Route(ARCHIVES_PATH + "{name}", self._archive),
                Route("/metrics", self._show_metrics),
                Route("/livez", self._live),
            ]
        )

    async def _routes(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_REPORT:
                return _refusal(413, f"a report has at most {LARGEST_REPORT} bytes")
        try:
            report = REPORT.validate_json(bytes(body))
        except ValidationError as error:
            return _refusal(422, f"this is no report of a gateway: {error.errors()[0]['msg']}")
        self._board.receive(report, time.monotonic())
        routes = self._board.routes()
        if routes is None:
            return _refusal(503, "this promoter knows no champion yet, or another one works; ask again")
        return Response(ROUTES.dump_json(routes), media_type="application/json")

    async def _archive(self, request: Request) -> Response:
        name = request.path_params["name"]
        path = self._store / name
        if not ARCHIVE_NAME.fullmatch(name) or not path.is_file():
            return _refusal(404, "the model store has no such archive")
        return FileResponse(path, media_type="application/octet-stream")

    async def _show_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)

    async def _live(self, _: Request) -> Response:
        return Response("ok", media_type="text/plain")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"code": status, "message": message}, status)


@contextmanager
def opened(door: Door, host: str, port: int) -> Iterator[None]:
    """Answer at ``host:port`` until the block ends. Raises SettingsError where it is in use."""
    config = uvicorn.Config(
        door.app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = Thread(target=_serve, args=[server], name="door", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while thread.is_alive() and not server.started and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if not server.started:
        raise SettingsError(f"the promoter cannot listen on {host}:{port}; is the address in use?")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _serve(server: uvicorn.Server) -> None:
    try:
        server.run()
    except SystemExit:  # it could not listen; the thread that waits for it says so
        log.debug("the door did not open")
