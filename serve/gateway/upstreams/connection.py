"""Builds the way to TorchServe from the settings, and runs what goes on in the background."""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import httpx

from serve.gateway.health import PROBE_REQUEST
from serve.gateway.metrics import Metrics
from serve.gateway.settings import GatewaySettings
from serve.gateway.upstream import TorchServe
from serve.gateway.upstreams.discovery import Discovery
from serve.gateway.upstreams.routes_poll import RoutesPoll
from serve.gateway.upstreams.sender import Sender
from serve.gateway.upstreams.server_metrics import ServerMetrics
from serve.gateway.upstreams.server_pool import Address, ServerPool
from serve.gateway.upstreams.trial_traffic import MAX_COPIES, TrialTraffic

CONNECT_S = 5.0
PROBE_S, PROBE_TIMEOUT_S = 0.5, 5.0
CONTROL_TIMEOUT_S = 3.0
LOST_HOST_MS = 5000
"""A connection whose other end has acknowledged nothing for this time is lost, so that a host that has gone without a
word costs its requests seconds, not the whole timeout. A busy host acknowledges: its kernel does that."""
LOG = logging.getLogger(__name__)


def http_client(settings: GatewaySettings, connections: int, timeout_s: float) -> httpx.AsyncClient:
    """An HTTP client. It ignores proxies that the environment sets: TorchServe is on the local network.

    A connection to one of several servers has a second to be opened: there are others.
    """
    is_single = len(settings.inference_urls) == 1 and settings.promoter_url is None
    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S if is_single else 1.0, timeout_s))
    limits = httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections)
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False, socket_options=_keep_alive())
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


def _keep_alive() -> list[tuple[int, int, int]]:
    """The socket's options by which LOST_HOST_MS is held; empty on systems that lack them."""
    values = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": LOST_HOST_MS}
    if not all(hasattr(socket, name) for name in values):
        return []
    options = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in values.items()]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


@asynccontextmanager
async def connect(settings: GatewaySettings, metrics: Metrics) -> AsyncIterator[TorchServe]:
    """TorchServe as the gateway sees it, for as long as the context lasts."""
    server_metrics, rng = ServerMetrics(metrics.registry), random.Random()
    pool = ServerPool((Address(url=url) for url in settings.inference_urls), server_metrics, rng)
    async with (
        http_client(settings, settings.in_flight, settings.timeout_s) as http,
        http_client(settings, MAX_COPIES, settings.timeout_s) as copies_http,
        http_client(settings, 8, CONTROL_TIMEOUT_S) as control,
    ):
        sender = Sender(http, pool, server_metrics)
        copies = Sender(copies_http, pool, server_metrics)
        trial_traffic = TrialTraffic(sender, copies, server_metrics, settings.timeout_s)
        poll = RoutesPoll(control, settings.promoter_url, pool, trial_traffic)
        discovery = Discovery(settings.inference_urls, pool)
        work = [
            poll.run(),
            discovery.run(is_needed=lambda: poll.routes is None),
            _probe(Sender(control, pool, server_metrics), pool),
        ]
        async with _background(work):
            try:
                yield TorchServe(sender, poll, trial_traffic, rng, metrics, settings.timeout_s)
            finally:
                await trial_traffic.close()


async def _probe(sender: Sender, pool: ServerPool) -> None:
    """Bring servers back that answer again. A single one is tried by the next request."""
    while True:
        await asyncio.sleep(PROBE_S)
        if len(pool.servers) > 1:
            await sender.probe(PROBE_REQUEST, PROBE_TIMEOUT_S)


@asynccontextmanager
async def _background(work: list[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run all of ``work`` until the context ends. Whatever ends by an error is logged with its traceback."""
    tasks = [asyncio.create_task(part) for part in work]
    for task in tasks:
        task.add_done_callback(_log_error)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_error(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        LOG.error("work in the background has ended", exc_info=error)
