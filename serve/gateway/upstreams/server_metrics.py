"""Prometheus metrics of the servers and versions behind the gateway. The series of a server end when it is gone."""

from prometheus_client import CollectorRegistry, Counter, Gauge

DEFAULT_VERSION = "default"
"""The label value of requests that name no version: TorchServe's default answers, which is the champion."""


class ServerMetrics:
    """The metrics of the servers, in the gateway's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "binwatch_gateway_server_requests", "Requests sent to a server", ("server", "version"), registry=registry
        )
        self._failures = Counter(
            "binwatch_gateway_server_failures",
            "Requests that a server failed to answer",
            ("server", "version", "kind"),
            registry=registry,
        )
        self._outstanding = Gauge(
            "binwatch_gateway_server_outstanding", "Requests that a server has now", ("server",), registry=registry
        )
        self._out = Gauge(
            "binwatch_gateway_server_out",
            "1 while a server is taken out after failures",
            ("server",),
            registry=registry,
        )
        self._retries = Counter(
            "binwatch_gateway_retries", "Requests sent to another server, by what failed", ("kind",), registry=registry
        )
        self._copies = Counter(
            "binwatch_gateway_copies",
            "Photos for the version that did not answer the client, by what became of them",
            ("result",),
            registry=registry,
        )

    def request(self, server: str, version: str, failure: str = "") -> None:
        """Count a request to a server. ``failure``: its kind where it got no answer."""
        self._requests.labels(server, version or DEFAULT_VERSION).inc()
        if failure:
            self._failures.labels(server, version or DEFAULT_VERSION, failure).inc()

    def state(self, server: str, outstanding: int, is_out: bool) -> None:
        """Show the state of a server."""
        self._outstanding.labels(server).set(outstanding)
        self._out.labels(server).set(is_out)

    def forget(self, server: str) -> None:
        """End the series of a server that is gone."""
        for metric in (self._requests, self._failures, self._outstanding, self._out):
            metric.remove_by_labels({"server": server})

    def retry(self, failure: str) -> None:
        """Count a request that goes to another server."""
        self._retries.labels(failure).inc()

    def copied(self, result: str) -> None:
        """Count a copy: answered, failed, or dropped because too many were in flight."""
        self._copies.labels(result).inc()
