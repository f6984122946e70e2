"""Load on an HTTP server: concurrent clients that each send the next request as soon as they have the answer.

Requests are written and answers read without an HTTP library, so that the clients leave the cores to the server.
"""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from urllib.parse import SplitResult, urlsplit

import numpy as np

from serve.errors import ServerError

TIMEOUT_S = 60.0
_BUFFER = 1 << 16


@dataclass(frozen=True)
class Load:
    """The measurements of all clients together: requests per second, and the latency of each request in seconds."""

    rate: float
    seconds: tuple[float, ...]

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the latency."""
        return 1000 * float(np.quantile(self.seconds, 0.99))


@dataclass(frozen=True)
class Target:
    """What is asked, and how. ``keep_alive``: whether a client keeps its connection from one request to the next."""

    url: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]
    keep_alive: bool = True


def generate_load(target: Target, duration_s: float, clients: int = 8) -> Load:
    """POST the bodies in turns for ``duration_s``, at least one per client. Raises ServerError for any status but 200.

    The time ends with the last answer.
    """
    shares = [target.bodies[first::clients] or target.bodies for first in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = list(pool.map(partial(_run_client, target, end=start + duration_s), shares))
    took_s = time.perf_counter() - start
    seconds = tuple(latency for client in latencies for latency in client)
    return Load(len(seconds) / took_s, seconds)


def pooled(loads: Sequence[Load]) -> Load:
    """Several loads as one."""
    seconds = tuple(latency for load in loads for latency in load.seconds)
    return Load(len(seconds) / sum(len(load.seconds) / load.rate for load in loads), seconds)


def _run_client(target: Target, bodies: Sequence[bytes], end: float) -> list[float]:
    address, latencies = urlsplit(target.url), list[float]()
    requests = cycle([_request(target, address, body) for body in bodies])
    while not latencies or time.perf_counter() < end:
        start = time.perf_counter()
        with closing(socket.create_connection((address.hostname, address.port), TIMEOUT_S)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in _answers(connection, target.url, requests):
                latencies.append(time.perf_counter() - start)
                start = time.perf_counter()
                if start >= end:
                    break
    return latencies


def _request(target: Target, address: SplitResult, body: bytes) -> bytes:
    connection = "keep-alive" if target.keep_alive else "close"
    fields = {"Host": address.netloc, **target.headers, "Connection": connection, "Content-Length": str(len(body))}
    lines = [f"POST {address.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _answers(connection: socket.socket, url: str, requests: Iterator[bytes]) -> Iterator[bytes]:
    """Send one request after the other, and yield the answers, until the server closes the connection."""
    for request in requests:
        connection.sendall(request)
        head, body = _answer(connection)
        status = head.split(b" ", 2)[1].decode()
        if status != "200":
            raise ServerError(f"{url} answered {status}: {body[:200]!r}")
        yield body
        if b"connection: close" in head.lower() or b"connection: close" in request.partition(b"\r\n\r\n")[0].lower():
            return


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one answer. Raises ServerError where it has no length, or ends early."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if not lengths:
        raise ServerError(f"an answer has no Content-Length: {head!r}")
    while len(body) < int(lengths[0]):
        body += _receive(connection)
    return head, body


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(_BUFFER)
    if not data:
        raise ServerError("the server closed the connection before its answer was complete")
    return data
