"""Requests to AWS as values: recorded, checked against botocore's own description of the service, sent.

    Request("sagemaker", "CreateModel", {"ModelName": ...})

``problems`` finds what AWS would refuse: besides the names, types and required members that botocore looks at, the
enums, lengths, ranges and patterns of the service's description. ``Aws.call`` refuses such a request before it is sent.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import boto3
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.validate import ParamValidator

from serve.errors import AwsError, SettingsError

_PROPERTIES = {"L": r"\w", "N": r"\d", "Z": r"\s", "Alnum": "a-zA-Z0-9", "ASCII": r"\x00-\x7f", "Print": r"\x20-\x7e"}
_ANY = r"\s\S"
_PAIRS = r"\uFFFD\uD800\uDC00-\uDBFF\uDFFF", r"\uFFFD\U00010000-\U0010FFFF"
"""What Java's patterns say otherwise than Python's: its classes, and characters beyond 16 bits, pairs there."""


@dataclass(frozen=True)
class FileBody:
    """A file as the body of a request; ``to_json`` and a dry run show its path and size in bytes."""

    path: Path

    def shown(self) -> dict[str, Any]:
        """The file's path and size in bytes."""
        return {"path": str(self.path), "bytes": self.path.stat().st_size}


@dataclass(frozen=True)
class AwsRequest:
    """One call: botocore's name of the service, ``sagemaker-runtime``; the API's of the operation, ``CreateModel``."""

    service: str
    operation: str
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As a dry run prints it."""
        shown = with_bodies(self.parameters, FileBody.shown)
        return {"service": self.service, "operation": self.operation, "parameters": shown}


def with_bodies(value: Any, made: Callable[[FileBody], Any]) -> Any:
    """``value`` with something made of each file in it, however deep."""
    if isinstance(value, FileBody):
        return made(value)
    if isinstance(value, Mapping):
        return {key: with_bodies(each, made) for key, each in value.items()}
    return [with_bodies(each, made) for each in value] if isinstance(value, list | tuple) else value


class Api(Protocol):
    """Who answers requests."""

    def call(self, request: AwsRequest) -> dict[str, Any]:
        """The answer. Raises AwsError where AWS refuses, or does not answer."""


class Recorder:
    """Calls nothing: keeps the requests, each checked, and answers with nothing."""

    def __init__(self) -> None:
        self.requests: list[AwsRequest] = []

    def call(self, request: AwsRequest) -> dict[str, Any]:
        """Keep a request. Raises SettingsError where AWS would refuse it."""
        check(request)
        self.requests.append(request)
        return {}

    def all(self, requests: Iterable[AwsRequest]) -> list[dict[str, Any]]:
        """Keep them all, and give them as a dry run prints them."""
        for request in requests:
            self.call(request)
        return [each.to_json() for each in self.requests]


class Aws:
    """The real one. ``region``: without, what the environment or ~/.aws/config say; ``endpoint_url``: of a stand-in."""

    def __init__(self, region: str | None = None, endpoint_url: str | None = None) -> None:
        self._session = boto3.Session(region_name=region or None)
        self._endpoint_url = endpoint_url or None
        self._clients: dict[str, Any] = {}
        if not self._session.region_name:
            raise SettingsError("no region: give --region, set AWS_REGION, or name one in ~/.aws/config")
        self.region = str(self._session.region_name)

    def call(self, request: AwsRequest) -> dict[str, Any]:
        """Check a request and send it; throttled and failed ones are sent again, as botocore's standard mode does.

        A ``Body`` of the answer is read whole. Raises SettingsError, AwsError.
        """
        check(request)
        operation = getattr(self._client(request.service), xform_name(request.operation))
        try:
            with ExitStack() as opened:
                return _read(operation(**_opened(request.parameters, opened)))
        except ClientError as error:
            raise _refused(request, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AwsError(
                f"AWS was not asked to {request.operation}: no credentials ({error}); "
                "run `aws configure`, set AWS_PROFILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except BotoCoreError as error:
            raise AwsError(f"AWS did not answer {request.operation} of {request.service}: {error}") from error

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            path_style = {"addressing_style": "path"} if self._endpoint_url else None
            config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, s3=path_style)
            try:
                self._clients[service] = self._session.client(service, endpoint_url=self._endpoint_url, config=config)
            except (BotoCoreError, ValueError) as error:
                raise SettingsError(f"no client for {service} in {self.region!r}: {error}") from error
        return self._clients[service]


def _opened(parameters: Mapping[str, Any], until: ExitStack) -> dict[str, Any]:
    """``parameters`` as boto3 takes them: a body as an open file, so that it need not fit into memory."""
    body = parameters.get("Body")
    if isinstance(body, FileBody):
        return {**parameters, "Body": until.enter_context(body.path.open("rb"))}
    return dict(with_bodies(parameters, lambda each: each.path.read_bytes()))


def _read(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value.read() if hasattr(value, "read") else value for key, value in answer.items()}


def _refused(request: AwsRequest, error: ClientError) -> AwsError:
    found = error.response.get("Error", {})
    code, message = str(found.get("Code", "")), str(found.get("Message", "")).strip()
    return AwsError(f"AWS refused {request.operation} of {request.service}: {code}: {message}", code, message)


def is_absent(error: AwsError) -> bool:
    """Whether AWS says that what was named is not there: each service has words of its own."""
    gone = {
        "404",
        "NoSuchKey",
        "NoSuchEntity",
        "ObjectNotFoundException",
        "ResourceNotFoundException",
        "ResourceNotFound",
        "NotFoundException",
    }
    words = re.compile(r"could not find|does not exist|cannot find|^no .* found", re.IGNORECASE)
    return error.code in gone or (error.code == "ValidationException" and bool(words.search(error.message)))


def default_region() -> str | None:
    """The region of the profile in ~/.aws/config that AWS_PROFILE or nothing names."""
    try:
        region = botocore.session.get_session().get_config_variable("region")
    except BotoCoreError as error:  # such as a profile that there is not
        raise SettingsError(f"no region, and none could be looked up: {error}; give --region") from error
    return str(region) if region else None


_LOOKS = ("HeadObject", "GetObject")
"""Without ListBucket on the whole bucket, S3 answers these with 403 where there is no such object."""


def found(api: Api, request: AwsRequest) -> dict[str, Any] | None:
    """The answer to a request that asks about something; None where that is not there."""
    try:
        return api.call(request)
    except AwsError as error:
        if is_absent(error) or (request.operation in _LOOKS and error.code in ("403", "AccessDenied")):
            return None
        raise


def check(request: AwsRequest) -> None:
    """Raises SettingsError with everything that AWS would refuse."""
    wrong = problems(request)
    if wrong:
        raise SettingsError(f"{request.operation} would be refused by AWS: {'; '.join(wrong)}")


def problems(request: AwsRequest) -> list[str]:
    """What the service's description forbids of a request; empty where it can be sent."""
    model = service_model(request.service)
    if request.operation not in model.operation_names:
        return [f"{request.service} has no operation {request.operation}"]
    return shape_problems(request.parameters, model.operation_model(request.operation).input_shape)


def shape_problems(value: Mapping[str, Any], shape: Any) -> list[str]:
    """What a botocore shape forbids of ``value``, a request's parameters or an answer."""
    if shape is None:
        return [f"{', '.join(value)} given, but nothing is taken"] if value else []
    plain = with_bodies(value, lambda _: b"")
    by_botocore = ParamValidator().validate(plain, shape).generate_report()
    return [*by_botocore.splitlines(), *([] if by_botocore else _walk(plain, shape, ""))]


@lru_cache
def service_model(service: str) -> Any:
    """botocore's description of a service."""
    return botocore.session.get_session().get_service_model(service)


def _walk(value: Any, shape: Any, path: str) -> Iterator[str]:
    limits = shape.metadata
    yield from _LEAVES.get(shape.type_name, _nothing)(value, limits, path)
    if shape.type_name == "structure":
        for key, each in value.items():
            yield from _walk(each, shape.members[key], f"{path}.{key}".lstrip("."))
    elif shape.type_name == "list":
        for number, each in enumerate(value):
            yield from _walk(each, shape.member, f"{path}[{number}]")
    elif shape.type_name == "map":
        for key, each in value.items():
            yield from _walk(key, shape.key, f"{path} key {key!r}")
            yield from _walk(each, shape.value, f"{path}.{key}")


def _nothing(_value: Any, _limits: Mapping[str, Any], _path: str) -> Iterator[str]:
    return iter(())


def _text(value: str, limits: Mapping[str, Any], path: str) -> Iterator[str]:
    yield from _length(value, limits, path)
    if limits.get("enum") and value not in limits["enum"]:
        yield f"{path} is {value!r}; it can be {_some(limits['enum'])}"
    if limits.get("pattern") and not pattern(limits["pattern"]).fullmatch(value):
        yield f"{path} is {value!r}, which does not match {limits['pattern']}"


def _length(value: Any, limits: Mapping[str, Any], path: str) -> Iterator[str]:
    least, most = limits.get("min", 0), limits.get("max", float("inf"))
    if not least <= len(value) <= most:
        yield f"{path} has length {len(value)}, allowed are {least} to {most}: {str(value)[:80]!r}"


def _range(value: float, limits: Mapping[str, Any], path: str) -> Iterator[str]:
    least, most = limits.get("min", -float("inf")), limits.get("max", float("inf"))
    if not least <= value <= most:
        yield f"{path} is {value}, allowed are {least} to {most}"


_LEAVES: Mapping[str, Callable[[Any, Mapping[str, Any], str], Iterator[str]]] = {
    "string": _text,
    "list": _length,
    "map": _length,
    "integer": _range,
    "long": _range,
    "float": _range,
    "double": _range,
}


@lru_cache
def pattern(java: str) -> re.Pattern[str]:
    r"""A pattern of a service's description for Python: its ``\p{...}``, ``\z`` and pairs of 16 bits are Java's.

    One that is broken in the description itself, of which there are three in 700, allows everything.
    """
    with_ours = re.sub(r"(\[(?:\\.|[^\]\\])*\])|\\p\{(\w+)\}", _ours, java.replace(*_PAIRS))
    try:
        return re.compile(with_ours.replace(r"\z", r"\Z"))
    except re.error:
        return re.compile(f"[{_ANY}]*")


def _ours(found: re.Match[str]) -> str:
    """A class of characters, or a property outside of one, in Python's words."""
    if found[1]:
        return re.sub(r"\\p\{(\w+)\}", lambda each: _PROPERTIES.get(each[1], _ANY), found[1])
    return f"[{_PROPERTIES.get(found[2], _ANY)}]"


def _some(values: Sequence[str], shown: int = 8) -> str:
    return ", ".join(values[:shown]) + (f" or one of {len(values) - shown} others" if len(values) > shown else "")
