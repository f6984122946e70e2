"""Deploys the Lambda in front of the model: creates, updates and removes it, with a URL and permissions on demand.

A ``LambdaSpec`` says what is deployed; the requests are derived from it. The role must exist; its policy is in
docs/aws.md. Every function is idempotent: it can be repeated after a crash at any point.
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
from trainer.aws.endpoint.endpoint_spec import PLACEHOLDER_ROLE, EndpointSpec
from trainer.aws.lambda_zip import HANDLER
from trainer.aws.requests import Api, AwsRequest, Change, FileBody, call_if_exists

LAMBDA = "lambda"
MARGIN_S = 5
"""The function's timeout exceeds that of an answer by this, so that it can answer that the timeout was reached."""
NO_AUTH, IAM = "NONE", "AWS_IAM"
_CONFLICT = "ResourceConflictException"
_ALL = _URL, _URL_INVOKE, _API = "binwatch-url", "binwatch-url-invoke", "binwatch-api"
_SETTLED = {"Active", "Inactive"}


@dataclass(frozen=True, kw_only=True)
class LambdaSpec:
    """A Lambda function, in front of the SageMaker ``endpoint`` or of the TorchServe at ``inference_url``.

    ``timeout_s``: of one answer; ``url``: who may call the function URL, AWS_IAM or NONE (everybody); "": no URL;
    ``api``: the ARN of an API Gateway's route that may call the function; ``subnets``, ``groups``: of the VPC that
    ``inference_url`` is in.
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
    def configuration(self) -> dict[str, object]:
        """The parameters that creating and updating have in common."""
        targets = {"BINWATCH_ENDPOINT_NAME": self.endpoint, "BINWATCH_INFERENCE_URL": self.inference_url}
        variables = {key: value for key, value in targets.items() if value}
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


def read_lambda_spec(options: Mapping[str, Any], dry_run: bool = False) -> LambdaSpec:
    """Read a command line's options; a dry run needs no role. Raises SettingsError with all problems."""
    problems = []
    role, endpoint, inference_url = (str(options.get(key) or "") for key in ("role", "endpoint", "inference_url"))
    if endpoint and inference_url:
        problems.append("give --endpoint, a SageMaker endpoint, or --inference-url, a TorchServe, not both")
    endpoint = endpoint or ("" if inference_url else EndpointSpec.endpoint)
    role = role or (PLACEHOLDER_ROLE if dry_run else "")
    if not ROLE.fullmatch(role):
        problems.append(f"the role {role!r} is no ARN of a role, as arn:aws:iam::ACCOUNT:role/NAME; see --role")
    subnets, groups = (tuple(filter(None, str(options.get(key) or "").split(","))) for key in ("subnets", "groups"))
    if bool(subnets) != bool(groups):
        problems.append("give --subnets and --groups, or neither")
    if problems:
        raise SettingsError("; ".join(problems))
    return LambdaSpec(
        name=str(options.get("name") or ""),
        role=role,
        endpoint=endpoint,
        inference_url=inference_url,
        timeout_s=options.get("timeout_s") or LambdaSpec.timeout_s,
        memory_mb=options.get("memory_mb") or LambdaSpec.memory_mb,
        runtime=options.get("runtime") or LambdaSpec.runtime,
        architecture=options.get("architecture") or LambdaSpec.architecture,
        url=str(options.get("url") or ""),
        api=str(options.get("api") or ""),
        subnets=subnets,
        groups=groups,
    )


def add_options(parser: ArgumentParser, environ: Mapping[str, str]) -> None:
    """The options of a function; some default to environment variables."""
    add, get = parser.add_argument, environ.get
    add("--name", default="binwatch", help="name of the function")
    add("--role", default=get("BINWATCH_AWS_LAMBDA_ROLE"), help="ARN of the function's role")
    add("--endpoint", default=get("BINWATCH_ENDPOINT_NAME"), help="a SageMaker endpoint; default: bin-counter")
    add("--inference-url", default=get("BINWATCH_INFERENCE_URL"), help="or the address of a TorchServe")
    add("--subnets", help="comma-separated, in TorchServe's VPC")
    add("--groups", help="comma-separated security groups")
    add("--timeout-s", type=int, default=LambdaSpec.timeout_s, help="timeout of one answer")
    add("--memory-mb", type=int, default=LambdaSpec.memory_mb)
    add("--runtime", default=LambdaSpec.runtime, help="a Python of Lambda, 3.11 or later")
    add("--architecture", choices=("arm64", "x86_64"), default=LambdaSpec.architecture)
    add("--url", choices=(IAM, NO_AUTH), help="create a function URL, with this authorisation")
    add("--api", help="ARN of an API Gateway's route that may call it")
    add("--region", default=get("AWS_REGION") or get("AWS_DEFAULT_REGION"))
    add("--endpoint-url", default=get("AWS_ENDPOINT_URL"), help="address of a stand-in for AWS")


def creation(spec: LambdaSpec, code: Path) -> AwsRequest:
    """The request that creates the function."""
    return AwsRequest(
        LAMBDA,
        "CreateFunction",
        {
            **spec.configuration,
            "Architectures": [spec.architecture],
            "Code": {"ZipFile": FileBody(code)},
            "Tags": {"binwatch": spec.name},
        },
    )


def updates(spec: LambdaSpec, code: Path) -> list[AwsRequest]:
    """The requests that update an existing function; each must wait until the one before has taken effect."""
    update = {"FunctionName": spec.name, "ZipFile": FileBody(code), "Architectures": [spec.architecture]}
    return [
        AwsRequest(LAMBDA, "UpdateFunctionCode", update),
        AwsRequest(LAMBDA, "UpdateFunctionConfiguration", spec.configuration),
    ]


def get_configuration(name: str) -> AwsRequest:
    """The request for the function's state."""
    return AwsRequest(LAMBDA, "GetFunctionConfiguration", {"FunctionName": name})


def get_url(name: str) -> AwsRequest:
    """The request for the function URL."""
    return AwsRequest(LAMBDA, "GetFunctionUrlConfig", {"FunctionName": name})


def put_url(spec: LambdaSpec, exists: bool) -> AwsRequest:
    """The request that creates or updates the function URL."""
    operation = "UpdateFunctionUrlConfig" if exists else "CreateFunctionUrlConfig"
    return AwsRequest(LAMBDA, operation, {"FunctionName": spec.name, "AuthType": spec.url})


def permissions(spec: LambdaSpec) -> list[AwsRequest]:
    """The requests that allow calls: everybody's by an open URL, and those of the API Gateway."""
    named = {"FunctionName": spec.name}
    return [AwsRequest(LAMBDA, "AddPermission", {**named, **statement}) for statement in _statements(spec)]


def _statements(spec: LambdaSpec) -> Iterator[dict[str, object]]:
    if spec.url == NO_AUTH:  # since October 2025 a URL needs both
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
    if spec.api:
        yield {
            "StatementId": _API,
            "Action": "lambda:InvokeFunction",
            "Principal": "apigateway.amazonaws.com",
            "SourceArn": spec.api,
        }


def withdrawals(spec: LambdaSpec) -> list[AwsRequest]:
    """The requests that remove what an earlier deployment may have allowed and this one does not."""
    named, allowed = {"FunctionName": spec.name}, {statement["StatementId"] for statement in _statements(spec)}
    revoked = [statement_id for statement_id in _ALL if statement_id not in allowed]
    removals = [AwsRequest(LAMBDA, "RemovePermission", {**named, "StatementId": revocation}) for revocation in revoked]
    return removals + [AwsRequest(LAMBDA, "DeleteFunctionUrlConfig", named)] * (not spec.url)


def removal(name: str) -> list[AwsRequest]:
    """The requests that remove everything that was deployed; permissions are removed with the function."""
    named = {"FunctionName": name}
    return [AwsRequest(LAMBDA, "DeleteFunctionUrlConfig", named), AwsRequest(LAMBDA, "DeleteFunction", named)]


def plan(spec: LambdaSpec, code: Path, exists: bool) -> list[AwsRequest]:
    """The requests of a deployment that succeeds, in order."""
    changes = updates(spec, code) if exists else [creation(spec, code)]
    polled = [request for change in changes for request in (change, get_configuration(spec.name))]
    address = [get_url(spec.name), put_url(spec, exists)] if spec.url else []
    return [
        get_configuration(spec.name),
        *polled,
        *(withdrawals(spec) if exists else []),
        *address,
        *permissions(spec),
    ]


@dataclass(frozen=True)
class LambdaOutcome:
    """What a deployment did; ``url`` is empty where the function has none."""

    did: Change
    name: str
    url: str


def deploy(api: Api, spec: LambdaSpec, code: Path, pace: Pace) -> LambdaOutcome:
    """Create or update the function. Raises AwsError, and ServerError where it does not become active."""
    exists = call_if_exists(api, get_configuration(spec.name)) is not None
    if exists:
        _wait_until_settled(api, spec.name, pace)
    for request in updates(spec, code) if exists else [creation(spec, code)]:
        api.call(request)
        _wait_until_settled(api, spec.name, pace)
    for request in withdrawals(spec) if exists else []:
        call_if_exists(api, request)
    address = ""
    if spec.url:
        request = put_url(spec, call_if_exists(api, get_url(spec.name)) is not None)
        address = str(api.call(request).get("FunctionUrl", ""))
    for request in permissions(spec):
        _permit(api, request)
    return LambdaOutcome(Change.UPDATED if exists else Change.CREATED, spec.name, address)


def destroy(api: Api, name: str) -> list[str]:
    """Remove the function; returns the operations that removed something."""
    return [request.operation for request in removal(name) if call_if_exists(api, request) is not None]


def _permit(api: Api, request: AwsRequest) -> None:
    """Add a permission; one that exists is replaced, since its content may have changed."""
    try:
        api.call(request)
    except AwsError as error:
        if error.code != _CONFLICT:
            raise
        named = {key: request.parameters[key] for key in ("FunctionName", "StatementId")}
        api.call(AwsRequest(LAMBDA, "RemovePermission", named))
        api.call(request)


def _wait_until_settled(api: Api, name: str, pace: Pace) -> None:
    """Wait until the function can be called and changed. Raises ServerError."""
    deadline = time.monotonic() + pace.timeout_s
    while True:
        configuration = api.call(get_configuration(name))
        update = configuration.get("LastUpdateStatus", "Successful")
        state = configuration.get("State", "Active")
        if "Failed" in (update, state):
            reason = (
                configuration.get("LastUpdateStatusReason") or configuration.get("StateReason") or "no reason given"
            )
            raise ServerError(f"the function {name} did not become active: {reason}")
        if update == "Successful" and state in _SETTLED:
            return
        if time.monotonic() > deadline:
            raise ServerError(
                f"the function {name} is {state} and {update} after {pace.timeout_s:g} s; see it in the AWS console"
            )
        time.sleep(pace.poll_s)
