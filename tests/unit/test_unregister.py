"""Unloading a version, against a server that answers as TorchServe can."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serve.errors import RefusedError
from serve.rollout.torchserve_client import Management


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these statuses in turn; its address, and the paths of its DELETE requests."""
    deleted: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            self.send_response(statuses[len(deleted)])
            deleted.append(self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", deleted
        server.shutdown()


def test_a_version_that_torchserve_put_back_is_unloaded_at_the_second_request() -> None:
    with answering(500, 200) as (url, deleted):
        Management(url).unregister("3")
    assert deleted == ["/models/bin-counter/3"] * 2


@pytest.mark.parametrize("statuses", [(500, 500), (403,)])
def test_a_version_that_stays_loaded_is_an_error(statuses: tuple[int, ...]) -> None:
    with answering(*statuses) as (url, deleted), pytest.raises(RefusedError, match=str(statuses[-1])):
        Management(url).unregister("3")
    assert len(deleted) == len(statuses)
