"""Whom the Lambda asks: a SageMaker endpoint, or a TorchServe of one's own; and what their answers mean to a client.

    BINWATCH_ENDPOINT_NAME    the SageMaker endpoint
    BINWATCH_INFERENCE_URL    instead: TorchServe's inference API, as for the gateway
    BINWATCH_TIMEOUT_S        of one answer, 25: less than the Lambda's own

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from serve.aws.lambda_event import JSON, Question, question, response
from serve.errors import SettingsError
from serve.gateway.refusal import Refusal, later, meaning, parsed
from serve.payload import ATTRIBUTES

TIMEOUT_S = 25.0
_PATH = "/predictions/bin-counter"
_BUSY = {"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"}
_NOT_YET = {"ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException"}


class Upstream(Protocol):
    """Who is asked."""

    def ask(self, asked: Question) -> tuple[int, bytes]:
        """Status and body of the model's server. Raises Refusal where it does not answer."""


@dataclass(frozen=True)
class TorchServe:
    """A TorchServe of one's own. ``timeout_s``: between two pieces of an answer."""

    url: str
    timeout_s: float

    def ask(self, asked: Question) -> tuple[int, bytes]:
        """No proxy that the environment names is for this."""
        headers = {"Content-Type": asked.content_type} | ({ATTRIBUTES: asked.attributes} if asked.attributes else {})
        request = Request(self.url + _PATH, asked.body, headers, method="POST")
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=self.timeout_s) as answer:
                return int(answer.status), answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()
        except TimeoutError as error:
            raise _late("TorchServe", self.timeout_s) from error
        except (URLError, HTTPException, OSError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _late("TorchServe", self.timeout_s) from error
            raise later("Down", f"TorchServe does not answer ({type(error).__name__}); is it running?") from error


@dataclass(frozen=True)
class Endpoint:
    """A SageMaker endpoint; ``client``: boto3's of sagemaker-runtime."""

    name: str
    client: Any
    timeout_s: float

    def ask(self, asked: Question) -> tuple[int, bytes]:
        """An error of the container is its own answer; one of SageMaker is a Refusal."""
        from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

        attributes = {"CustomAttributes": asked.attributes} if asked.attributes else {}
        try:
            answer = self.client.invoke_endpoint(
                EndpointName=self.name, Body=asked.body, ContentType=asked.content_type, Accept=JSON, **attributes
            )
            return 200, answer["Body"].read()
        except ClientError as error:
            return self._refused(error.response)
        except (ReadTimeoutError, ConnectTimeoutError) as error:
            raise _late(f"the endpoint {self.name}", self.timeout_s) from error
        except BotoCoreError as error:
            reason = f"the endpoint {self.name} does not answer ({type(error).__name__}); is there such a region?"
            raise later("Down", reason) from error

    def _refused(self, answer: Mapping[str, Any]) -> tuple[int, bytes]:
        code, message = (str(answer.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
        if code == "ModelError":
            if "timed out" in message:
                raise _late(f"the container of {self.name}", self.timeout_s)
            return int(answer.get("OriginalStatusCode") or 500), str(answer.get("OriginalMessage", "")).encode()
        raise of_sagemaker(self.name, code, message)


def of_sagemaker(name: str, code: str, message: str) -> Refusal:
    """What an error of SageMaker itself, not of the model in it, is to a client."""
    if code in _BUSY:
        return later("Throttled", f"SageMaker takes no more requests for {name} now ({code}); try again", status=429)
    if code in _NOT_YET:
        return later("Overloaded", f"the endpoint {name} is not ready ({code}); try again", 10)
    if code in ("ValidationError", "ValidationException"):
        if "not found" in message:
            return later("NoModel", f"there is no endpoint {name} yet; deploy one", 10)
        return Refusal(400, "BadRequest", f"SageMaker does not take the request: {message[:300]}")
    if code in ("AccessDeniedException", "AccessDenied"):
        return Refusal(502, "Failed", f"the Lambda's role may not ask the endpoint {name}: sagemaker:InvokeEndpoint")
    return Refusal(502, "Failed", f"SageMaker failed at {name} ({code or 'without a reason'}); its log says why")


def _late(who: str, timeout_s: float) -> Refusal:
    return later("TimedOut", f"{who} did not answer within {timeout_s:g} s; it may be overloaded", status=504)


def connected(environ: Mapping[str, str]) -> Upstream:
    """Whom the environment names. Raises SettingsError."""
    name, url = (environ.get(key, "").strip() for key in ("BINWATCH_ENDPOINT_NAME", "BINWATCH_INFERENCE_URL"))
    if bool(name) == bool(url):
        raise SettingsError(f"BINWATCH_ENDPOINT_NAME is {name!r} and BINWATCH_INFERENCE_URL {url!r}; set one of them")
    if url and not url.startswith(("http://", "https://")):
        raise SettingsError(f"BINWATCH_INFERENCE_URL is {url!r}; give TorchServe's address, as http://10.0.0.5:8080")
    timeout_s = _seconds(environ.get("BINWATCH_TIMEOUT_S", "").strip() or str(TIMEOUT_S))
    return TorchServe(url.rstrip("/"), timeout_s) if url else Endpoint(name, _client(timeout_s), timeout_s)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 900:
        raise SettingsError(f"BINWATCH_TIMEOUT_S is {text!r}; give seconds, above 0 and up to 900")
    return found


def _client(timeout_s: float) -> Any:
    """The caller is told of a failure and may ask again: trying again here would outlast the Lambda."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=min(5.0, timeout_s), read_timeout=timeout_s, retries={"total_max_attempts": 1})
    return boto3.client("sagemaker-runtime", config=config)


def answered(event: Any, upstream: Upstream) -> dict[str, Any]:
    """The response to an event: the model's answer, or an error in the form of all errors."""
    try:
        status, body = upstream.ask(question(event))
        content = parsed(body)
        if content is None and status == 200 and body.lstrip()[:1] == b"[":
            return response(status, json.loads(body))  # a list of photos was asked about
        refusal = meaning(status, content, "the endpoint" if isinstance(upstream, Endpoint) else "TorchServe")
    except Refusal as error:
        refusal = error
    return response(200, content) if refusal is None else response(refusal.status, refusal.body, refusal.headers)
