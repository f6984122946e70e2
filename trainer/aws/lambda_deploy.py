"""The Lambda in front of the model: made or updated, given a URL and permissions where that is asked for, removed.

What is deployed is a value, ``Front``; the requests are made of it. The role is given, not made: docs/aws.md has the
policy. Every function can be run again after a crash at any point.
"""

import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.errors import AwsError, ServerError, SettingsError
from trainer.aws.account import ROLE
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.endpoint.endpoint_spec import NOWHERE_ROLE, EndpointSpec
from trainer.aws.lambda_zip import HANDLER
from trainer.aws.requests import Api, AwsRequest, FileBody, found

LAMBDA = "lambda"
MARGIN_S = 5
"""The function has so much longer than one answer may take: to say that it came too late."""
NO_AUTH, IAM = "NONE", "AWS_IAM"
_CONFLICT = "ResourceConflictException"
_ALL = _URL, _URL_INVOKE, _API = "binwatch-url", "binwatch-url-invoke", "binwatch-api"
_SETTLED = {"Active", "Inactive"}


@dataclass(frozen=True)
class Front:
    """A function. ``url``: who may call its URL, AWS_IAM or NONE, which is everybody; empty: it gets none.

    ``api``: the ARN of an API Gateway's route that may call it; ``subnets`` and ``groups``: of the VPC that
    ``inference_url`` is in; ``timeout_s``: of one answer.
    """

    name: str
    role: str
    endpoint: str = ""
    inference_url: str = ""
    timeout_s: int = 25
    memory_mb: int = 256
    runtime: str = "python3.13"
    architecture: str = "arm64"
    url: str = ""
    api: str = ""
    subnets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def configuration(self) -> dict[str, Any]:
        """What creating and updating say alike."""
        asked = {"BINWATCH_ENDPOINT_NAME": self.endpoint, "BINWATCH_INFERENCE_URL": self.inference_url}
        variables = {key: value for key, value in asked.items() if value}
        return {
            "FunctionName": self.name,
            "Role": self.role,
            "Runtime": self.runtime,
            "Handler": HANDLER,
            "Description": "binwatch: counts the objects in bin photos",
            "MemorySize": self.memory_mb,
            "Timeout": self.timeout_s + MARGIN_S,
            "Environment": {"Variables": {**variables, "BINWATCH_TIMEOUT_S": str(self.timeout_s)}},
            "VpcConfig": {"SubnetIds": list(self.subnets), "SecurityGroupIds": list(self.groups)},
        }


def front(options: Mapping[str, Any], dry_run: bool = False) -> Front:
    """The function that a command line asks for; a dry run needs no role. Raises SettingsError with all problems."""
    problems = []
    text = {key: str(options.get(key) or "") for key in ("name", "role", "endpoint", "inference_url", "url", "api")}
    if text["endpoint"] and text["inference_url"]:
        problems.append("give --endpoint, a SageMaker endpoint, or --inference-url, a TorchServe, not both")
    text["endpoint"] = text["endpoint"] or ("" if text["inference_url"] else EndpointSpec.endpoint)
    text["role"] = text["role"] or (NOWHERE_ROLE if dry_run else "")
    if not ROLE.fullmatch(text["role"]):
        problems.append(f"the role {text['role']!r} is no ARN of a role, as arn:aws:iam::ACCOUNT:role/NAME; see --role")
    lists = {key: tuple(filter(None, str(options.get(key) or "").split(","))) for key in ("subnets", "groups")}
    if bool(lists["subnets"]) != bool(lists["groups"]):
        problems.append("give --subnets and --groups, or neither")
    if problems:
        raise SettingsError("; ".join(problems))
    kept = ("timeout_s", "memory_mb", "runtime", "architecture")
    chosen: dict[str, Any] = {**text, **lists, **{key: options[key] for key in kept if options.get(key)}}
    return Front(**chosen)


def add_options(to: ArgumentParser, environ: Mapping[str, str]) -> None:
    """What may be said of the function; the role and the region from the environment without."""
    get = environ.get
    to.add_argument("--name", default="binwatch", help="of the function")
    to.add_argument("--role", default=get("BINWATCH_AWS_LAMBDA_ROLE"), help="ARN of what the function may do")
    to.add_argument("--endpoint", default=get("BINWATCH_ENDPOINT_NAME"), help="the SageMaker endpoint; bin-counter")
    to.add_argument("--inference-url", default=get("BINWATCH_INFERENCE_URL"), help="instead: a TorchServe's address")
    to.add_argument("--subnets", help="with commas, of the VPC that TorchServe is in")
    to.add_argument("--groups", help="with commas, the security groups there")
    to.add_argument("--timeout-s", type=int, default=Front.timeout_s, help="of one answer")
    to.add_argument("--memory-mb", type=int, default=Front.memory_mb)
    to.add_argument("--runtime", default=Front.runtime, help="Lambda's Python, 3.11 or later")
    to.add_argument("--architecture", choices=("arm64", "x86_64"), default=Front.architecture)
    to.add_argument("--url", choices=(IAM, NO_AUTH), help="an address of its own, and who may call it")
    to.add_argument("--api", help="ARN of an API Gateway's route that may call it")
    to.add_argument("--region", default=get("AWS_REGION") or get("AWS_DEFAULT_REGION"))
    to.add_argument("--endpoint-url", default=get("AWS_ENDPOINT_URL"), help="of a stand-in for AWS")


def creation(wanted: Front, code: Path) -> AwsRequest:
    """A new function."""
    return AwsRequest(
        LAMBDA,
        "CreateFunction",
        {
            **wanted.configuration,
            "Architectures": [wanted.architecture],
            "Code": {"ZipFile": FileBody(code)},
            "Tags": {"binwatch": wanted.name},
        },
    )


def updates(wanted: Front, code: Path) -> list[AwsRequest]:
    """What makes the function that is there the one that is wanted; each waits for the one before."""
    update = {"FunctionName": wanted.name, "ZipFile": FileBody(code), "Architectures": [wanted.architecture]}
    return [
        AwsRequest(LAMBDA, "UpdateFunctionCode", update),
        AwsRequest(LAMBDA, "UpdateFunctionConfiguration", wanted.configuration),
    ]


def looked_at(name: str) -> AwsRequest:
    """How the function is, and whether it is there."""
    return AwsRequest(LAMBDA, "GetFunctionConfiguration", {"FunctionName": name})


def url_asked(name: str) -> AwsRequest:
    """The function's URL, and whether it has one."""
    return AwsRequest(LAMBDA, "GetFunctionUrlConfig", {"FunctionName": name})


def url(wanted: Front, exists: bool) -> AwsRequest:
    """An address of its own."""
    operation = "UpdateFunctionUrlConfig" if exists else "CreateFunctionUrlConfig"
    return AwsRequest(LAMBDA, operation, {"FunctionName": wanted.name, "AuthType": wanted.url})


def permissions(wanted: Front) -> list[AwsRequest]:
    """Who else may call: everybody by the URL where it is open, and the API Gateway."""
    return [AwsRequest(LAMBDA, "AddPermission", {"FunctionName": wanted.name, **each}) for each in _statements(wanted)]


def _statements(wanted: Front) -> Iterator[dict[str, Any]]:
    if wanted.url == NO_AUTH:  # since October 2025 a URL needs both
        yield {
            "StatementId": _URL,
            "Action": "lambda:InvokeFunctionUrl",
            "Principal": "*",
            "FunctionUrlAuthType": NO_AUTH,
        }
        yield {
            "StatementId": _URL_INVOKE,
            "Action": "lambda:InvokeFunction",
            "Principal": "*",
            "InvokedViaFunctionUrl": True,
        }
    if wanted.api:
        yield {
            "StatementId": _API,
            "Action": "lambda:InvokeFunction",
            "Principal": "apigateway.amazonaws.com",
            "SourceArn": wanted.api,
        }


def withdrawn(wanted: Front) -> list[AwsRequest]:
    """What an earlier deployment may have allowed and this one does not."""
    named, kept = {"FunctionName": wanted.name}, {each["StatementId"] for each in _statements(wanted)}
    gone = [AwsRequest(LAMBDA, "RemovePermission", {**named, "StatementId": each}) for each in _ALL if each not in kept]
    return gone + [AwsRequest(LAMBDA, "DeleteFunctionUrlConfig", named)] * (not wanted.url)


def removal(name: str) -> list[AwsRequest]:
    """Everything that deploying made; permissions go with the function."""
    named = {"FunctionName": name}
    return [AwsRequest(LAMBDA, "DeleteFunctionUrlConfig", named), AwsRequest(LAMBDA, "DeleteFunction", named)]


def plan(wanted: Front, code: Path, exists: bool) -> list[AwsRequest]:
    """The requests of a deployment, in order, as they are made when all goes well."""
    made = updates(wanted, code) if exists else [creation(wanted, code)]
    looks = [each for request in made for each in (request, looked_at(wanted.name))]
    address = [url_asked(wanted.name), url(wanted, exists)] if wanted.url else []
    return [looked_at(wanted.name), *looks, *(withdrawn(wanted) if exists else []), *address, *permissions(wanted)]


@dataclass(frozen=True)
class Fronted:
    """What was done: ``created`` or ``updated``; ``url`` is empty where none was asked for."""

    did: str
    name: str
    url: str


def deploy(api: Api, wanted: Front, code: Path, pace: Pace) -> Fronted:
    """Make or update the function. Raises AwsError, ServerError where it does not come up."""
    exists = found(api, looked_at(wanted.name)) is not None
    if exists:
        _settle(api, wanted.name, pace)
    for request in updates(wanted, code) if exists else [creation(wanted, code)]:
        api.call(request)
        _settle(api, wanted.name, pace)
    for request in withdrawn(wanted) if exists else []:
        found(api, request)
    address = ""
    if wanted.url:
        made = url(wanted, found(api, url_asked(wanted.name)) is not None)
        address = str(api.call(made).get("FunctionUrl", ""))
    for request in permissions(wanted):
        _permit(api, request)
    return Fronted("updated" if exists else "created", wanted.name, address)


def destroy(api: Api, name: str) -> list[str]:
    """Remove it; gives what was there."""
    return [request.operation for request in removal(name) if found(api, request) is not None]


def _permit(api: Api, request: AwsRequest) -> None:
    """A permission that is there already is made anew: what it says may have changed."""
    try:
        api.call(request)
    except AwsError as error:
        if error.code != _CONFLICT:
            raise
        named = {key: request.parameters[key] for key in ("FunctionName", "StatementId")}
        api.call(AwsRequest(LAMBDA, "RemovePermission", named))
        api.call(request)


def _settle(api: Api, name: str, pace: Pace) -> None:
    """Wait until the function takes calls and changes. Raises ServerError."""
    deadline = time.monotonic() + pace.timeout_s
    while True:
        now = api.call(looked_at(name))
        update, state = now.get("LastUpdateStatus", "Successful"), now.get("State", "Active")
        if "Failed" in (update, state):
            reason = now.get("LastUpdateStatusReason") or now.get("StateReason") or "no reason given"
            raise ServerError(f"the function {name} did not come up: {reason}")
        if update == "Successful" and state in _SETTLED:
            return
        if time.monotonic() > deadline:
            raise ServerError(f"the function {name} is {state} and {update} after {pace.timeout_s:g} s; look at it")
        time.sleep(pace.poll_s)
