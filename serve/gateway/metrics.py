"""What Prometheus reads at /metrics. Labels have few values: paths that there are not count as one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OTHER = "other"


@dataclass
class Answered:
    """The status of an answer, once it has begun."""

    status: int = 500


class Metrics:
    """The gateway's numbers, of one process. ``routes``: the paths that are told apart."""

    def __init__(self, routes: frozenset[str]) -> None:
        self.registry, self._routes = CollectorRegistry(), routes
        to = self.registry
        self._requests = Counter("binwatch_gateway_requests", "Requests", ("route", "status"), registry=to)
        self._seconds = Histogram(
            "binwatch_gateway_seconds", "Time to the whole answer", ("route",), registry=to, buckets=BUCKETS_S
        )
        self._inside = Gauge("binwatch_gateway_in_flight", "Requests that are being answered", registry=to)
        self._verdicts = Counter("binwatch_gateway_verdicts", "Verdicts given", ("verdict",), registry=to)
        self._failed = Counter(
            "binwatch_gateway_torchserve_errors", "Questions that TorchServe did not answer", ("kind",), registry=to
        )
        self._feedback = Counter("binwatch_gateway_feedback", "Ground truth records kept", registry=to)

    @contextmanager
    def request(self, path: str) -> Iterator[Answered]:
        """Count and time one request; the status is filled in when the answer begins."""
        route, answered, start = path if path in self._routes else OTHER, Answered(), time.perf_counter()
        with self._inside.track_inprogress():
            try:
                yield answered
            finally:
                self._requests.labels(route, str(answered.status)).inc()
                self._seconds.labels(route).observe(time.perf_counter() - start)

    def verdict(self, name: str) -> None:
        """A verdict was given."""
        self._verdicts.labels(name).inc()

    def torchserve_error(self, kind: str) -> None:
        """TorchServe did not answer as it should."""
        self._failed.labels(kind).inc()

    def feedback(self) -> None:
        """A ground truth record was kept."""
        self._feedback.inc()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
