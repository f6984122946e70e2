"""Load on a server: so many clients that each ask again as soon as they are answered, and what it took them."""

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
    """What ``clients`` clients saw: requests a second in all, and the seconds that each request took."""

    rate: float
    seconds: tuple[float, ...]

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the latency."""
        return 1000 * float(np.quantile(self.seconds, 0.99))


def load(url: str, bodies: Sequence[bytes], headers: Mapping[str, str], requests: int, clients: int = 8) -> Load:
    """POST ``requests`` requests to ``url``, the bodies in turn. Raises ServerError for any answer but 200."""
    shares = [[bodies[i % len(bodies)] for i in range(first, requests, clients)] for first in range(clients)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = [each for found in pool.map(partial(_client, url, headers=headers), shares) for each in found]
    return Load(len(taken) / (time.perf_counter() - start), tuple(taken))


def _client(url: str, bodies: Sequence[bytes], headers: Mapping[str, str]) -> list[float]:
    where = urlsplit(url)
    taken = []
    with closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=TIMEOUT_S)) as connection:
        for body in bodies:
            start = time.perf_counter()
            connection.request("POST", where.path, body, dict(headers))
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise ServerError(f"{url} answered {response.status}: {answer[:200]!r}")
            taken.append(time.perf_counter() - start)
    return taken
