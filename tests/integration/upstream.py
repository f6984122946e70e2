"""A server in TorchServe's place, for answers that the real one cannot be made to give."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """A server in TorchServe's place that answers as it is told, where the real one cannot be made to."""

    def __init__(self) -> None:
        self.status, self.body, self.delay_s, self.asked = 200, b'{"count": 1, "model_version": "9"}', 0.0, 0
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Read the request, wait, answer."""
        self.asked += 1
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        time.sleep(self.delay_s)
        request.send_response(self.status)
        request.send_header("Content-Length", str(len(self.body)))
        request.end_headers()
        request.wfile.write(self.body)


@contextmanager
def upstream_server() -> Iterator[Upstream]:
    told = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.answer(self)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield told
        server.shutdown()
