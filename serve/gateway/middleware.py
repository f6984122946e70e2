"""Admission control: ASGI middleware around all routes.

It checks, in this order: that nothing is sent twice, the Host header (against DNS rebinding, where a foreign name
points to this address), Origin and Sec-Fetch-Site (pages of other sites can send requests, though they cannot read the
answers), the API key, the client's rate, its share of the requests in progress, and the size and duration of the body.
Checks of health are neither limited in their rate nor counted as requests in progress.
"""

import asyncio
import hmac
import time
from collections import Counter as Tally
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import SettingsError
from serve.gateway.clients import RateLimiter, Slots, client_address, forwarded_address
from serve.gateway.keys import Keys
from serve.gateway.metrics import Metrics
from serve.gateway.protocol import PROXY
from serve.gateway.schemas import Refusal, error_response, retry_later
from serve.gateway.settings import MAX_BODY, GatewaySettings, is_address

PUBLIC_PATHS = ("/", "/livez")
"""Paths that need no key, like the page's files: the page itself asks the user for the key."""
STATIC_PREFIX = "/static/"
HEALTH_PATHS = ("/livez", "/healthz", "/ping")
KEY_NAME = "binwatch.key"
"""Where the ASGI scope of a request has the name of its API key, empty if it needs none."""
SINGLE_HEADERS = frozenset(
    {
        "authorization",
        "content-length",
        "content-type",
        "host",
        "origin",
        "sec-fetch-mode",
        "sec-fetch-site",
        "x-amzn-sagemaker-custom-attributes",
        "x-api-key",
    }
)
"""Headers that are looked at, so that it matters which of two counts."""
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
    """What admission looks at.

    ``repeated``: names that headers or query have twice; ``site``: whose page sent it, in the browser's words;
    ``link``: whether it is a link that a user followed; ``tokens``: the API keys sent; ``length``: of the body in
    bytes, as announced; ``proxied``: whether it came through the TLS proxy, and so perhaps from another machine.
    """

    path: str
    repeated: tuple[str, ...]
    host: str
    origin: str | None
    site: str
    link: bool
    tokens: tuple[str, ...]
    length: int
    client: str
    proxied: bool

    @classmethod
    def from_scope(cls, scope: Scope) -> "RequestInfo":
        """Read it from an ASGI scope."""
        pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = dict(pairs)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        proxied = scope.get("server") == PROXY
        forwarded = forwarded_address(headers.get("x-forwarded-for", ""))
        return cls(
            path=scope["path"],
            repeated=_repeated_names((name for name, _ in pairs), scope["query_string"]),
            host=headers.get("host", ""),
            origin=headers.get("origin"),
            site=headers.get("sec-fetch-site", ""),
            link=scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate",
            tokens=tuple(
                filter(None, (headers.get("x-api-key"), bearer.strip() if scheme.lower() == "bearer" else ""))
            ),
            length=int(headers.get("content-length", 0)),
            client=forwarded if proxied else client_address(scope.get("client")),
            proxied=proxied,
        )


def _repeated_names(headers: Iterable[str], query: bytes) -> tuple[str, ...]:
    tallies = (
        Tally(name for name in headers if name in SINGLE_HEADERS),
        Tally(name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)),
    )
    return tuple(name for tally in tallies for name, number in tally.items() if number > 1)


class AdmissionMiddleware:
    """Refuses requests that may not enter, and adds the security headers to every response."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, keys: Keys, metrics: Metrics) -> None:
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.rate_limiter, self.slots = RateLimiter(settings.rate), Slots(settings.in_flight)

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
                client, scope[KEY_NAME] = self._admit(RequestInfo.from_scope(scope))
                body = LimitedBody(receive, MAX_BODY, self.settings.timeout_s)
                with self._in_progress(scope["path"], client, body):
                    await self.app(scope, body.receive, send_with_headers)
            except Refusal as refusal:
                await error_response(refusal)(scope, receive, send_with_headers)

    def _admit(self, request: RequestInfo) -> tuple[str, str]:
        """The client that the request counts for, and the name of its key, empty without one. Raises Refusal."""
        check_repeated(request.repeated)
        check_host(request.host, self.settings.hosts)
        check_origin(request.origin, request.host, ("https",) if request.proxied else ("http", "https"))
        check_site(request.site, request.link)
        client = f"client {request.client}"
        try:
            name = self._key_name(request)
        except Refusal:
            self._check_rate(client)  # slows down guessing of keys
            raise
        client = f"key {name}" if name else client
        if request.path not in HEALTH_PATHS:
            self._check_rate(client)
        check_length(request.length, MAX_BODY)
        return client, name or ""

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
            if not self.keys.required() and not request.proxied:
                return None
            names = [self.keys.name_of(token) for token in request.tokens]
        except SettingsError as error:
            raise retry_later("KeysUnreadable", str(error)) from error
        if not names or None in names:
            problem = "the API key is not valid" if request.tokens else "an API key is needed"
            message = f"{problem}; send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise Refusal(401, "NoKey", message, {"WWW-Authenticate": "Bearer"})
        return names[0]

    def _in_progress(self, path: str, client: str, body: "LimitedBody") -> AbstractContextManager[None]:
        """Count a request that uses TorchServe or the disk. Raises Refusal if there are too many."""
        return (
            nullcontext()
            if _is_public(path) or path in HEALTH_PATHS
            else self.slots.hold(client, body, time.monotonic())
        )


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(STATIC_PREFIX)


def check_repeated(names: tuple[str, ...]) -> None:
    """Raises Refusal for a request that has something twice: which of the two would count?"""
    if names:
        shown = ", ".join(name[:60] for name in names[:5])
        raise Refusal(422, "BadField", f"the headers or the query have {shown} more than once; give each once")


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Raises Refusal for a host name that is not in ``allowed``. IP addresses pass: DNS rebinding needs a name."""
    name = hostname(host)
    if name not in allowed and not is_address(name):
        message = f"the request is for host {host[:100]!r}; if that is right, add it to BINWATCH_GATEWAY_HOSTS"
        raise Refusal(421, "WrongHost", message)


def check_origin(origin: str | None, host: str, schemes: tuple[str, ...] = ("http", "https")) -> None:
    """Raises Refusal for a request that a page of another site sent, or of this one without TLS where there is TLS."""
    if origin is None:
        return
    try:
        site = urlsplit(origin)
        same_site = site.scheme in schemes and hmac.compare_digest(site.netloc.lower().encode(), host.lower().encode())
    except ValueError:
        same_site = False
    if not same_site:
        raise Refusal(403, "WrongOrigin", f"pages of {origin[:100]!r} may not send requests to this address")


def check_site(site: str, link: bool) -> None:
    """Raises Refusal for a request that a page of another site sent, unless a user followed a link to a page."""
    if site not in ("", "none", "same-origin") and not link:
        raise Refusal(403, "WrongOrigin", f"pages of another site ({site[:20]}) may not send requests to this address")


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
        self._timeout: asyncio.Timeout | None = None

    @property
    def arriving(self) -> bool:
        """Whether its end is still waited for."""
        return bool(self._deadline) and not self._complete

    def give_up(self) -> None:
        """Wait no longer."""
        self._deadline = asyncio.get_running_loop().time()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._deadline)

    async def receive(self) -> Message:
        """The next ASGI message. Raises Refusal."""
        if self._complete:
            return await self._receive()  # waits until the client disconnects
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                message = await self._receive()
        except TimeoutError as error:
            text = f"the body did not arrive within {self._timeout_s:g} s, or others had to wait; send a smaller photo"
            raise Refusal(408, "TooSlow", text) from error
        finally:
            self._timeout = None
        self._length += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        check_length(self._length, self._limit)
        return message
