"""Unloading a version, against a server that answers as TorchServe can."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from serve.errors import RefusedError
from serve.rollout.torchserve_client import Management
from tests.http_server import serving


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

    with serving(Handler) as url:
        yield url, deleted


def test_a_version_that_torchserve_put_back_is_unloaded_at_the_second_request() -> None:
    with answering(500, 200) as (url, deleted):
        Management(url).unregister("3")
    assert deleted == ["/models/bin-counter/3"] * 2


@pytest.mark.parametrize("statuses", [(500, 500), (403,)])
def test_a_version_that_stays_loaded_is_an_error(statuses: tuple[int, ...]) -> None:
    with answering(*statuses) as (url, deleted), pytest.raises(RefusedError, match=str(statuses[-1])):
        Management(url).unregister("3")
    assert len(deleted) == len(statuses)
