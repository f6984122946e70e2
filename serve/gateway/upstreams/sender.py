"""Sends a request to one of the servers, and again to another one where it was lost: predictions change nothing."""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from serve.gateway.parsing import ModelRequest
from serve.gateway.refusal import Refusal, parse_object, retry_later, to_refusal
from serve.gateway.upstreams.server_metrics import ServerMetrics
from serve.gateway.upstreams.server_pool import ModelServer, ServerPool

PATH = "/predictions/bin-counter"
RETRIES = {"Down": 2, "Unreachable": 2, "Overloaded": 1, "Failed": 1, "NoModel": 2, "TimedOut": 0}
"""How often a request that failed is sent to another server, by the kind of the failure. Where a worker may have died
of the photo, not more than once: a photo that kills workers does not go round all servers."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of a request. ``refusal``: None for an answer with a count.

    ``failure``: the kind of the error where the server is at fault, not the photo; ``seconds``: the last server took.
    """

    content: bytes = b""
    refusal: Refusal | None = None
    failure: str = ""
    seconds: float = 0.0


class Sender:
    """Sends requests through ``http`` to the servers of a pool."""

    def __init__(self, http: httpx.AsyncClient, pool: ServerPool, metrics: ServerMetrics) -> None:
        self._http, self._pool, self._metrics = http, pool, metrics

    async def send(self, request: ModelRequest, version: str, timeout_s: float, exact: bool = False) -> Reply:
        """The reply of the first server that answers within ``timeout_s``, else of the last one that was tried.

        ``version``: empty for TorchServe's default. Where a server does not have it, the default is asked for, which is
        a newer champion; not so if ``exact``, as for a challenger, whose errors are not held against servers either.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        tried: list[ModelServer] = []
        while True:
            server = self._pool.pick(tried) or self._pool.servers[0]
            reply = await self._attempt(server, request, version, deadline_s)
            self._account(server, version, reply, exact)
            if version and not exact and reply.failure == "NoModel":
                version = ""
                continue
            tried.append(server)
            if not reply.failure or len(tried) > RETRIES[reply.failure] or self._pool.pick(tried) is None:
                return _within(reply, timeout_s)
            self._metrics.retry(reply.failure)

    async def probe(self, request: ModelRequest, timeout_s: float) -> None:
        """Ask each server that is out and should be tried again; one that answers is back."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        servers = self._pool.due()
        replies = await asyncio.gather(*(self._attempt(server, request, "", deadline_s) for server in servers))
        for server, reply in zip(servers, replies, strict=True):
            self._account(server, "", reply, exact=False)

    async def _attempt(self, server: ModelServer, request: ModelRequest, version: str, deadline_s: float) -> Reply:
        url = f"{server.address.url}{PATH}" + (f"/{quote(version, safe='')}" if version else "")
        headers = request.headers | ({"Host": server.address.host} if server.address.host else {})
        start = time.perf_counter()
        with self._pool.busy(server):
            try:
                async with asyncio.timeout_at(deadline_s):
                    response = await self._http.post(url, content=request.body, headers=headers)
            except httpx.ConnectTimeout:
                return Reply(failure="Unreachable", seconds=time.perf_counter() - start)
            except (TimeoutError, httpx.TimeoutException):
                return Reply(failure="TimedOut", seconds=time.perf_counter() - start)
            except httpx.HTTPError as error:
                message = f"TorchServe does not answer ({type(error).__name__}); is it running?"
                refusal = retry_later("Down", message)
                return Reply(failure="Down", refusal=refusal, seconds=time.perf_counter() - start)
        return _read(response, time.perf_counter() - start)

    def _account(self, server: ModelServer, version: str, reply: Reply, exact: bool) -> None:
        if server in self._pool.servers:
            self._metrics.request(server.label, version, reply.failure)
        if not exact or reply.failure in ("Down", "Unreachable"):
            self._pool.record(server, failed=bool(reply.failure))


def _read(response: httpx.Response, seconds: float) -> Reply:
    content = response.content
    if response.status_code == 200 and content[:1] == b"[":
        return Reply(content=content, seconds=seconds)
    refusal = to_refusal(response.status_code, parse_object(content))
    failure = refusal.kind if refusal and refusal.kind in RETRIES else ""
    return Reply(content=content, refusal=refusal, failure=failure, seconds=seconds)


def _within(reply: Reply, timeout_s: float) -> Reply:
    """``reply`` with an error where no server answered in time."""
    if reply.refusal is not None or reply.failure not in ("TimedOut", "Unreachable"):
        return reply
    message = f"TorchServe did not answer within {timeout_s:g} s; it may be overloaded"
    return Reply(failure=reply.failure, refusal=retry_later("TimedOut", message), seconds=reply.seconds)
