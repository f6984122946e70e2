"""Asks the promoter which servers and versions answer, and tells it how a trial goes."""

import asyncio
import logging
import socket
from uuid import uuid4

import httpx

from serve.gateway.upstreams.server_pool import Address, ServerPool
from serve.gateway.upstreams.trial_traffic import TrialTraffic
from serve.routing.comparison import REPORT, Report
from serve.routing.route_table import ROUTES, Routes

POLL_S = 1.0
HOST = "serve"
"""The Host header: an archive's handler refuses a name with a dot, such as that of a Docker Swarm task."""
LOG = logging.getLogger(__name__)


class RoutesPoll:
    """The last routes of the promoter at ``url``; they stay while it is away. None before the first, and without it."""

    def __init__(self, http: httpx.AsyncClient, url: str | None, pool: ServerPool, trial_traffic: TrialTraffic) -> None:
        self._http, self._url, self._pool, self._trial_traffic = http, url, pool, trial_traffic
        self._gateway = f"{socket.gethostname()}-{uuid4().hex[:12]}"
        self._is_away = False
        self.routes: Routes | None = None

    @property
    def champion(self) -> str:
        """The version that answers; empty for TorchServe's default."""
        return self.routes.champion if self.routes else ""

    async def run(self) -> None:
        """Poll for ever; return at once without a promoter."""
        while self._url:
            await self.poll()
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Report, and take over the routes that come back. A promoter that knows no champion yet has none."""
        report = REPORT.dump_json(Report(gateway=self._gateway, comparison=self._trial_traffic.comparison))
        try:
            headers = {"Content-Type": "application/json"}
            response = await self._http.post(f"{self._url}/routes", content=report, headers=headers)
            if response.status_code not in (404, 503):
                self._follow(ROUTES.validate_json(response.raise_for_status().content))
            self._note("")
        except (httpx.HTTPError, ValueError) as error:  # of the latter, what pydantic says of the answer
            self._note(f"{type(error).__name__}: {error}")

    def _follow(self, routes: Routes) -> None:
        self.routes = routes
        self._pool.update(Address(url=url.rstrip("/"), host=HOST) for url in routes.servers)
        self._trial_traffic.begin(routes.trial)

    def _note(self, problem: str) -> None:
        """Log once that the promoter is away, and once that it is back."""
        if problem and not self._is_away:
            LOG.warning("the promoter at %s does not say who answers (%s); the last routes stay", self._url, problem)
        elif not problem and self._is_away:
            LOG.warning("the promoter at %s is back", self._url)
        self._is_away = bool(problem)
