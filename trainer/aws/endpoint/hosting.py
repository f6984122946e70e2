"""The requests that create, update and roll back a model, its endpoint configuration and its endpoint. Pure.

Names contain a digest of what they name, so that a deployment is idempotent: repeated, it finds what exists already.

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

from trainer.artifacts import ACCURACY, ARCHIVE_FILE
from trainer.aws.endpoint.endpoint_spec import CANARY, EndpointSpec
from trainer.aws.requests import Answer, AwsRequest, FileBody

SAGEMAKER, RUNTIME, S3 = "sagemaker", "sagemaker-runtime", "s3"
VARIANT = "AllTraffic"
"""An update is refused where the variant has another name than before."""
OWNER_TAG = "binwatch:endpoint"
PROBE = "probe=1"
MAX_UPDATE_S = 3600


@dataclass(frozen=True)
class GoldenPhoto:
    """A photo, and the rows of probabilities (one a class) that are right for it: of a CPU and of a GPU."""

    path: Path
    promised: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Package:
    """The ``model.tar.gz`` of one version at ``path``, and the ``archive`` that it was built from.

    ``accuracy``: on the test photos (0-1); ``fingerprint``: of these photos; ``tolerance``: how far a probability may
    be off.
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
    """The names of a deployment's model and configuration, and the keys of its files."""

    model: str
    config: str
    key: str
    archive_key: str


def names(spec: EndpointSpec, package: Package) -> Names:
    """The names of ``package`` deployed as ``spec``; equal ones have equal names."""
    folder = f"{spec.prefix_of_files}/models/{package.sha256[:10]}"
    key = f"{folder}/model.tar.gz"
    model = f"{spec.endpoint}-v{package.version}-{_digest(_model(spec, package, key))}"
    config = f"{spec.endpoint}-v{package.version}-{_digest([model, _variant(spec, model), _capture(spec)])}"
    return Names(model, config, key, f"{folder}/{ARCHIVE_FILE}")


def has_our_name(spec: EndpointSpec, name: str) -> bool:
    """Whether the name of a model or configuration has the form of those of ``names``."""
    return bool(re.fullmatch(rf"{re.escape(spec.endpoint)}-v[A-Za-z0-9]+-[0-9a-f]{{10}}", name))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def uploads(spec: EndpointSpec, package: Package) -> list[AwsRequest]:
    """Upload the archive, with which a pipeline compares later ones, and the package."""
    named = names(spec, package)
    return [
        _put(spec, named.archive_key, package.archive, "application/zip"),
        _put(spec, named.key, package.path, "application/gzip"),
    ]


def put_accuracy(spec: EndpointSpec, package: Package) -> AwsRequest:
    """Upload accuracy.json: the last request of a deployment. The file is written beside the package."""
    named = names(spec, package)
    content = {
        "accuracy": package.accuracy,
        "version": package.version,
        "fingerprint": package.fingerprint,
        "archive": f"s3://{spec.bucket}/{named.archive_key}",
        "endpoint": spec.endpoint,
        "endpoint_config": named.config,
    }
    path = package.path.with_name(ACCURACY)
    path.write_text(json.dumps(content))
    return _put(spec, accuracy_key(spec), path, "application/json")


def accuracy_key(spec: EndpointSpec) -> str:
    """The key of accuracy.json."""
    return f"{spec.prefix}/{ACCURACY}"


def read_accuracy(spec: EndpointSpec) -> AwsRequest:
    """Read accuracy.json."""
    return AwsRequest(S3, "GetObject", {"Bucket": spec.bucket, "Key": accuracy_key(spec)})


def head_of(put: AwsRequest) -> AwsRequest:
    """Ask for the size of the object that ``put`` uploads."""
    return AwsRequest(S3, "HeadObject", {key: put.parameters[key] for key in ("Bucket", "Key")})


def _put(spec: EndpointSpec, key: str, path: Path, content_type: str) -> AwsRequest:
    parameters = {"Bucket": spec.bucket, "Key": key, "Body": FileBody(path), "ContentType": content_type}
    return AwsRequest(S3, "PutObject", parameters)


def create_model(spec: EndpointSpec, package: Package) -> AwsRequest:
    """Create the model: the package with its container."""
    named = names(spec, package)
    parameters = {"ModelName": named.model, **_model(spec, package, named.key), "Tags": _tags(spec)}
    return AwsRequest(SAGEMAKER, "CreateModel", parameters)


def _model(spec: EndpointSpec, package: Package, key: str) -> Answer:
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": spec.region,
        "BINWATCH_MODEL_VERSION": package.version,
    }
    if spec.link_buckets:
        environment["BINWATCH_S3_BUCKETS"] = spec.link_buckets
    container = {
        "Image": spec.image.uri,
        "Mode": "SingleModel",
        "ModelDataUrl": f"s3://{spec.bucket}/{key}",
        "Environment": environment,
    }
    return {"PrimaryContainer": container, "ExecutionRoleArn": spec.role}


def create_config(spec: EndpointSpec, package: Package) -> AwsRequest:
    """Create the configuration: the machines of the model, and what is captured."""
    named = names(spec, package)
    parameters = {
        "EndpointConfigName": named.config,
        "ProductionVariants": [_variant(spec, named.model)],
        **_capture(spec),
        "Tags": _tags(spec),
    }
    return AwsRequest(SAGEMAKER, "CreateEndpointConfig", parameters)


def _variant(spec: EndpointSpec, model: str) -> Answer:
    variant: Answer = {"VariantName": VARIANT, "ModelName": model, "InitialVariantWeight": 1.0}
    if spec.serverless_mb:
        return {**variant, "ServerlessConfig": {"MemorySizeInMB": spec.serverless_mb, "MaxConcurrency": 10}}
    variant |= {"InitialInstanceCount": spec.min_instances, "InstanceType": spec.instance_type}
    if spec.accelerator:
        return {**variant, "AcceleratorType": spec.accelerator}
    return {**variant, "ContainerStartupHealthCheckTimeoutInSeconds": spec.image.start_timeout_s}


def _capture(spec: EndpointSpec) -> Answer:
    """Capture of requests and answers, which SageMaker does not have for serverless endpoints."""
    if spec.serverless_mb or not spec.capture_percent:
        return {}
    return {
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": spec.capture_percent,
            "DestinationS3Uri": f"s3://{spec.bucket}/{spec.prefix_of_files}/capture",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        }
    }


def _tags(spec: EndpointSpec) -> list[dict[str, str]]:
    return [{"Key": OWNER_TAG, "Value": spec.endpoint}]


def create_endpoint(spec: EndpointSpec, config: str) -> AwsRequest:
    """Create the endpoint."""
    parameters = {"EndpointName": spec.endpoint, "EndpointConfigName": config, "Tags": _tags(spec)}
    return AwsRequest(SAGEMAKER, "CreateEndpoint", parameters)


def update_endpoint(spec: EndpointSpec, config: str, instances: int, guarded: bool = True) -> AwsRequest:
    """Move the endpoint to a configuration; it keeps its name and its number of ``instances``.

    Retaining that number would also retain the old configuration's capture, so capture is excluded. ``guarded``: shift
    traffic with alarms that roll back; False for a rollback; ignored where the endpoint has no guardrails.
    """
    parameters: Answer = {"EndpointName": spec.endpoint, "EndpointConfigName": config}
    if not spec.serverless_mb:
        parameters |= {
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
        }
    if guarded and spec.image.guardrails:
        parameters["DeploymentConfig"] = _deployment(spec, instances)
    return AwsRequest(SAGEMAKER, "UpdateEndpoint", parameters)


def _deployment(spec: EndpointSpec, instances: int) -> Answer:
    policy = {
        "TrafficRoutingConfiguration": _routing(spec, instances),
        "TerminationWaitInSeconds": spec.bake_s,
        "MaximumExecutionTimeoutInSeconds": MAX_UPDATE_S + 3 * spec.bake_s,
    }
    alarms = [{"AlarmName": name} for name in alarm_names(spec)]
    return {"BlueGreenUpdatePolicy": policy, "AutoRollbackConfiguration": {"Alarms": alarms}}


def _routing(spec: EndpointSpec, instances: int) -> Answer:
    """A canary may be at most half of the instances, so a single one can only be replaced all at once."""
    if spec.update != CANARY or instances < 2:
        return {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": spec.bake_s}
    size = {"Type": "INSTANCE_COUNT", "Value": 1}
    return {"Type": "CANARY", "WaitIntervalInSeconds": spec.bake_s, "CanarySize": size}


def describe_config(config: str) -> AwsRequest:
    """Describe a configuration."""
    return AwsRequest(SAGEMAKER, "DescribeEndpointConfig", {"EndpointConfigName": config})


def describe_model(model: str) -> AwsRequest:
    """Describe a model."""
    return AwsRequest(SAGEMAKER, "DescribeModel", {"ModelName": model})


def describe(spec: EndpointSpec) -> AwsRequest:
    """Describe the endpoint."""
    return AwsRequest(SAGEMAKER, "DescribeEndpoint", {"EndpointName": spec.endpoint})


def invoke(spec: EndpointSpec, photo: GoldenPhoto) -> AwsRequest:
    """Send a golden photo to the endpoint."""
    parameters = {
        "EndpointName": spec.endpoint,
        "Body": FileBody(photo.path),
        "ContentType": "image/jpeg",
        "Accept": "application/json",
        "CustomAttributes": PROBE,
    }
    return AwsRequest(RUNTIME, "InvokeEndpoint", parameters)


_ALARMS: Mapping[str, Mapping[str, object]] = {
    "5xx": {"MetricName": "Invocation5XXErrors", "Statistic": "Sum", "Threshold": 1.0},
    "latency": {"MetricName": "ModelLatency", "ExtendedStatistic": "p99", "Threshold": 5_000_000.0},
}
"""What rolls an update back: a failed answer, or a 99th percentile of the latency (microseconds) above 5 s."""


def alarm_names(spec: EndpointSpec) -> list[str]:
    """The names of the alarms that roll an update back."""
    return [f"{spec.endpoint}-{name}" for name in _ALARMS]


def alarms(spec: EndpointSpec) -> list[AwsRequest]:
    """Create the alarms; none where the endpoint has no guardrails. Missing data, without calls, raises no alarm."""
    if not spec.image.guardrails:
        return []
    common = {
        "Namespace": "AWS/SageMaker",
        "Period": 60,
        "EvaluationPeriods": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
        "Dimensions": dimensions(spec),
    }
    description = "rolls an update of the endpoint back"
    return [
        AwsRequest(
            "cloudwatch", "PutMetricAlarm", {"AlarmName": name, "AlarmDescription": description, **common, **alarm}
        )
        for name, alarm in zip(alarm_names(spec), _ALARMS.values(), strict=True)
    ]


def dimensions(spec: EndpointSpec) -> list[dict[str, str]]:
    """The dimensions of the endpoint's metrics in CloudWatch."""
    return [{"Name": "EndpointName", "Value": spec.endpoint}, {"Name": "VariantName", "Value": VARIANT}]
