"""Every request of a deployment is valid by botocore's description of the services."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve.errors import SettingsError
from trainer.aws.endpoint import hosting, plan, scaling
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import GoldenPhoto, Package
from trainer.aws.requests import Aws, AwsRequest, FileBody, Recorder, problems, service_model, to_python_pattern

SPEC = EndpointSpec(
    region="eu-central-1",
    role="arn:aws:iam::123456789012:role/binwatch",
    bucket="a-bucket",
    link_buckets="photos,more",
)
KINDS = {
    "instances": SPEC,
    "graviton": replace(SPEC, instance_type="ml.c7g.large"),
    "gpu": replace(SPEC, instance_type="ml.g4dn.xlarge"),
    "inferentia2": replace(SPEC, instance_type="ml.inf2.xlarge"),
    "elastic-inference": replace(SPEC, accelerator="ml.eia2.medium"),
    "serverless": replace(SPEC, serverless_mb=3072),
    "all-at-once": replace(SPEC, update="all-at-once"),
    "no-capture": replace(SPEC, capture_percent=0),
    "longest-names": replace(SPEC, endpoint="e" * 38),
}
SERVICES = ("sagemaker", "sagemaker-runtime", "application-autoscaling", "cloudwatch", "s3", "lambda", "iam")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    for name in ("model.tar.gz", "bin-counter.mar", "golden-0.jpg"):
        (tmp_path / name).write_bytes(b"123")
    golden = (GoldenPhoto(tmp_path / "golden-0.jpg", ((0.5, 0.5),)),)
    return Package(
        path=tmp_path / "model.tar.gz",
        sha256="0" * 64,
        archive=tmp_path / "bin-counter.mar",
        version="123456789012",
        accuracy=0.5,
        fingerprint="f",
        golden=golden,
        tolerance=0.01,
    )


def all_requests(spec: EndpointSpec, package: Package) -> list[AwsRequest]:
    canary = hosting.update_endpoint(spec, hosting.names(spec, package).config, 3)
    rollback = hosting.update_endpoint(spec, "before", 1, guarded=False)
    return [
        *plan.deployment(spec, package, False),
        *plan.deployment(spec, package, True),
        canary,
        rollback,
        *plan.removal(spec, package),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_is_one_that_aws_takes(package: Package, kind: str) -> None:
    for request in all_requests(KINDS[kind], package):
        assert problems(request) == [], request


def test_all_operations_of_a_deployment_and_its_removal_are_tested(package: Package) -> None:
    operations = {request.operation for request in all_requests(SPEC, package)}
    assert operations == {
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "UpdateEndpoint",
        "DescribeModel",
        "DescribeEndpoint",
        "DescribeEndpointConfig",
        "ListModels",
        "ListEndpointConfigs",
        "DeleteModel",
        "DeleteEndpointConfig",
        "DeleteEndpoint",
        "InvokeEndpoint",
        "RegisterScalableTarget",
        "PutScalingPolicy",
        "DeleteScalingPolicy",
        "DeregisterScalableTarget",
        "PutMetricAlarm",
        "DeleteAlarms",
        "PutObject",
        "HeadObject",
        "GetObject",
        "ListObjectsV2",
        "DeleteObject",
    }


def changed(request: AwsRequest, path: str, value: object) -> AwsRequest:
    """``request`` with another value at ``a.0.b``."""

    def put(target: object, keys: list[str]) -> object:
        if not keys:
            return value
        if isinstance(target, list):
            return [put(item, keys[1:]) if number == int(keys[0]) else item for number, item in enumerate(target)]
        assert isinstance(target, dict)
        return {**target, keys[0]: put(target.get(keys[0], {}), keys[1:])}

    parameters = put(dict(request.parameters), path.split("."))
    assert isinstance(parameters, dict)
    return AwsRequest(request.service, request.operation, parameters)


@pytest.mark.parametrize(
    ("operation", "path", "value", "problem"),
    [
        ("CreateModel", "ModelName", "m" * 64, "length 64"),
        ("CreateModel", "ModelName", "under_score", "does not match"),
        ("CreateModel", "ExecutionRoleArn", "arn:aws:iam::1:role/too-short-an-account", "does not match"),
        ("CreateModel", "ExecutionRoleArn", 3, "Invalid type"),
        ("CreateModel", "PrimaryContainer.Mode", "Single", "it can be SingleModel, MultiModel"),
        ("CreateModel", "PrimaryContainer.Environment", {"A": "v" * 20000}, "length"),
        ("CreateModel", "Tags.0.Key", "no (brackets)", "does not match"),
        ("CreateModel", "Unknown", 1, "Unknown parameter"),
        ("CreateEndpointConfig", "ProductionVariants.0.InstanceType", "ml.m5.huge", "others"),
        ("CreateEndpointConfig", "ProductionVariants.0.InitialInstanceCount", 0, "min value: 1"),
        ("CreateEndpointConfig", "ProductionVariants", [], "min length: 1"),
        ("CreateEndpointConfig", "DataCaptureConfig.InitialSamplingPercentage", 101, "allowed are 0 to 100"),
        ("CreateEndpointConfig", "DataCaptureConfig.DestinationS3Uri", "a-bucket/x", "does not match"),
        ("CreateEndpoint", "EndpointName", "-starts-with-a-hyphen", "does not match"),
        ("UpdateEndpoint", "DeploymentConfig.BlueGreenUpdatePolicy.TerminationWaitInSeconds", 3601, "0 to 3600"),
        ("RegisterScalableTarget", "ServiceNamespace", "sage", "others"),
        ("RegisterScalableTarget", "MinCapacity", "1", "Invalid type"),
        ("PutScalingPolicy", "PolicyName", "", "min length: 1"),
        ("PutMetricAlarm", "Period", 0, "min value: 1"),
        ("InvokeEndpoint", "CustomAttributes", "ä", "does not match"),
    ],
)
def test_finds_what_aws_would_refuse(package: Package, operation: str, path: str, value: object, problem: str) -> None:
    request = next(request for request in all_requests(SPEC, package) if request.operation == operation)
    (reason,) = problems(changed(request, path, value))
    assert problem in reason


def test_a_missing_member_is_named(package: Package) -> None:
    assert problems(AwsRequest("sagemaker", "CreateEndpoint", {"EndpointName": "a"})) == [
        'Missing required parameter in input: "EndpointConfigName"'
    ]
    assert problems(AwsRequest("sagemaker", "MakeModel", {})) == ["sagemaker has no operation MakeModel"]


def test_a_request_that_aws_would_refuse_is_not_sent() -> None:
    bad = AwsRequest("sagemaker", "DescribeEndpoint", {"EndpointName": "under_score"})
    with pytest.raises(SettingsError, match=r"DescribeEndpoint.*'under_score'"):
        Aws("eu-central-1", "http://127.0.0.1:1").call(bad)
    with pytest.raises(SettingsError):
        Recorder().call(bad)


@pytest.mark.parametrize("service", SERVICES)
def test_the_patterns_of_a_service_can_be_compiled_but_three_that_are_broken(service: str) -> None:
    model = service_model(service)
    shapes = [model.shape_for(name) for name in model.shape_names]
    patterns = {shape.metadata["pattern"] for shape in shapes if "pattern" in shape.metadata}
    assert patterns or service == "cloudwatch"
    allowing_all = {java for java in patterns if to_python_pattern(java).pattern == r"[\s\S]*"} - {r"[\s\S]*"}
    assert len(allowing_all) <= (2 if service == "sagemaker" else 0)


@pytest.mark.parametrize(
    ("java", "accepted", "refused"),
    [
        (r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)", ["größe 7_a:b", ""], ["(a)"]),
        (r"\p{ASCII}*", ["expected_quantity=3"], ["ä"]),
        (r"\A\S[\p{Print}]*\z", ["abc d"], [" abc", "a\n"]),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\r\n\t]*", ["endpoint/a", "😀"], ["\x00"]),
    ],
)
def test_patterns_mean_in_python_what_they_mean_in_java(java: str, accepted: list[str], refused: list[str]) -> None:
    assert all(to_python_pattern(java).fullmatch(text) for text in accepted)
    assert not any(to_python_pattern(java).fullmatch(text) for text in refused)


def test_a_file_is_shown_by_its_path_and_size_however_deep_it_is(tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    path.write_bytes(b"12345")
    request = AwsRequest("lambda", "UpdateFunctionCode", {"FunctionName": "f", "ZipFile": FileBody(path)})
    assert request.to_json()["parameters"] == {"FunctionName": "f", "ZipFile": {"path": str(path), "bytes": 5}}
    nested = AwsRequest("lambda", "CreateFunction", {"Code": {"ZipFile": FileBody(path)}})
    assert nested.to_json()["parameters"] == {"Code": {"ZipFile": {"path": str(path), "bytes": 5}}}
    assert problems(request) == []


def test_a_rollback_has_no_canary_and_elastic_inference_neither(package: Package) -> None:
    rollback = hosting.update_endpoint(SPEC, "before", 3, guarded=False)
    assert "DeploymentConfig" not in rollback.parameters
    assert "DeploymentConfig" not in hosting.update_endpoint(KINDS["elastic-inference"], "c", 3).parameters
    assert hosting.alarms(KINDS["elastic-inference"]) == []
    variant = hosting.create_config(KINDS["elastic-inference"], package).parameters["ProductionVariants"][0]
    assert variant["AcceleratorType"] == "ml.eia2.medium"


def test_a_serverless_endpoint_has_neither_instances_nor_capture_nor_scaling(package: Package) -> None:
    config = hosting.create_config(KINDS["serverless"], package).parameters
    assert "DataCaptureConfig" not in config
    assert "InstanceType" not in config["ProductionVariants"][0]
    assert scaling.scale(KINDS["serverless"]) == []


def test_equal_deployments_have_equal_names_and_others_different_ones(package: Package) -> None:
    first = hosting.names(SPEC, package)
    assert first == hosting.names(replace(SPEC, update="all-at-once", max_instances=5), package)
    assert first.config != hosting.names(replace(SPEC, instance_type="ml.m5.xlarge"), package).config
    assert first.model != hosting.names(SPEC, replace(package, sha256="1" * 64)).model
    assert hosting.has_our_name(SPEC, first.model)
    assert not hosting.has_our_name(replace(SPEC, endpoint="bin"), first.model)
