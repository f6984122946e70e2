"""Removes all that deploying created: scaling, endpoint, configurations, models, alarms, and the files in the bucket.

What the endpoint itself wrote stays: captured requests and answers, and its log in CloudWatch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer.aws.endpoint import deploy, hosting, scaling
from trainer.aws.endpoint.deploy import Pace
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import S3, SAGEMAKER
from trainer.aws.requests import Answer, Api, AwsRequest, call_if_exists

PAGE = 100


@dataclass(frozen=True)
class Resources:
    """What exists for an endpoint: names of configurations and models, and keys in the bucket."""

    configs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class DestroyOutcome:
    """What was removed, and what was left, with the reason."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def listing(spec: EndpointSpec) -> list[AwsRequest]:
    """The requests that list what exists; each is repeated with the token of its answer."""
    contains = {"NameContains": spec.endpoint, "MaxResults": PAGE}
    return [
        AwsRequest(SAGEMAKER, "ListEndpointConfigs", contains),
        AwsRequest(SAGEMAKER, "ListModels", contains),
        AwsRequest(S3, "ListObjectsV2", {"Bucket": spec.bucket, "Prefix": f"{spec.prefix_of_files}/models/"}),
    ]


def removal(spec: EndpointSpec, resources: Resources) -> list[AwsRequest]:
    """The requests that remove the resources, in an order in which nothing is removed while it is in use."""
    return [
        *(scaling.stop(spec) if not spec.serverless_mb else []),
        AwsRequest(SAGEMAKER, "DeleteEndpoint", {"EndpointName": spec.endpoint}),
        *(
            AwsRequest(SAGEMAKER, "DeleteEndpointConfig", {"EndpointConfigName": config})
            for config in resources.configs
        ),
        *(AwsRequest(SAGEMAKER, "DeleteModel", {"ModelName": model}) for model in resources.models),
        *(AwsRequest("cloudwatch", "DeleteAlarms", {"AlarmNames": [alarm]}) for alarm in hosting.alarm_names(spec)),
        *(AwsRequest(S3, "DeleteObject", {"Bucket": spec.bucket, "Key": key}) for key in resources.keys),
    ]


def destroy(api: Api, spec: EndpointSpec, pace: Pace) -> DestroyOutcome:
    """Remove what exists. It is idempotent: what does not exist is no error. Raises AwsError."""
    resources = _list_resources(api, spec)
    deploy.wait_until_settled(api, spec, pace)  # an endpoint that is being changed cannot be deleted
    removed = []
    for request in removal(spec, resources):
        if call_if_exists(api, request) is not None and request.operation != "DeleteAlarms":
            removed.append(f"{request.operation} {_name(request)}")
        if request.operation == "DeleteEndpoint":
            deploy.wait_until_settled(api, spec, pace)
    return DestroyOutcome(
        removed,
        [
            f"s3://{spec.bucket}/{spec.prefix_of_files}/capture: captured requests and answers",
            f"the log group /aws/sagemaker/Endpoints/{spec.endpoint}",
        ],
    )


def _list_resources(api: Api, spec: EndpointSpec) -> Resources:
    configs, models, objects = listing(spec)
    accuracy = [hosting.accuracy_key(spec)] if deploy.read_deployed(api, spec) else []
    return Resources(
        tuple(sorted(_owned_names(api, spec, configs, "EndpointConfigs", "EndpointConfig"))),
        tuple(sorted(_owned_names(api, spec, models, "Models", "Model"))),
        (*(item["Key"] for item in _items(api, objects, "Contents")), *accuracy),
    )


def _owned_names(api: Api, spec: EndpointSpec, request: AwsRequest, listed: str, kind: str) -> Iterator[str]:
    """The listed names of our form whose resource has the endpoint's tag; without the tag it is somebody else's."""
    for item in _items(api, request, listed):
        if hosting.has_our_name(spec, item[f"{kind}Name"]):
            tags = api.call(AwsRequest(SAGEMAKER, "ListTags", {"ResourceArn": item[f"{kind}Arn"]})).get("Tags", ())
            if {"Key": hosting.OWNER_TAG, "Value": spec.endpoint} in tags:
                yield item[f"{kind}Name"]


def _items(api: Api, request: AwsRequest, listed: str) -> Iterator[Answer]:
    """The items of all pages of an answer; ``listed`` is the member that has them."""
    tokens = {SAGEMAKER: ("NextToken", "NextToken"), S3: ("NextContinuationToken", "ContinuationToken")}
    member, parameter = tokens[request.service]
    parameters = dict(request.parameters)
    while True:
        answer = api.call(AwsRequest(request.service, request.operation, parameters))
        yield from answer.get(listed, ())
        if not answer.get(member):
            return
        parameters[parameter] = answer[member]


def _name(request: AwsRequest) -> str:
    for key in ("EndpointName", "EndpointConfigName", "ModelName", "Key", "ResourceId"):
        if key in request.parameters:
            return str(request.parameters[key])
    return ""
