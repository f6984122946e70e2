"""AWS requests as values: recorded, validated against botocore's description of the service, and sent.

    AwsRequest("sagemaker", "CreateModel", {"ModelName": ...})

``problems`` finds what AWS would refuse: besides the names, types and required members that botocore validates, the
enums, lengths, ranges and patterns of the service's description. ``Aws.call`` does not send such a request.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import boto3
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.validate import ParamValidator

from serve.errors import AwsError, SettingsError

Parameters: TypeAlias = Mapping[str, Any]
"""The parameters of a request, nested as the API has them."""
Answer: TypeAlias = dict[str, Any]
"""The answer to a request, nested as the API has it; the service's description gives the types."""

_PROPERTIES = {"L": r"\w", "N": r"\d", "Z": r"\s", "Alnum": "a-zA-Z0-9", "ASCII": r"\x00-\x7f", "Print": r"\x20-\x7e"}
_ANY = r"\s\S"
_PAIRS = r"\uFFFD\uD800\uDC00-\uDBFF\uDFFF", r"\uFFFD\U00010000-\U0010FFFF"
"""Where Java's patterns differ from Python's: character classes, and surrogate pairs for characters beyond 16 bits."""


class Change(StrEnum):
    """What deploying did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class FileBody:
    """A file as the body of a request."""

    path: Path

    def to_json(self) -> dict[str, object]:
        """The file's path and size in bytes, as a dry run prints them."""
        return {"path": str(self.path), "bytes": self.path.stat().st_size}


@dataclass(frozen=True)
class AwsRequest:
    """One call. ``service``: botocore's name, ``sagemaker-runtime``; ``operation``: the API's name, ``CreateModel``."""

    service: str
    operation: str
    parameters: Parameters

    def to_json(self) -> dict[str, object]:
        """As a dry run prints it."""
        parameters = replace_bodies(self.parameters, FileBody.to_json)
        return {"service": self.service, "operation": self.operation, "parameters": parameters}


def replace_bodies(value: object, replacement: Callable[[FileBody], object]) -> object:
    """``value`` with every FileBody in it replaced, at any depth."""
    if isinstance(value, FileBody):
        return replacement(value)
    if isinstance(value, Mapping):
        return {key: replace_bodies(item, replacement) for key, item in value.items()}
    return [replace_bodies(item, replacement) for item in value] if isinstance(value, list | tuple) else value


class Api(Protocol):
    """Answers requests: AWS, a stand-in, or a recorder."""

    def call(self, request: AwsRequest) -> Answer:
        """The answer. Raises AwsError where AWS refuses the request or does not answer."""


class Recorder:
    """Sends nothing: records the validated requests, and gives empty answers."""

    def __init__(self) -> None:
        self.requests: list[AwsRequest] = []

    def call(self, request: AwsRequest) -> Answer:
        """Record a request. Raises SettingsError where AWS would refuse it."""
        check(request)
        self.requests.append(request)
        return {}

    def record_all(self, requests: Iterable[AwsRequest]) -> list[dict[str, object]]:
        """Record all requests, and return them as a dry run prints them."""
        for request in requests:
            self.call(request)
        return [request.to_json() for request in self.requests]


class Aws:
    """AWS. ``region``: by default that of the environment or ~/.aws/config; ``endpoint_url``: of a stand-in."""

    def __init__(self, region: str | None = None, endpoint_url: str | None = None) -> None:
        self._session = boto3.Session(region_name=region or None)
        self._endpoint_url = endpoint_url or None
        self._clients: dict[str, object] = {}
        if not self._session.region_name:
            raise SettingsError("no region: give --region, set AWS_REGION, or name one in ~/.aws/config")
        self.region = str(self._session.region_name)

    def call(self, request: AwsRequest) -> Answer:
        """Validate a request and send it; botocore's standard mode retries transient errors and throttling.

        A ``Body`` in the answer is read whole. Raises SettingsError, AwsError.
        """
        check(request)
        operation = getattr(self._client(request.service), xform_name(request.operation))
        try:
            with ExitStack() as stack:
                return _read_streams(operation(**_open_bodies(request.parameters, stack)))
        except ClientError as error:
            raise _to_aws_error(request, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AwsError(
                f"{request.operation} was not sent: no credentials ({error}); "
                "run `aws configure`, set AWS_PROFILE, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except BotoCoreError as error:
            raise AwsError(f"AWS did not answer {request.operation} of {request.service}: {error}") from error

    def _client(self, service: str) -> object:
        if service not in self._clients:
            path_style = {"addressing_style": "path"} if self._endpoint_url else None
            config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, s3=path_style)
            try:
                self._clients[service] = self._session.client(service, endpoint_url=self._endpoint_url, config=config)
            except (BotoCoreError, ValueError) as error:
                raise SettingsError(f"no client for {service} in {self.region!r}: {error}") from error
        return self._clients[service]


def _open_bodies(parameters: Parameters, stack: ExitStack) -> dict[str, object]:
    """``parameters`` as boto3 takes them; the ``Body`` is an open file, so that it need not fit into memory."""
    body = parameters.get("Body")
    if isinstance(body, FileBody):
        return {**parameters, "Body": stack.enter_context(body.path.open("rb"))}
    return {key: replace_bodies(value, lambda body: body.path.read_bytes()) for key, value in parameters.items()}


def _read_streams(answer: Answer) -> Answer:
    return {key: value.read() if hasattr(value, "read") else value for key, value in answer.items()}


def _to_aws_error(request: AwsRequest, error: ClientError) -> AwsError:
    details = error.response.get("Error", {})
    code, message = str(details.get("Code", "")), str(details.get("Message", "")).strip()
    return AwsError(f"AWS refused {request.operation} of {request.service}: {code}: {message}", code, message)


def is_absent(error: AwsError) -> bool:
    """Whether AWS says that something does not exist; each service has its own code or message for that."""
    codes = {
        "404",
        "NoSuchKey",
        "NoSuchEntity",
        "ObjectNotFoundException",
        "ResourceNotFoundException",
        "ResourceNotFound",
        "NotFoundException",
    }
    messages = re.compile(r"could not find|does not exist|cannot find|^no .* found", re.IGNORECASE)
    return error.code in codes or (error.code == "ValidationException" and bool(messages.search(error.message)))


def default_region() -> str | None:
    """The region of the environment, or of the profile in ~/.aws/config that AWS_PROFILE selects."""
    try:
        region = botocore.session.get_session().get_config_variable("region")
    except BotoCoreError as error:  # such as a profile that does not exist
        raise SettingsError(f"no region, and none could be looked up: {error}; give --region") from error
    return str(region) if region else None


_S3_READS = ("HeadObject", "GetObject")
"""Without ListBucket on the whole bucket, S3 answers these with 403 where the object does not exist."""


def call_if_exists(api: Api, request: AwsRequest) -> Answer | None:
    """The answer to a request about something that may not exist; None where it does not."""
    try:
        return api.call(request)
    except AwsError as error:
        if is_absent(error) or (request.operation in _S3_READS and error.code in ("403", "AccessDenied")):
            return None
        raise


def check(request: AwsRequest) -> None:
    """Raises SettingsError with everything that AWS would refuse."""
    reasons = problems(request)
    if reasons:
        raise SettingsError(f"{request.operation} would be refused by AWS: {'; '.join(reasons)}")


def problems(request: AwsRequest) -> list[str]:
    """What the service's description forbids in a request; empty for a valid one."""
    model = service_model(request.service)
    if request.operation not in model.operation_names:
        return [f"{request.service} has no operation {request.operation}"]
    return shape_problems(request.parameters, model.operation_model(request.operation).input_shape)


Constraints: TypeAlias = Mapping[str, Any]
"""The metadata of a shape, such as ``enum``, ``pattern``, ``min`` and ``max``."""


class Shape(Protocol):
    """A shape of botocore's description: a structure has ``members``, a list ``member``, a map ``key``, ``value``."""

    type_name: str
    metadata: Constraints
    members: Mapping[str, "Shape"]
    member: "Shape"
    key: "Shape"
    value: "Shape"


class OperationModel(Protocol):
    """botocore's description of an operation."""

    input_shape: Shape | None
    output_shape: Shape | None


class ServiceModel(Protocol):
    """botocore's description of a service."""

    operation_names: Sequence[str]
    shape_names: Sequence[str]

    def operation_model(self, operation_name: str) -> OperationModel:
        """Describe an operation."""

    def shape_for(self, shape_name: str) -> Shape:
        """Describe a shape."""


def shape_problems(value: Mapping[str, object], shape: Shape | None) -> list[str]:
    """What a botocore shape forbids in ``value``, the parameters of a request or an answer."""
    if shape is None:
        return [f"{', '.join(value)} given, but no parameter is allowed"] if value else []
    plain = replace_bodies(value, lambda _: b"")
    by_botocore = ParamValidator().validate(plain, shape).generate_report()
    return [*by_botocore.splitlines(), *([] if by_botocore else _walk(plain, shape, ""))]


@lru_cache
def service_model(service: str) -> ServiceModel:
    """botocore's description of a service."""
    model: ServiceModel = botocore.session.get_session().get_service_model(service)
    return model


def _walk(value: object, shape: Shape, path: str) -> Iterator[str]:
    """The problems of ``value``, whose types botocore has validated, and of everything in it."""
    limits = shape.metadata
    if isinstance(value, Mapping):
        if shape.type_name == "structure":
            for key, item in value.items():
                yield from _walk(item, shape.members[key], f"{path}.{key}".lstrip("."))
        elif shape.type_name == "map":
            yield from _length(value, limits, path)
            for key, item in value.items():
                yield from _walk(key, shape.key, f"{path} key {key!r}")
                yield from _walk(item, shape.value, f"{path}.{key}")
    elif isinstance(value, list):
        yield from _length(value, limits, path)
        for number, item in enumerate(value):
            yield from _walk(item, shape.member, f"{path}[{number}]")
    elif isinstance(value, str) and shape.type_name == "string":
        yield from _text(value, limits, path)
    elif isinstance(value, int | float) and shape.type_name in ("integer", "long", "float", "double"):
        yield from _range(value, limits, path)


def _text(value: str, limits: Constraints, path: str) -> Iterator[str]:
    yield from _length(value, limits, path)
    enum, java_pattern = limits.get("enum"), limits.get("pattern")
    if enum and value not in enum:
        yield f"{path} is {value!r}; it can be {_first_of(enum)}"
    if java_pattern and not to_python_pattern(java_pattern).fullmatch(value):
        yield f"{path} is {value!r}, which does not match {java_pattern}"


def _length(value: str | list[object] | Mapping[str, object], limits: Constraints, path: str) -> Iterator[str]:
    minimum, maximum = limits.get("min", 0), limits.get("max", float("inf"))
    if not minimum <= len(value) <= maximum:
        yield f"{path} has length {len(value)}, allowed are {minimum} to {maximum}: {str(value)[:80]!r}"


def _range(value: float, limits: Constraints, path: str) -> Iterator[str]:
    minimum, maximum = limits.get("min", -float("inf")), limits.get("max", float("inf"))
    if not minimum <= value <= maximum:
        yield f"{path} is {value}, allowed are {minimum} to {maximum}"


@lru_cache
def to_python_pattern(java: str) -> re.Pattern[str]:
    r"""Translate a Java pattern of a service's description: ``\p{...}``, ``\z`` and surrogate pairs.

    A pattern that is broken in the description itself, of which there are three in 700, becomes one that allows all.
    """
    translated = re.sub(r"(\[(?:\\.|[^\]\\])*\])|\\p\{(\w+)\}", _translate_class, java.replace(*_PAIRS))
    try:
        return re.compile(translated.replace(r"\z", r"\Z"))
    except re.error:
        return re.compile(f"[{_ANY}]*")


def _translate_class(match: re.Match[str]) -> str:
    r"""A character class, or a ``\p{...}`` outside of one, in Python's syntax."""
    if match[1]:
        return re.sub(r"\\p\{(\w+)\}", lambda inner: _PROPERTIES.get(inner[1], _ANY), match[1])
    return f"[{_PROPERTIES.get(match[2], _ANY)}]"


def _first_of(values: Sequence[str], shown: int = 8) -> str:
    return ", ".join(values[:shown]) + (f" or one of {len(values) - shown} others" if len(values) > shown else "")
