"""Sends requests to TorchServe's inference API and maps its errors to those of the gateway.

https://pytorch.org/serve/inference_api.html
"""

import asyncio

import httpx

from serve.gateway.metrics import Metrics
from serve.gateway.parsing import ModelRequest
from serve.gateway.refusal import PASS_THROUGH, parse_object, retry_later, to_refusal
from serve.gateway.settings import GatewaySettings

PATH = "/predictions/bin-counter"
CONNECT_S = 5.0


def http_client(settings: GatewaySettings) -> httpx.AsyncClient:
    """The process's HTTP client. It ignores proxies that the environment sets: TorchServe is on the local network."""
    limits = httpx.Limits(max_connections=settings.in_flight + 1, max_keepalive_connections=settings.in_flight)
    timeout = httpx.Timeout(settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s))
    return httpx.AsyncClient(base_url=settings.inference_url, limits=limits, timeout=timeout, trust_env=False)


class TorchServe:
    """The champion in TorchServe, whichever version it is. ``timeout_s``: limit for a complete answer."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float, metrics: Metrics) -> None:
        self._http, self._timeout_s, self._metrics = http, timeout_s, metrics

    async def predict(self, request: ModelRequest, timeout_s: float | None = None) -> dict[str, object]:
        """The model's answer. Raises Refusal."""
        timeout_s = timeout_s or self._timeout_s
        answer: dict[str, object] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.post(PATH, content=request.body, headers=request.headers)
            answer = parse_object(response.content)
            refusal = to_refusal(response.status_code, answer)
        except (TimeoutError, httpx.TimeoutException):
            message = f"TorchServe did not answer within {timeout_s:g} s; it may be overloaded"
            refusal = retry_later("TimedOut", message)
        except httpx.HTTPError as error:
            refusal = retry_later("Down", f"TorchServe does not answer ({type(error).__name__}); is it running?")
        if refusal is None:
            return answer or {}
        if refusal.status not in PASS_THROUGH:
            self._metrics.torchserve_error(refusal.kind)
        raise refusal
