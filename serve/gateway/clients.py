"""What one client may use: its requests per second, and its share of the requests in progress.

A client is an API key, else an address. All that come from one address, as from behind a router, share what it may use.
Behind the TLS proxy, the address is that of the proxy's client.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from serve.gateway.refusal import retry_later

MAX_CLIENTS = 1024
GRACE_S = 5.0
"""A request whose body has not arrived within this time makes room for others, where there is none."""


def client_address(client: tuple[str, int] | None) -> str:
    """The address of a connection's other end; of IPv6 its network, since a single client has all of that."""
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def forwarded_address(header: str) -> str:
    """The address of a proxy's client, from the X-Forwarded-For that the proxy itself wrote: the last one in it."""
    return client_address((header.rpartition(",")[2].strip(), 0))


class RateLimiter:
    """A token bucket per client, refilled at ``rate`` per second up to one second's worth; 0 means no limit.

    Only the MAX_CLIENTS clients seen last are remembered.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str, now: float) -> int:
        """Take a token; 0 admits the request, otherwise the number of seconds until a retry succeeds."""
        if not self.rate:
            return 0
        capacity = max(self.rate, 1.0)
        tokens, updated_at = self._buckets.pop(client, (capacity, now))
        tokens = min(capacity, tokens + (now - updated_at) * self.rate)
        admitted = tokens >= 1
        self._buckets[client] = (tokens - admitted, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if admitted else max(1, round((1 - tokens) / self.rate))


class Body(Protocol):
    """A request's body."""

    @property
    def arriving(self) -> bool:
        """Whether its end is still waited for."""

    def give_up(self) -> None:
        """Wait no longer."""


@dataclass(frozen=True, eq=False)
class _Slot:
    """A request in progress."""

    client: str
    body: Body
    start_s: float


class Slots:
    """The requests in progress: at most ``limit``, and of one client at most half of that.

    Where there is no room, the request whose body has been arriving for the longest time, but at least for GRACE_S, is
    given up: those who send slowly keep nobody out.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._client_limit = limit, (limit + 1) // 2
        self._slots: list[_Slot] = []

    @contextmanager
    def hold(self, client: str, body: Body, now_s: float) -> Iterator[None]:
        """Count a request as in progress. Raises Refusal where there is no room."""
        slot = _Slot(client, body, now_s)
        of_client = [peer for peer in self._slots if peer.client == client]
        if len(of_client) >= self._client_limit:
            self._make_room(of_client, now_s, f"{len(of_client)} requests of this client are in progress")
        elif len(self._slots) >= self._limit:
            self._make_room(self._slots, now_s, f"{len(self._slots)} requests are in progress")
        self._slots.append(slot)
        try:
            yield
        finally:
            if slot in self._slots:
                self._slots.remove(slot)

    def _make_room(self, slots: list[_Slot], now_s: float, state: str) -> None:
        late = [slot for slot in slots if slot.body.arriving and now_s - slot.start_s >= GRACE_S]
        if not late:
            raise retry_later("Overloaded", f"{state}, which is the limit; try again")
        late[0].body.give_up()  # they are in the order of their start
        self._slots.remove(late[0])
