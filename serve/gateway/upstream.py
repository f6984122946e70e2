"""The model as the routes ask it: the champion, and in a trial a challenger for a share of the photos.

https://pytorch.org/serve/inference_api.html
"""

import random

from serve.gateway.metrics import Metrics
from serve.gateway.parsing import ModelRequest
from serve.gateway.refusal import parse_object, to_refusal
from serve.gateway.upstreams.routes_poll import RoutesPoll
from serve.gateway.upstreams.sender import PATH, Reply, Sender
from serve.gateway.upstreams.trial_traffic import TrialTraffic

__all__ = ["PATH", "TorchServe"]


class TorchServe:
    """The model in TorchServe, on one server or several. ``timeout_s``: limit for a complete answer."""

    def __init__(
        self,
        sender: Sender,
        poll: RoutesPoll,
        trial_traffic: TrialTraffic,
        rng: random.Random,
        metrics: Metrics,
        timeout_s: float,
    ) -> None:
        self._sender, self._poll, self._trial_traffic, self._rng = sender, poll, trial_traffic, rng
        self._metrics, self._timeout_s = metrics, timeout_s

    async def predict(self, request: ModelRequest) -> dict[str, object]:
        """The model's answer. Raises Refusal."""
        return self._one_answer(await self._ask(request))

    async def predict_any(self, request: ModelRequest) -> bytes:
        """The model's answer as TorchServe wrote it, a list for a request with a list of photos. Raises Refusal."""
        return self._checked(await self._ask(request)).content

    async def ask_champion(self, request: ModelRequest, timeout_s: float) -> dict[str, object]:
        """The champion's answer, also during a trial. Raises Refusal."""
        return self._one_answer(await self._sender.send(request, self._poll.champion, timeout_s))

    async def _ask(self, request: ModelRequest) -> Reply:
        routes = self._poll.routes
        if routes and routes.trial and self._rng.random() < routes.trial.share:
            return await self._trial_traffic.ask(request, routes.champion, routes.trial)
        return await self._sender.send(request, self._poll.champion, self._timeout_s)

    def _one_answer(self, reply: Reply) -> dict[str, object]:
        answer = parse_object(self._checked(reply).content)
        if refusal := to_refusal(200, answer):
            raise refusal
        return answer or {}

    def _checked(self, reply: Reply) -> Reply:
        if reply.failure and reply.refusal:
            self._metrics.torchserve_error(reply.refusal.kind)
        if reply.refusal:
            raise reply.refusal
        return reply
