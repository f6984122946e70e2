"""Sends requests to TorchServe's inference API and maps its errors to those of the gateway.

https://pytorch.org/serve/inference_api.html
"""

import asyncio

import httpx

from serve.gateway.metrics import Metrics
from serve.gateway.parsing import ModelRequest
from serve.gateway.refusal import PASS_THROUGH, Refusal, parse_object, retry_later, to_refusal
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
        response = await self._post(request, timeout_s or self._timeout_s)
        return self._checked(response.status_code, parse_object(response.content))

    async def predict_any(self, request: ModelRequest) -> bytes:
        """The model's answer as TorchServe wrote it, a list for a request with a list of photos. Raises Refusal."""
        response = await self._post(request, self._timeout_s)
        if response.status_code != 200 or response.content[:1] != b"[":
            self._checked(response.status_code, parse_object(response.content))
        return response.content

    async def _post(self, request: ModelRequest, timeout_s: float) -> httpx.Response:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._http.post(PATH, content=request.body, headers=request.headers)
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"TorchServe did not answer within {timeout_s:g} s; it may be overloaded"
            raise self._counted(retry_later("TimedOut", message)) from error
        except httpx.HTTPError as error:
            message = f"TorchServe does not answer ({type(error).__name__}); is it running?"
            raise self._counted(retry_later("Down", message)) from error

    def _checked(self, status: int, answer: dict[str, object] | None) -> dict[str, object]:
        refusal = to_refusal(status, answer)
        if refusal is None:
            return answer or {}
        raise refusal if refusal.status in PASS_THROUGH else self._counted(refusal)

    def _counted(self, refusal: Refusal) -> Refusal:
        self._metrics.torchserve_error(refusal.kind)
        return refusal
