"""Asks TorchServe's inference API, and says what its answers mean to a client.

https://pytorch.org/serve/inference_api.html
"""

import asyncio
from typing import Any

import httpx

from serve.gateway.metrics import Metrics
from serve.gateway.parsing import Question
from serve.gateway.refusal import PASSED_ON, later, meaning, parsed
from serve.gateway.settings import Settings

PATH = "/predictions/bin-counter"
CONNECT_S = 5.0


def client(settings: Settings) -> httpx.AsyncClient:
    """The one client of the process. A proxy that the environment names is not for this."""
    limits = httpx.Limits(max_connections=settings.in_flight + 1, max_keepalive_connections=settings.in_flight)
    timeout = httpx.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s))
    return httpx.AsyncClient(base_url=settings.inference_url, limits=limits, timeout=timeout, trust_env=False)


class TorchServe:
    """The champion, whatever version it is. ``timeout_s``: of a whole answer."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float, metrics: Metrics) -> None:
        self._http, self._timeout_s, self._metrics = http, timeout_s, metrics

    async def predict(self, question: Question, timeout_s: float | None = None) -> dict[str, Any]:
        """The answer of the worker. Raises Refusal."""
        timeout_s = timeout_s or self._timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.post(PATH, content=question.body, headers=question.headers)
            refusal = meaning(response.status_code, parsed(response.content))
        except (TimeoutError, httpx.TimeoutException):
            refusal = later("TimedOut", f"TorchServe did not answer within {timeout_s:g} s; it may be overloaded")
        except httpx.HTTPError as error:
            refusal = later("Down", f"TorchServe does not answer ({type(error).__name__}); is it running?")
        if refusal is None:
            return dict(parsed(response.content) or {})
        if refusal.status not in PASSED_ON:
            self._metrics.torchserve_error(refusal.kind)
        raise refusal
