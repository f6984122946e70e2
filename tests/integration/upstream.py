"""A replacement for TorchServe, for answers that the real one cannot be made to give."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """A server that answers every request after ``delay_s`` with ``status`` and ``body``, and counts them.

    ``received``, ``headers``: of the last request.
    """

    def __init__(self) -> None:
        self.status, self.body, self.delay_s = 200, b'{"count": 1, "model_version": "9"}', 0.0
        self.requests, self.url = 0, ""
        self.received, self.headers = b"", dict[str, str]()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Read the request, wait, answer."""
        self.requests += 1
        self.headers = dict(request.headers)
        self.received = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        time.sleep(self.delay_s)
        request.send_response(self.status)
        request.send_header("Content-Length", str(len(self.body)))
        request.end_headers()
        request.wfile.write(self.body)


@contextmanager
def upstream_server() -> Iterator[Upstream]:
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            upstream.answer(self)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        upstream.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield upstream
        server.shutdown()
