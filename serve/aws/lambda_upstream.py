"""The model server behind the Lambda function, a SageMaker endpoint or your own TorchServe, and what its errors mean.

    BINWATCH_ENDPOINT_NAME    the SageMaker endpoint
    BINWATCH_INFERENCE_URL    instead of it: TorchServe's inference API, as for the gateway
    BINWATCH_TIMEOUT_S        timeout of one answer, 25 s; must be below the Lambda function's own

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from serve.aws.lambda_event import JSON, ModelRequest, to_model_request, to_response
from serve.errors import SettingsError
from serve.gateway.refusal import Refusal, parse_object, retry_later, to_refusal
from serve.payload import ATTRIBUTES

TIMEOUT_S = 25.0
_PATH = "/predictions/bin-counter"
_THROTTLING = {"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"}
_NOT_READY = {"ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException"}


class Upstream(Protocol):
    """A model server."""

    def invoke(self, request: ModelRequest) -> tuple[int, bytes]:
        """Status and body of the model server's answer. Raises Refusal if it does not answer."""


@dataclass(frozen=True)
class TorchServeUpstream:
    """Your own TorchServe. ``timeout_s``: between two reads of an answer."""

    url: str
    timeout_s: float

    def invoke(self, request: ModelRequest) -> tuple[int, bytes]:
        """POST the request, without the proxy that the environment may set. Raises Refusal."""
        headers = {"Content-Type": request.content_type} | (
            {ATTRIBUTES: request.attributes} if request.attributes else {}
        )
        http_request = Request(self.url + _PATH, request.body, headers, method="POST")
        try:
            with build_opener(ProxyHandler({})).open(http_request, timeout=self.timeout_s) as answer:
                return int(answer.status), answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()
        except TimeoutError as error:
            raise _timed_out("TorchServe", self.timeout_s) from error
        except (URLError, HTTPException, OSError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _timed_out("TorchServe", self.timeout_s) from error
            message = f"TorchServe does not answer ({type(error).__name__}); is it running?"
            raise retry_later("Down", message) from error


@dataclass(frozen=True)
class EndpointUpstream:
    """A SageMaker endpoint. ``client``: boto3's client for sagemaker-runtime."""

    name: str
    client: Any
    timeout_s: float

    def invoke(self, request: ModelRequest) -> tuple[int, bytes]:
        """Invoke the endpoint. Errors of its container are returned; errors of SageMaker are raised as Refusal."""
        from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

        attributes = {"CustomAttributes": request.attributes} if request.attributes else {}
        try:
            answer = self.client.invoke_endpoint(
                EndpointName=self.name, Body=request.body, ContentType=request.content_type, Accept=JSON, **attributes
            )
            return 200, answer["Body"].read()
        except ClientError as error:
            return self._container_answer(error.response)
        except (ReadTimeoutError, ConnectTimeoutError) as error:
            raise _timed_out(f"the endpoint {self.name}", self.timeout_s) from error
        except BotoCoreError as error:
            message = f"the endpoint {self.name} does not answer ({type(error).__name__}); is the region right?"
            raise retry_later("Down", message) from error

    def _container_answer(self, error: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and body of the container's answer in an error response. Raises Refusal if SageMaker failed."""
        code, message = (str(error.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
        if code == "ModelError":
            if "timed out" in message:
                raise _timed_out(f"the container of {self.name}", self.timeout_s)
            return int(error.get("OriginalStatusCode") or 500), str(error.get("OriginalMessage", "")).encode()
        raise sagemaker_refusal(self.name, code, message)


def sagemaker_refusal(endpoint: str, code: str, message: str) -> Refusal:
    """What an error of SageMaker itself, not of the container, means to a client."""
    if code in _THROTTLING:
        text = f"SageMaker is throttling requests for {endpoint} ({code}); try again"
        return retry_later("Throttled", text, status=429)
    if code in _NOT_READY:
        return retry_later("Overloaded", f"the endpoint {endpoint} is not ready ({code}); try again", 10)
    if code in ("ValidationError", "ValidationException"):
        if "not found" in message:
            return retry_later("NoModel", f"there is no endpoint {endpoint} yet; deploy one", 10)
        return Refusal(400, "BadRequest", f"SageMaker rejects the request: {message[:300]}")
    if code in ("AccessDeniedException", "AccessDenied"):
        text = f"the Lambda function's role lacks the permission sagemaker:InvokeEndpoint for {endpoint}"
        return Refusal(502, "Failed", text)
    return Refusal(502, "Failed", f"SageMaker failed at {endpoint} ({code or 'without an error code'}); see its log")


def _timed_out(server: str, timeout_s: float) -> Refusal:
    text = f"{server} did not answer within {timeout_s:g} s; it may be overloaded"
    return retry_later("TimedOut", text, status=504)


def connect(environ: Mapping[str, str]) -> Upstream:
    """The model server that the environment names. Raises SettingsError."""
    name, url = (environ.get(key, "").strip() for key in ("BINWATCH_ENDPOINT_NAME", "BINWATCH_INFERENCE_URL"))
    if bool(name) == bool(url):
        raise SettingsError(f"BINWATCH_ENDPOINT_NAME is {name!r} and BINWATCH_INFERENCE_URL {url!r}; set one of them")
    if url and not url.startswith(("http://", "https://")):
        raise SettingsError(f"BINWATCH_INFERENCE_URL is {url!r}; give TorchServe's address, as http://10.0.0.5:8080")
    timeout_s = _seconds(environ.get("BINWATCH_TIMEOUT_S", "").strip() or str(TIMEOUT_S))
    if url:
        return TorchServeUpstream(url.rstrip("/"), timeout_s)
    return EndpointUpstream(name, _sagemaker_client(timeout_s), timeout_s)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 900:
        raise SettingsError(f"BINWATCH_TIMEOUT_S is {text!r}; give seconds, above 0 and up to 900")
    return seconds


def _sagemaker_client(timeout_s: float) -> Any:
    """A client without retries: they would outlast the Lambda function, and the caller can retry."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=min(5.0, timeout_s), read_timeout=timeout_s, retries={"total_max_attempts": 1})
    return boto3.client("sagemaker-runtime", config=config)


def handle(event: object, upstream: Upstream) -> dict[str, object]:
    """The response to an event: the model's answer, or an error as ``{"code", "type", "message"}``."""
    try:
        status, body = upstream.invoke(to_model_request(event))
        content = parse_object(body)
        if content is None and status == 200 and body.lstrip()[:1] == b"[":
            return to_response(status, json.loads(body))  # the request was a list of photos
        server = "the endpoint" if isinstance(upstream, EndpointUpstream) else "TorchServe"
        refusal = to_refusal(status, content, server)
    except Refusal as error:
        refusal = error
    return to_response(200, content) if refusal is None else to_response(refusal.status, refusal.body, refusal.headers)
