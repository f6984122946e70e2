"""Model, endpoint configuration and endpoint: the requests that make, update and roll back a deployment. Pure.

Names carry a digest of what they stand for, so that the same deployment, run again, finds its own work:

    <endpoint>-v<version>-<digest>    the model, and the configuration
    <prefix>/<endpoint>/models/<digest>/model.tar.gz

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpoint.html
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.aws.endpoint.endpoint_spec import CANARY, EndpointSpec
from trainer.aws.requests import AwsRequest, FileBody

SAGEMAKER, RUNTIME, S3 = "sagemaker", "sagemaker-runtime", "s3"
VARIANT = "AllTraffic"
"""An update is refused where the variant has another name than before."""
OWNER_TAG = "binwatch:endpoint"
ACCURACY, ARCHIVE = "accuracy.json", "bin-counter.mar"
PROBE = "probe=1"
LONGEST_UPDATE_S = 3600


@dataclass(frozen=True)
class GoldenPhoto:
    """A photo, and the probabilities (one a class) that it may get, of a CPU and of a GPU."""

    path: Path
    promised: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Package:
    """``model.tar.gz`` of one version, and the ``archive`` that it was made of.

    ``accuracy``: on the test photos (0-1); ``fingerprint``: of these photos; ``tolerance``: of a probability.
    """

    path: Path
    sha256: str
    archive: Path
    version: str
    accuracy: float
    fingerprint: str
    golden: tuple[GoldenPhoto, ...]
    tolerance: float


@dataclass(frozen=True)
class Names:
    """What a deployment's parts are called."""

    model: str
    config: str
    key: str
    archive_key: str


def names(wanted: EndpointSpec, package: Package) -> Names:
    """The names of ``package`` deployed as ``wanted``: the same for the same."""
    folder = f"{wanted.place}/models/{package.sha256[:10]}"
    key = f"{folder}/model.tar.gz"
    model = f"{wanted.endpoint}-v{package.version}-{_digest(_model(wanted, package, key))}"
    config = f"{wanted.endpoint}-v{package.version}-{_digest([model, _variant(wanted, model), _capture(wanted)])}"
    return Names(model, config, key, f"{folder}/{ARCHIVE}")


def is_ours(wanted: EndpointSpec, name: str) -> bool:
    """Whether a model or a configuration has a name that ``names`` gives."""
    return bool(re.fullmatch(rf"{re.escape(wanted.endpoint)}-v[A-Za-z0-9]+-[0-9a-f]{{10}}", name))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def uploads(wanted: EndpointSpec, package: Package) -> list[AwsRequest]:
    """Put the archive, which a pipeline compares others with, and the package into the bucket."""
    named = names(wanted, package)
    return [
        _put(wanted, named.archive_key, package.archive, "application/zip"),
        _put(wanted, named.key, package.path, "application/gzip"),
    ]


def accuracy(wanted: EndpointSpec, package: Package) -> AwsRequest:
    """Say what is deployed: the last request of a deployment. The file is written beside the package."""
    named = names(wanted, package)
    content = {
        "accuracy": package.accuracy,
        "version": package.version,
        "fingerprint": package.fingerprint,
        "archive": f"s3://{wanted.bucket}/{named.archive_key}",
        "endpoint": wanted.endpoint,
        "endpoint_config": named.config,
    }
    path = package.path.with_name(ACCURACY)
    path.write_text(json.dumps(content))
    return _put(wanted, accuracy_key(wanted), path, "application/json")


def accuracy_key(wanted: EndpointSpec) -> str:
    """Where the accuracy of what is deployed is said."""
    return f"{wanted.prefix}/{ACCURACY}"


def read_accuracy(wanted: EndpointSpec) -> AwsRequest:
    """What accuracy.json says."""
    return AwsRequest(S3, "GetObject", {"Bucket": wanted.bucket, "Key": accuracy_key(wanted)})


def look_up(put: AwsRequest) -> AwsRequest:
    """Whether what ``put`` uploads is there."""
    return AwsRequest(S3, "HeadObject", {key: put.parameters[key] for key in ("Bucket", "Key")})


def _put(wanted: EndpointSpec, key: str, path: Path, content_type: str) -> AwsRequest:
    parameters = {"Bucket": wanted.bucket, "Key": key, "Body": FileBody(path), "ContentType": content_type}
    return AwsRequest(S3, "PutObject", parameters)


def create_model(wanted: EndpointSpec, package: Package) -> AwsRequest:
    """Name the package and its container."""
    named = names(wanted, package)
    parameters = {"ModelName": named.model, **_model(wanted, package, named.key), "Tags": _tags(wanted)}
    return AwsRequest(SAGEMAKER, "CreateModel", parameters)


def _model(wanted: EndpointSpec, package: Package, key: str) -> dict[str, Any]:
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": wanted.region,
        "BINWATCH_MODEL_VERSION": package.version,
    }
    if wanted.link_buckets:
        environment["BINWATCH_S3_BUCKETS"] = wanted.link_buckets
    container = {
        "Image": wanted.image.uri,
        "Mode": "SingleModel",
        "ModelDataUrl": f"s3://{wanted.bucket}/{key}",
        "Environment": environment,
    }
    return {"PrimaryContainer": container, "ExecutionRoleArn": wanted.role}


def create_config(wanted: EndpointSpec, package: Package) -> AwsRequest:
    """Say on which machines the model runs, and what is recorded."""
    named = names(wanted, package)
    parameters = {
        "EndpointConfigName": named.config,
        "ProductionVariants": [_variant(wanted, named.model)],
        **_capture(wanted),
        "Tags": _tags(wanted),
    }
    return AwsRequest(SAGEMAKER, "CreateEndpointConfig", parameters)


def _variant(wanted: EndpointSpec, model: str) -> dict[str, Any]:
    variant = {"VariantName": VARIANT, "ModelName": model, "InitialVariantWeight": 1.0}
    if wanted.serverless_mb:
        return {**variant, "ServerlessConfig": {"MemorySizeInMB": wanted.serverless_mb, "MaxConcurrency": 10}}
    found = {**variant, "InitialInstanceCount": wanted.least, "InstanceType": wanted.instance_type}
    if wanted.accelerator:
        return {**found, "AcceleratorType": wanted.accelerator}
    return {**found, "ContainerStartupHealthCheckTimeoutInSeconds": wanted.image.start_timeout_s}


def _capture(wanted: EndpointSpec) -> dict[str, Any]:
    """Data capture of questions and answers; SageMaker has none for serverless endpoints."""
    if wanted.serverless_mb or not wanted.capture_percent:
        return {}
    return {
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": wanted.capture_percent,
            "DestinationS3Uri": f"s3://{wanted.bucket}/{wanted.place}/capture",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        }
    }


def _tags(wanted: EndpointSpec) -> list[dict[str, str]]:
    return [{"Key": OWNER_TAG, "Value": wanted.endpoint}]


def create_endpoint(wanted: EndpointSpec, config: str) -> AwsRequest:
    """Start an endpoint."""
    parameters = {"EndpointName": wanted.endpoint, "EndpointConfigName": config, "Tags": _tags(wanted)}
    return AwsRequest(SAGEMAKER, "CreateEndpoint", parameters)


def update_endpoint(wanted: EndpointSpec, config: str, instances: int, guarded: bool = True) -> AwsRequest:
    """Move an endpoint, which keeps its name and its number of ``instances``, to a configuration.

    Retained with the number would be the old configuration's capture; so that is excluded. ``guarded``: shifted with
    alarms that roll it back; not so for a rollback, and not for endpoints that guardrails exclude.
    """
    parameters: dict[str, Any] = {"EndpointName": wanted.endpoint, "EndpointConfigName": config}
    if not wanted.serverless_mb:
        parameters |= {
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
        }
    if guarded and wanted.image.guardrails:
        parameters["DeploymentConfig"] = _deployment(wanted, instances)
    return AwsRequest(SAGEMAKER, "UpdateEndpoint", parameters)


def _deployment(wanted: EndpointSpec, instances: int) -> dict[str, Any]:
    policy = {
        "TrafficRoutingConfiguration": _routing(wanted, instances),
        "TerminationWaitInSeconds": wanted.bake_s,
        "MaximumExecutionTimeoutInSeconds": LONGEST_UPDATE_S + 3 * wanted.bake_s,
    }
    alarms = [{"AlarmName": name} for name in alarm_names(wanted)]
    return {"BlueGreenUpdatePolicy": policy, "AutoRollbackConfiguration": {"Alarms": alarms}}


def _routing(wanted: EndpointSpec, instances: int) -> dict[str, Any]:
    """A canary is at most half of the fleet, so a single instance can only be shifted to all at once."""
    if wanted.update != CANARY or instances < 2:
        return {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wanted.bake_s}
    size = {"Type": "INSTANCE_COUNT", "Value": 1}
    return {"Type": "CANARY", "WaitIntervalInSeconds": wanted.bake_s, "CanarySize": size}


def describe_config(config: str) -> AwsRequest:
    """What a configuration holds."""
    return AwsRequest(SAGEMAKER, "DescribeEndpointConfig", {"EndpointConfigName": config})


def describe_model(model: str) -> AwsRequest:
    """What a model is."""
    return AwsRequest(SAGEMAKER, "DescribeModel", {"ModelName": model})


def describe(wanted: EndpointSpec) -> AwsRequest:
    """How the endpoint is."""
    return AwsRequest(SAGEMAKER, "DescribeEndpoint", {"EndpointName": wanted.endpoint})


def ask(wanted: EndpointSpec, photo: GoldenPhoto) -> AwsRequest:
    """Ask the endpoint about a golden photo."""
    parameters = {
        "EndpointName": wanted.endpoint,
        "Body": FileBody(photo.path),
        "ContentType": "image/jpeg",
        "Accept": "application/json",
        "CustomAttributes": PROBE,
    }
    return AwsRequest(RUNTIME, "InvokeEndpoint", parameters)


_ALARMS: Mapping[str, Mapping[str, Any]] = {
    "5xx": {"MetricName": "Invocation5XXErrors", "Statistic": "Sum", "Threshold": 1.0},
    "latency": {"MetricName": "ModelLatency", "ExtendedStatistic": "p99", "Threshold": 5_000_000.0},
}
"""What rolls an update back: an answer that failed, or, in microseconds, one of a hundred slower than 5 s."""


def alarm_names(wanted: EndpointSpec) -> list[str]:
    """The alarms that an update is watched by."""
    return [f"{wanted.endpoint}-{name}" for name in _ALARMS]


def alarms(wanted: EndpointSpec) -> list[AwsRequest]:
    """Make the alarms, none where guardrails exclude the endpoint; without calls nothing is wrong."""
    if not wanted.image.guardrails:
        return []
    common = {
        "Namespace": "AWS/SageMaker",
        "Period": 60,
        "EvaluationPeriods": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "Dimensions": dimensions(wanted),
    }
    about = "rolls an update of the endpoint back"
    return [
        AwsRequest("cloudwatch", "PutMetricAlarm", {"AlarmName": name, "AlarmDescription": about, **common, **alarm})
        for name, alarm in zip(alarm_names(wanted), _ALARMS.values(), strict=True)
    ]


def dimensions(wanted: EndpointSpec) -> list[dict[str, str]]:
    """What CloudWatch's numbers of the endpoint's instances are found by."""
    return [{"Name": "EndpointName", "Value": wanted.endpoint}, {"Name": "VariantName", "Value": VARIANT}]
