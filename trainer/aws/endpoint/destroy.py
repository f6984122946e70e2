"""Removing all that deploying made: scaling, endpoint, configurations, models, alarms, and the files in the bucket.

What the endpoint itself wrote stays: the records of data capture and its log in CloudWatch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trainer.aws.endpoint import deploy, hosting, scaling
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import S3, SAGEMAKER
from trainer.aws.requests import Api, AwsRequest, found

PAGE = 100


@dataclass(frozen=True)
class Made:
    """What is there of an endpoint's: names of configurations and models, and keys in the bucket."""

    configs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Destroyed:
    """What was removed, and what was left and why."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def listing(wanted: EndpointSpec) -> list[AwsRequest]:
    """The requests that find what there is; each is asked again with the token of its answer."""
    contains = {"NameContains": wanted.endpoint, "MaxResults": PAGE}
    return [
        AwsRequest(SAGEMAKER, "ListEndpointConfigs", contains),
        AwsRequest(SAGEMAKER, "ListModels", contains),
        AwsRequest(S3, "ListObjectsV2", {"Bucket": wanted.bucket, "Prefix": f"{wanted.place}/models/"}),
    ]


def removal(wanted: EndpointSpec, made: Made) -> list[AwsRequest]:
    """The requests that remove it, in an order in which nothing is used any more when it goes."""
    return [
        *(scaling.stop(wanted) if not wanted.serverless_mb else []),
        AwsRequest(SAGEMAKER, "DeleteEndpoint", {"EndpointName": wanted.endpoint}),
        *(AwsRequest(SAGEMAKER, "DeleteEndpointConfig", {"EndpointConfigName": each}) for each in made.configs),
        *(AwsRequest(SAGEMAKER, "DeleteModel", {"ModelName": each}) for each in made.models),
        *(AwsRequest("cloudwatch", "DeleteAlarms", {"AlarmNames": [each]}) for each in hosting.alarm_names(wanted)),
        *(AwsRequest(S3, "DeleteObject", {"Bucket": wanted.bucket, "Key": each}) for each in made.keys),
    ]


def destroy(api: Api, wanted: EndpointSpec, pace: Pace) -> Destroyed:
    """Remove what there is; what is gone already is no error, so that it can be run again. Raises AwsError."""
    made = _made(api, wanted)
    deploy.settled(api, wanted, pace)  # one that is being changed cannot be deleted
    removed = []
    for request in removal(wanted, made):
        if found(api, request) is not None and request.operation != "DeleteAlarms":
            removed.append(f"{request.operation} {_name(request)}")
        if request.operation == "DeleteEndpoint":
            deploy.settled(api, wanted, pace)
    return Destroyed(
        removed,
        [
            f"s3://{wanted.bucket}/{wanted.place}/capture: the records of data capture",
            f"the log group /aws/sagemaker/Endpoints/{wanted.endpoint}",
        ],
    )


def _made(api: Api, wanted: EndpointSpec) -> Made:
    configs, models, objects = listing(wanted)
    accuracy = [hosting.accuracy_key(wanted)] if deploy.recorded(api, wanted) else []
    return Made(
        tuple(sorted(_ours(api, wanted, configs, "EndpointConfigs", "EndpointConfig"))),
        tuple(sorted(_ours(api, wanted, models, "Models", "Model"))),
        (*(each["Key"] for each in _pages(api, objects, "Contents")), *accuracy),
    )


def _ours(api: Api, wanted: EndpointSpec, request: AwsRequest, listed: str, kind: str) -> Iterator[str]:
    """Names that this script gives, of things that carry its tag: another's that is called alike is left alone."""
    for each in _pages(api, request, listed):
        if hosting.is_ours(wanted, each[f"{kind}Name"]):
            tags = api.call(AwsRequest(SAGEMAKER, "ListTags", {"ResourceArn": each[f"{kind}Arn"]})).get("Tags", ())
            if {"Key": hosting.OWNER_TAG, "Value": wanted.endpoint} in tags:
                yield each[f"{kind}Name"]


def _pages(api: Api, request: AwsRequest, listed: str) -> Iterator[dict[str, Any]]:
    tokens = {SAGEMAKER: ("NextToken", "NextToken"), S3: ("NextContinuationToken", "ContinuationToken")}
    given, taken = tokens[request.service]
    parameters = dict(request.parameters)
    while True:
        answer = api.call(AwsRequest(request.service, request.operation, parameters))
        yield from answer.get(listed, ())
        if not answer.get(given):
            return
        parameters[taken] = answer[given]


def _name(request: AwsRequest) -> str:
    about = dict(request.parameters)
    for key in ("EndpointName", "EndpointConfigName", "ModelName", "Key", "ResourceId"):
        if key in about:
            return str(about[key])
    return ""
