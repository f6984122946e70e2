"""Load on an HTTP server: concurrent clients that each send the next request as soon as they have the answer."""

import http.client
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import numpy as np

from serve.errors import ServerError

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Load:
    """The measurements of all clients together: requests per second, and the latency of each request in seconds."""

    rate: float
    seconds: tuple[float, ...]

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the latency."""
        return 1000 * float(np.quantile(self.seconds, 0.99))


def generate_load(
    url: str, bodies: Sequence[bytes], headers: Mapping[str, str], requests: int, clients: int = 8
) -> Load:
    """POST ``requests`` requests to ``url``, cycling through ``bodies``. Raises ServerError for any status but 200."""
    shares = [[bodies[i % len(bodies)] for i in range(first, requests, clients)] for first in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = tuple(
            seconds for client in pool.map(partial(_run_client, url, headers=headers), shares) for seconds in client
        )
    return Load(len(latencies) / (time.perf_counter() - start), latencies)


def _run_client(url: str, bodies: Sequence[bytes], headers: Mapping[str, str]) -> list[float]:
    address = urlsplit(url)
    latencies = []
    with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=TIMEOUT_S)) as connection:
        for body in bodies:
            start = time.perf_counter()
            connection.request("POST", address.path, body, dict(headers))
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise ServerError(f"{url} answered {response.status}: {answer[:200]!r}")
            latencies.append(time.perf_counter() - start)
    return latencies
