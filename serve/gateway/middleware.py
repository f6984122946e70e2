"""Who gets in, and how much they may send: ASGI middleware around all routes.

In this order: the request's Host (a page that was rebound to this address by DNS comes with a name of its
own), its Origin (other sites' pages send what they like, though they cannot read the answer), its key, its
rate, how many are inside, the size and the pace of its body.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import SettingsError
from serve.gateway.keys import Keys
from serve.gateway.metrics import Metrics
from serve.gateway.schemas import Refusal, later, response
from serve.gateway.settings import Settings, is_address

OPEN = ("/", "/livez")
"""Paths that need no key; the page's files besides. The page asks for the key."""
STATIC = "/static/"
MAX_CLIENTS = 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True)
class Asked:
    """What of a request decides whether it gets in."""

    path: str
    host: str
    origin: str | None
    tokens: tuple[str, ...]
    length: int
    client: str

    @classmethod
    def of(cls, scope: Scope) -> "Asked":
        """From ASGI's scope; of a header that comes twice, the last one."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        return cls(
            path=scope["path"],
            host=headers.get("host", ""),
            origin=headers.get("origin"),
            tokens=tuple(
                filter(None, (headers.get("x-api-key"), bearer.strip() if scheme.lower() == "bearer" else ""))
            ),
            length=int(headers.get("content-length", 0)),
            client=(scope.get("client") or ("unknown", 0))[0],
        )


class Edge:
    """The middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.rates = Rates(settings.rate)
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.metrics.request(scope["path"]) as answered:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    answered.status = message["status"]
                    given = {name for name, _ in message["headers"]}
                    if b"cache-control" not in given:
                        message["headers"].append((b"cache-control", b"no-store"))
                    message["headers"] += _RAW_HEADERS
                await send(message)

            try:
                self._admit(Asked.of(scope))
                with self._entered(scope["path"]):
                    body = Body(receive, self.settings.max_body, self.settings.timeout_s)
                    await self.app(scope, body.receive, sending)
            except Refusal as refusal:
                await response(refusal)(scope, receive, sending)

    def _admit(self, asked: Asked) -> None:
        check_host(asked.host, self.settings.hosts)
        check_origin(asked.origin, asked.host)
        try:
            name = self._key_of(asked)
        except Refusal:
            self._limit(f"client {asked.client}")
            raise
        self._limit(f"key {name}" if name else f"client {asked.client}")
        check_length(asked.length, self.settings.max_body)

    def _limit(self, client: str) -> None:
        wait_s = self.rates.wait_s(client, time.monotonic())
        if wait_s:
            message = f"more than {self.settings.rate:g} requests a second; come back in {wait_s} s"
            raise Refusal(429, "TooManyRequests", message, {"Retry-After": str(wait_s)})

    def _key_of(self, asked: Asked) -> str | None:
        """The name of the request's key, None where it needs none. Of two keys, both must be valid."""
        if asked.path in OPEN or asked.path.startswith(STATIC):
            return None
        try:
            if not self.keys.demanded():
                return None
            names = [self.keys.name_of(token) for token in asked.tokens]
        except SettingsError as error:
            raise later("KeysUnreadable", str(error)) from error
        if not names or None in names:
            what = "the API key is not valid (any more)" if asked.tokens else "an API key is needed"
            message = f"{what}; send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Refusal(401, "NoKey", message, {"WWW-Authenticate": "Bearer"})
        return names[0]

    @contextmanager
    def _entered(self, path: str) -> Iterator[None]:
        """Count a request that asks TorchServe or the disk. Raises Refusal where there are too many."""
        if path in OPEN or path.startswith(STATIC):
            yield
            return
        if self.inside >= self.settings.in_flight:
            raise later("Overloaded", f"{self.inside} requests are being answered, no more are taken; try again")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Raises Refusal for a name that the gateway is not called by. An address needs no name, so it is none of those."""
    name = hostname(host)
    if name not in allowed and not is_address(name):
        message = f"the request is for {host[:100]!r}; list that name in BINWATCH_GATEWAY_HOSTS if it is right"
        raise Refusal(421, "WrongHost", message)


def check_origin(origin: str | None, host: str) -> None:
    """Raises Refusal for what a page of another site sent."""
    if origin is None:
        return
    try:
        own = hmac.compare_digest(urlsplit(origin).netloc.lower().encode(), host.lower().encode())
    except ValueError:
        own = False
    if not own:
        raise Refusal(403, "WrongOrigin", f"a page of {origin[:100]!r} may not use this address")


def check_length(length: int, limit: int) -> None:
    """Raises Refusal for a body of more than ``limit`` bytes."""
    if length > limit:
        message = f"the body has {length} bytes; at most {limit} are taken. Send a smaller photo"
        raise Refusal(413, "TooLarge", message)


def hostname(host: str) -> str:
    """The name or address in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


class Body:
    """A request's body of at most ``limit`` bytes, which must be here within ``timeout_s`` of its first reading."""

    def __init__(self, receive: Receive, limit: int, timeout_s: float) -> None:
        self._receive, self._limit, self._timeout_s = receive, limit, timeout_s
        self._length, self._deadline, self._whole = 0, 0.0, False

    async def receive(self) -> Message:
        """The next piece. Raises Refusal."""
        if self._whole:
            return await self._receive()  # waits for the client to go
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            text = f"the body was not here within {self._timeout_s:g} s; send a smaller photo"
            raise Refusal(408, "TooSlow", text) from error
        self._length += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        check_length(self._length, self._limit)
        return message


class Rates:
    """Token buckets: each client has a second's worth of requests, refilled all the time; the last 1024 clients."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str, now: float) -> int:
        """0 lets the request in; else the seconds after which one gets in."""
        if not self.rate:
            return 0
        most = max(self.rate, 1.0)
        left, then = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - then) * self.rate)
        enough = left >= 1
        self._buckets[client] = (left - enough, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if enough else max(1, round((1 - left) / self.rate))
