"""Admission control: ASGI middleware around all routes.

It checks, in this order: the Host header (against DNS rebinding, where a foreign name points to this address), the
Origin header (pages of other sites can send requests, though they cannot read the answers), the API key, the client's
rate, the number of requests in flight, and the size and duration of the body.
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
from serve.gateway.schemas import Refusal, error_response, retry_later
from serve.gateway.settings import MAX_BODY, GatewaySettings, is_address

PUBLIC_PATHS = ("/", "/livez")
"""Paths that need no key, like the page's files: the page itself asks the user for the key."""
STATIC_PREFIX = "/static/"
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


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """What admission looks at. ``tokens``: the API keys sent; ``length``: of the body in bytes, as announced."""

    path: str
    host: str
    origin: str | None
    tokens: tuple[str, ...]
    length: int
    client: str

    @classmethod
    def from_scope(cls, scope: Scope) -> "RequestInfo":
        """Read it from an ASGI scope; of a header that occurs twice, the last one counts."""
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


class AdmissionMiddleware:
    """Refuses requests that may not enter, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, keys: Keys, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.rate_limiter = RateLimiter(settings.rate)
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with the reason why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.metrics.request(scope["path"]) as response:

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    response.status = message["status"]
                    names = {name for name, _ in message["headers"]}
                    if b"cache-control" not in names:
                        message["headers"].append((b"cache-control", b"no-store"))
                    message["headers"] += _RAW_HEADERS
                await send(message)

            try:
                self._admit(RequestInfo.from_scope(scope))
                with self._count_in_flight(scope["path"]):
                    body = LimitedBody(receive, MAX_BODY, self.settings.timeout_s)
                    await self.app(scope, body.receive, send_with_headers)
            except Refusal as refusal:
                await error_response(refusal)(scope, receive, send_with_headers)

    def _admit(self, request: RequestInfo) -> None:
        check_host(request.host, self.settings.hosts)
        check_origin(request.origin, request.host)
        try:
            name = self._key_name(request)
        except Refusal:
            self._check_rate(f"client {request.client}")  # slows down guessing of keys
            raise
        self._check_rate(f"key {name}" if name else f"client {request.client}")
        check_length(request.length, MAX_BODY)

    def _check_rate(self, client: str) -> None:
        wait_s = self.rate_limiter.wait_s(client, time.monotonic())
        if wait_s:
            message = f"more than {self.settings.rate:g} requests per second; retry in {wait_s} s"
            raise Refusal(429, "TooManyRequests", message, {"Retry-After": str(wait_s)})

    def _key_name(self, request: RequestInfo) -> str | None:
        """The name of the request's key, None if it needs none. If two keys are sent, both must be valid."""
        if _is_public(request.path):
            return None
        try:
            if not self.keys.required():
                return None
            names = [self.keys.name_of(token) for token in request.tokens]
        except SettingsError as error:
            raise retry_later("KeysUnreadable", str(error)) from error
        if not names or None in names:
            problem = "the API key is not valid" if request.tokens else "an API key is needed"
            message = f"{problem}; send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Refusal(401, "NoKey", message, {"WWW-Authenticate": "Bearer"})
        return names[0]

    @contextmanager
    def _count_in_flight(self, path: str) -> Iterator[None]:
        """Count a request that uses TorchServe or the disk. Raises Refusal if there are too many."""
        if _is_public(path):
            yield
            return
        if self.in_flight >= self.settings.in_flight:
            message = f"{self.in_flight} requests are in progress, which is the limit; try again"
            raise retry_later("Overloaded", message)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(STATIC_PREFIX)


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Raises Refusal for a host name that is not in ``allowed``. IP addresses pass: DNS rebinding needs a name."""
    name = hostname(host)
    if name not in allowed and not is_address(name):
        message = f"the request is for host {host[:100]!r}; if that is right, add it to BINWATCH_GATEWAY_HOSTS"
        raise Refusal(421, "WrongHost", message)


def check_origin(origin: str | None, host: str) -> None:
    """Raises Refusal for a request that a page of another site sent."""
    if origin is None:
        return
    try:
        same_site = hmac.compare_digest(urlsplit(origin).netloc.lower().encode(), host.lower().encode())
    except ValueError:
        same_site = False
    if not same_site:
        raise Refusal(403, "WrongOrigin", f"pages of {origin[:100]!r} may not send requests to this address")


def check_length(length: int, limit: int) -> None:
    """Raises Refusal for a body of more than ``limit`` bytes."""
    if length > limit:
        message = f"the body has {length} bytes, the limit is {limit}; send a smaller photo"
        raise Refusal(413, "TooLarge", message)


def hostname(host: str) -> str:
    """The name or address in a Host header, in lower case and without the port; empty if it cannot be read."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


class LimitedBody:
    """A request's body of at most ``limit`` bytes, which must arrive within ``timeout_s`` of the first read."""

    def __init__(self, receive: Receive, limit: int, timeout_s: float) -> None:
        self._receive, self._limit, self._timeout_s = receive, limit, timeout_s
        self._length, self._deadline, self._complete = 0, 0.0, False

    async def receive(self) -> Message:
        """The next ASGI message. Raises Refusal."""
        if self._complete:
            return await self._receive()  # waits until the client disconnects
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            text = f"the body did not arrive within {self._timeout_s:g} s; send a smaller photo"
            raise Refusal(408, "TooSlow", text) from error
        self._length += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        check_length(self._length, self._limit)
        return message


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
