"""The servers behind the gateway: how many requests each has, and which one gets the next."""

import random
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from serve.gateway.upstreams.circuit import Circuit
from serve.gateway.upstreams.server_metrics import ServerMetrics


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is. ``host``: the name that it was found by, where ``url`` has its number instead; else empty."""

    url: str
    host: str = ""


@dataclass(eq=False)
class ModelServer:
    """One server, the requests that it has now, and whether it fails."""

    address: Address
    outstanding: int = 0
    circuit: Circuit = field(default_factory=Circuit)

    @property
    def label(self) -> str:
        """The server in metrics: host and port."""
        return urlsplit(self.address.url).netloc.rpartition("@")[2]


class ServerPool:
    """The servers that answer. Not thread-safe: all of it runs in one event loop.

    A server that is no longer listed gets nothing new, and its requests in progress are finished.
    """

    def __init__(self, addresses: Iterable[Address], metrics: ServerMetrics, rng: random.Random) -> None:
        self._metrics, self._rng = metrics, rng
        self._servers: dict[Address, ModelServer] = {}
        self.update(addresses)

    @property
    def servers(self) -> list[ModelServer]:
        """All servers that are listed now."""
        return list(self._servers.values())

    def update(self, addresses: Iterable[Address]) -> None:
        """List exactly these servers; known ones keep their state. No addresses at all change nothing."""
        listed = {address: self._servers.get(address) or ModelServer(address) for address in addresses}
        if not listed:
            return
        removed = [server for address, server in self._servers.items() if address not in listed]
        self._servers = listed
        for server in removed:
            self._metrics.forget(server.label)
        for server in listed.values():
            self._show(server)

    def pick(self, exclude: Collection[ModelServer] = ()) -> ModelServer | None:
        """The server for the next request, the one with the fewest; None where all are in ``exclude``.

        Where all that are left are out, it is the one that is tried again first.
        """
        servers = [server for server in self._servers.values() if server not in exclude]
        ready = [server for server in servers if not server.circuit.is_open]
        if ready:
            return min(ready, key=lambda server: (server.outstanding, self._rng.random()))
        return min(servers, key=lambda server: server.circuit.retry_at_s, default=None)

    def due(self) -> list[ModelServer]:
        """The servers that are out and should be tried again."""
        now_s = time.monotonic()
        return [server for server in self._servers.values() if server.circuit.is_due(now_s)]

    @contextmanager
    def busy(self, server: ModelServer) -> Iterator[None]:
        """Count a request that ``server`` has."""
        server.outstanding += 1
        self._show(server)
        try:
            yield
        finally:
            server.outstanding -= 1
            self._show(server)

    def record(self, server: ModelServer, failed: bool) -> None:
        """Take the outcome of a request into account."""
        server.circuit = server.circuit.after_failure(time.monotonic()) if failed else Circuit()
        self._show(server)

    def _show(self, server: ModelServer) -> None:
        if server.address in self._servers:
            self._metrics.state(server.label, server.outstanding, server.circuit.is_open)
