"""Prometheus metrics, served at /metrics. Unknown paths share one label value, so that clients cannot add series."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.evidence import Evidence

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OTHER = "other"
"""The label value of all paths that are not routes."""


@dataclass
class ResponseStatus:
    """The status of a response; 500 until the response has started."""

    status: int = 500


class Metrics:
    """The metrics of one process. ``routes``: the paths that get a label value of their own."""

    def __init__(self, routes: frozenset[str]) -> None:
        self.registry, self._routes = CollectorRegistry(), routes
        self._patterns = {
            route: (route.partition("{")[0], route.rpartition("}")[2]) for route in routes if "{" in route
        }
        self._requests = Counter("binwatch_gateway_requests", "Requests", ("route", "status"), registry=self.registry)
        self._seconds = Histogram(
            "binwatch_gateway_seconds",
            "Time until the response is complete",
            ("route",),
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self._in_flight = Gauge("binwatch_gateway_in_flight", "Requests in progress", registry=self.registry)
        self._verdicts = Counter("binwatch_gateway_verdicts", "Verdicts returned", ("verdict",), registry=self.registry)
        self._verdicts_by_evidence = Counter(
            "binwatch_gateway_verdicts_by_evidence",
            "Verdicts returned, by what they rest on",
            ("verdict", "evidence"),
            registry=self.registry,
        )
        self._torchserve_errors = Counter(
            "binwatch_gateway_torchserve_errors",
            "Requests that TorchServe failed to answer",
            ("kind",),
            registry=self.registry,
        )
        self._feedback = Counter("binwatch_gateway_feedback", "Ground truth records stored", registry=self.registry)
        self._recount_candidates = Counter(
            "binwatch_gateway_recount_candidates",
            "Bins for the list of recounts, by what became of them",
            ("result",),
            registry=self.registry,
        )
        self._recounts = Counter("binwatch_gateway_recounts", "Recounts stored", ("outcome",), registry=self.registry)

    @contextmanager
    def request(self, path: str) -> Iterator[ResponseStatus]:
        """Count and time one request; the caller sets the status when the response starts."""
        route, response, start = self._route(path), ResponseStatus(), time.perf_counter()
        with self._in_flight.track_inprogress():
            try:
                yield response
            finally:
                self._requests.labels(route, str(response.status)).inc()
                self._seconds.labels(route).observe(time.perf_counter() - start)

    def _route(self, path: str) -> str:
        """The label of a path: its route; ``/records/{bin_id}`` for all bins."""
        if path in self._routes:
            return path
        fitting = [
            (len(after), route)
            for route, (before, after) in self._patterns.items()
            if path.startswith(before) and path.endswith(after)
        ]
        return max(fitting, default=(0, OTHER))[1]

    def verdict(self, answer: Mapping[str, object]) -> None:
        """Count the verdict of an answer."""
        name = str(answer.get("verdict"))
        self._verdicts.labels(name).inc()
        self._verdicts_by_evidence.labels(name, Evidence.of(answer)).inc()

    def torchserve_error(self, kind: str) -> None:
        """Count a request that TorchServe failed to answer."""
        self._torchserve_errors.labels(kind).inc()

    def feedback(self) -> None:
        """Count a stored ground truth record."""
        self._feedback.inc()

    def recount_candidate(self, result: str) -> None:
        """Count a bin for the list of recounts: queued, surplus (the list is full), dropped or failed."""
        self._recount_candidates.labels(result).inc()

    def recount(self, outcome: str) -> None:
        """Count a stored recount."""
        self._recounts.labels(outcome).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
