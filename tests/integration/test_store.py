"""Photos of links from stores that fail in every way: each costs only its own photo, and not much time."""

import http.server
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from serve.errors import MissingError, RequestError, StoreError, StoreTimeoutError, TooLargeError
from serve.links import Link, PhotoStore
from serve.local.servers import free_port
from tests.http_server import serving


class BadStore(http.server.BaseHTTPRequestHandler):
    """A store that fails in the way that the key names."""

    protocol_version = "HTTP/1.1"
    requested: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        key = self.path.partition("?")[0].rpartition("/")[2]
        self.requested.append(key)
        if key == "stalls":
            time.sleep(6)
        elif key in ("500", "503", "403"):
            self.send_error(int(key))
        else:
            self.send_response(200)
            self.send_header("Content-Length", {"drips": "100000", "large": str(10**12)}.get(key, "1000"))
            self.end_headers()
            if key == "slow":
                time.sleep(0.7)
            for _ in range({"drips": 200, "cut": 1}.get(key, 10)):
                self.wfile.write(b"x" * 100)
                time.sleep(0.05 if key == "drips" else 0)
            self.close_connection = key == "cut"


@pytest.fixture
def bad_store() -> Iterator[str]:
    with serving(BadStore) as url:
        yield url


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start_s = time.monotonic()
    yield
    assert time.monotonic() - start_s < seconds


def read(store: PhotoStore, *keys: str) -> list[bytes | RequestError]:
    return store.read([Link("bins", key) for key in keys])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("stalls", StoreTimeoutError),
        ("drips", StoreTimeoutError),
        ("500", StoreError),
        ("503", StoreError),
        ("403", MissingError),
        ("cut", StoreError),
        ("large", TooLargeError),
    ],
)
def test_a_store_that_fails_costs_its_own_photo_alone(bad_store: str, key: str, kind: type[RequestError]) -> None:
    store = PhotoStore(frozenset({"bins"}), bad_store, timeout_s=2.0)
    read(store, "fine")  # boto3 is loaded
    with within(3.5):
        bad, good = read(store, key, "fine")
    assert type(bad) is kind, bad
    assert good == b"x" * 1000


def test_a_store_that_is_not_there_is_the_store_s_fault() -> None:
    (error,) = read(PhotoStore(frozenset({"bins"}), f"http://127.0.0.1:{free_port()}"), "a.jpg")
    assert type(error) is StoreError


def test_slow_photos_of_a_request_do_not_add_up(bad_store: str) -> None:
    store = PhotoStore(frozenset({"bins"}), bad_store, timeout_s=15)
    read(store, "fine")
    with within(10):  # one after another they take 22 s
        assert read(store, *["slow"] * 32) == [b"x" * 1000] * 32


def test_a_bucket_that_is_not_allowed_is_never_asked(bad_store: str) -> None:
    BadStore.requested.clear()
    (error,) = read(PhotoStore(frozenset(), bad_store), "fine")
    assert "BINWATCH_S3_BUCKETS" in str(error)
    assert not BadStore.requested
