"""scripts/deploy_sagemaker.py with moto's server, and with the fake for operations that moto lacks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.errors import CanaryError, ServerError, SettingsError
from tests.conftest import rounds
from tests.fake_sagemaker import FakeAws, Model, fake_aws, promised
from tests.small_archives import FILES, contents, packed
from trainer.aws.endpoint import hosting, plan
from trainer.aws.endpoint.deploy import DeployOutcome, Pace, deploy
from trainer.aws.endpoint.destroy import destroy
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import Package
from trainer.aws.endpoint.images import OWNERS, ModelForm, image_for
from trainer.aws.endpoint.package import ModelChoice, build
from trainer.aws.requests import Answer, Aws, AwsRequest
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
PACE = Pace(poll_s=0.01, timeout_s=60)
SCALED = {"ServiceNamespace": "sagemaker"}


@cache
def connect(url: str) -> Aws:
    """A client of the fake, cached: creating one reads megabytes of descriptions."""
    return Aws("us-east-1", url)


class Killed(BaseException):
    """Stands for a kill; nothing in the product catches it."""


@dataclass
class RecordingApi:
    """AWS, with a record of the requests; killed before request number ``last``."""

    aws: Aws
    requests: list[AwsRequest] = field(default_factory=list)
    last: int | None = None

    def call(self, request: AwsRequest) -> Answer:
        if self.last is not None and len(self.requests) == self.last:
            raise Killed
        self.requests.append(request)
        return self.aws.call(request)

    @property
    def operations(self) -> list[str]:
        """The operations; repeated polls count once."""
        names = [request.operation for request in self.requests]
        return [name for name, previous in zip(names, ["", *names], strict=False) if name != previous or "Put" in name]


@dataclass(frozen=True)
class Account:
    """A fake account with a bucket, and two versions to deploy."""

    fake: FakeAws
    spec: EndpointSpec
    versions: tuple[Package, Package]

    def deploy(
        self, number: int = 0, spec: EndpointSpec | None = None, **options: Any
    ) -> tuple[DeployOutcome, RecordingApi]:
        """Deploy one of the versions."""
        api = RecordingApi(connect(self.fake.url))
        return deploy(api, spec or self.spec, self.versions[number], PACE, **options), api

    def config(self, number: int = 0, spec: EndpointSpec | None = None) -> str:
        """The configuration that a version gets."""
        return hosting.names(spec or self.spec, self.versions[number]).config

    def accuracy(self) -> Answer:
        """The content of accuracy.json, empty where there is none."""
        objects = {item["Key"] for item in self.objects()}
        key = hosting.accuracy_key(self.spec)
        if key not in objects:
            return {}
        content: Answer = json.loads(self.fake.client("s3").get_object(Bucket=self.spec.bucket, Key=key)["Body"].read())
        return content

    def objects(self) -> list[Answer]:
        """The objects in the bucket."""
        listed = self.fake.client("s3").list_objects_v2(Bucket=self.spec.bucket)
        items: list[Answer] = listed.get("Contents", [])
        return items

    def endpoint(self) -> tuple[str, str] | None:
        """The endpoint's status and configuration."""
        endpoint = self.fake.endpoints.get(self.spec.endpoint)
        return (endpoint.status, endpoint.config) if endpoint else None

    def resources(self) -> list[object]:
        """Everything that exists in the account."""
        sagemaker, scaling = self.fake.client("sagemaker"), self.fake.client("application-autoscaling")
        return [
            *sagemaker.list_models()["Models"],
            *sagemaker.list_endpoint_configs()["EndpointConfigs"],
            *self.objects(),
            *scaling.describe_scalable_targets(**SCALED)["ScalableTargets"],
            *scaling.describe_scaling_policies(**SCALED)["ScalingPolicies"],
            *self.fake.client("cloudwatch").describe_alarms()["MetricAlarms"],
            *self.fake.endpoints,
        ]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAws]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        with fake_aws(tmp_path_factory.mktemp("aws")) as fake:
            yield fake


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Package]:
    work = tmp_path_factory.mktemp("packages")
    old = packed(work / "old.mar", contents())
    new = packed(work / "new.mar", contents({**FILES, "model.onnx": b"xnno" * 200}))
    first, second = ModelChoice("7", old, 0.4, "f" * 8), ModelChoice("8", new, 0.5, "f" * 8)
    return build(first, ModelForm.ONNX, work), build(second, ModelForm.ONNX, work)


@pytest.fixture
def account(aws: FakeAws, versions: tuple[Package, Package]) -> Iterator[Account]:
    bucket = "photos-of-bins"
    aws.client("s3").create_bucket(Bucket=bucket)
    spec = EndpointSpec(region="us-east-1", role="arn:aws:iam::123456789012:role/binwatch", bucket=bucket)
    yield Account(aws, spec, versions)
    aws.endpoints.clear()
    aws.updates.clear()
    aws.fate, aws.model = "", promised
    requests.post(f"{aws.moto}/moto-api/reset", timeout=60).raise_for_status()


def changed_answers(version: str, change: Callable[[Answer], Answer]) -> Model:
    """A container that changes the promised answers of ``version``."""

    def answer(model: Answer, photo: bytes) -> tuple[int, bytes]:
        status, body = promised(model, photo)
        if model["BINWATCH_MODEL_VERSION"] == version:
            return status, json.dumps(change(json.loads(body))).encode()
        return status, body

    return answer


def wrong(answer: Answer) -> Answer:
    return {**answer, "probabilities": dict.fromkeys(answer["probabilities"], 0.9)}


def test_creates_model_configuration_endpoint_scaling_and_writes_the_accuracy_last(account: Account) -> None:
    outcome, api = account.deploy()
    assert (outcome.did, outcome.version) == ("created", "7")
    assert account.endpoint() == ("InService", account.config())
    assert api.requests[-1].operation == "PutObject"
    assert api.requests[-1].parameters["Key"] == "binwatch/accuracy.json"
    assert account.accuracy()["accuracy"] == 0.4
    assert account.accuracy()["endpoint_config"] == account.config()
    archive = account.accuracy()["archive"].removeprefix(f"s3://{account.spec.bucket}/")
    assert archive in {item["Key"] for item in account.objects()}
    assert account.fake.endpoints["bin-counter"].capture == 100


def test_scales_from_one_to_three_instances_on_their_cpus(account: Account) -> None:
    account.deploy()
    scaling = account.fake.client("application-autoscaling")
    target = scaling.describe_scalable_targets(**SCALED)["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
    policy = scaling.describe_scaling_policies(**SCALED)["ScalingPolicies"][0]
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == 70.0
    assert (tracking["ScaleOutCooldown"], tracking["ScaleInCooldown"]) == (30, 30)
    assert tracking["CustomizedMetricSpecification"]["MetricName"] == "CPUUtilization"


def test_sends_the_requests_that_a_dry_run_prints(account: Account) -> None:
    for number, exists in ((0, False), (1, True)):
        _, api = account.deploy(number)
        planned = RecordingApi(api.aws, plan.deployment(account.spec, account.versions[number], exists))
        # an update also checks whether the configuration that passed last still exists
        sent, expected = (
            [name for name in record.operations if name != "DescribeEndpointConfig"] for record in (api, planned)
        )
        assert sent == expected


def test_run_again_changes_nothing(account: Account) -> None:
    account.deploy()
    outcome, api = account.deploy()
    assert outcome.did == "unchanged"
    assert not [name for name in api.operations if name.startswith(("Create", "Update"))]
    puts = [request for request in api.requests if request.operation == "PutObject"]
    assert [put.parameters["Key"] for put in puts] == ["binwatch/accuracy.json"]


def test_updates_keep_the_name_and_the_number_of_instances(account: Account) -> None:
    account.deploy()
    account.fake.endpoints["bin-counter"].instances = 3
    outcome, _ = account.deploy(1, replace(account.spec, capture_percent=20), must_exist=True)
    assert outcome.did == "updated"
    endpoint = account.fake.endpoints["bin-counter"]
    assert (endpoint.instances, endpoint.capture) == (3, 20)
    assert account.accuracy()["version"] == "8"
    update = account.fake.updates[-1]
    assert update["RetainAllVariantProperties"] is True
    assert update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "CANARY"
    alarms = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [alarm["AlarmName"] for alarm in alarms] == ["bin-counter-5xx", "bin-counter-latency"]


@pytest.mark.parametrize("changed", [{"instances": 1}, {"update": "all-at-once"}])
def test_shifts_all_at_once_where_that_is_wanted_or_a_canary_would_be_too_large(
    account: Account, changed: dict[str, Any]
) -> None:
    account.deploy()
    account.fake.endpoints["bin-counter"].instances = changed.pop("instances", 3)
    account.deploy(1, replace(account.spec, **changed))
    policy = account.fake.updates[-1]["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"]["Type"] == "ALL_AT_ONCE"


@pytest.mark.parametrize("change", [wrong, lambda answer: {**answer, "model_version": "7"}, lambda _: {"count": 1}])
def test_an_update_with_other_answers_than_promised_is_rolled_back(
    account: Account, change: Callable[[Answer], Answer]
) -> None:
    account.deploy()
    account.fake.model = changed_answers("8", change)
    with pytest.raises(CanaryError, match=f"returned to {account.config()}"):
        account.deploy(1)
    assert account.endpoint() == ("InService", account.config())
    assert account.accuracy()["version"] == "7"
    assert "DeploymentConfig" not in account.fake.updates[-1]


def test_a_first_deployment_that_fails_leaves_no_endpoint(account: Account) -> None:
    account.fake.model = lambda _model, _photo: (500, b'{"code": 500}')
    with pytest.raises(CanaryError, match="the endpoint was deleted"):
        account.deploy()
    assert account.endpoint() is None
    assert account.accuracy() == {}


def test_an_alarm_that_rolls_the_update_back_is_an_error(account: Account) -> None:
    account.deploy()
    account.fake.fate = "alarm"
    with pytest.raises(CanaryError, match="An alarm was breached"):
        account.deploy(1)
    assert account.endpoint() == ("InService", account.config())
    assert account.accuracy()["version"] == "7"


def test_an_endpoint_that_an_update_broke_is_created_again_as_it_was(account: Account) -> None:
    account.deploy()
    account.fake.fate = "failed"
    with pytest.raises(CanaryError, match="The container did not start"):
        account.deploy(1)
    assert account.endpoint() == ("InService", account.config())


def test_a_later_failure_returns_to_what_passed_last(account: Account) -> None:
    """The process died after the update and before its check, so the current configuration is no fallback."""
    account.deploy()
    account.fake.polls = 0
    _, whole = account.deploy(1)
    cut = [request.operation for request in whole.requests].index("InvokeEndpoint")
    destroy(connect(account.fake.url), account.spec, PACE)
    account.deploy()
    with pytest.raises(Killed):
        deploy(RecordingApi(connect(account.fake.url), last=cut), account.spec, account.versions[1], PACE)
    assert account.endpoint() == ("InService", account.config(1))
    account.fake.model = changed_answers("8", wrong)
    with pytest.raises(CanaryError, match=f"returned to {account.config(0)}"):
        account.deploy(1)
    assert account.endpoint() == ("InService", account.config(0))
    account.fake.polls = 1


def test_killed_before_any_request_it_is_finished_by_the_next_run(account: Account) -> None:
    account.deploy()
    whole = len(account.deploy(1)[1].requests)
    api = connect(account.fake.url)
    for last in range(whole - 1, 0, -max(1, whole // rounds(3, whole))):
        destroy(api, account.spec, PACE)
        account.deploy()
        with pytest.raises(Killed):
            deploy(RecordingApi(api, last=last), account.spec, account.versions[1], PACE)
        assert account.accuracy()["version"] == "7"
        account.deploy(1)
        assert account.endpoint() == ("InService", account.config(1))
        assert account.accuracy()["version"] == "8"


def test_waits_for_an_endpoint_that_is_being_changed(account: Account) -> None:
    account.deploy()
    endpoint = account.fake.endpoints["bin-counter"]
    endpoint.status, endpoint.polls = "Updating", 5
    assert account.deploy(1)[0].did == "updated"


def test_creates_an_endpoint_that_failed_earlier_again(account: Account) -> None:
    account.deploy()
    endpoint = account.fake.endpoints["bin-counter"]
    endpoint.then, endpoint.reason = ("Failed", endpoint.config), "no capacity"
    assert account.deploy(1)[0].did == "created"
    assert account.endpoint() == ("InService", account.config(1))


def test_errors_name_what_to_do(account: Account) -> None:
    with pytest.raises(SettingsError, match="aws s3 mb s3://another-bucket --region us-east-1"):
        account.deploy(0, replace(account.spec, bucket="another-bucket"))
    with pytest.raises(ServerError, match=r"bin-counter.*--must-exist"):
        account.deploy(must_exist=True)
    account.deploy()
    endpoint = account.fake.endpoints["bin-counter"]
    endpoint.then = ("OutOfService", endpoint.config)
    with pytest.raises(ServerError, match="is OutOfService"):
        account.deploy(1)
    endpoint.then, endpoint.status, endpoint.polls = ("InService", endpoint.config), "Updating", 10**6
    with pytest.raises(ServerError, match="Updating for 0 s"):
        deploy(connect(account.fake.url), account.spec, account.versions[1], Pace(0.01, 0.1))


def test_pauses_scaling_where_the_type_of_instance_changes(account: Account) -> None:
    account.deploy()
    _, api = account.deploy(1, replace(account.spec, instance_type="ml.m5.xlarge"))
    assert [name for name in api.operations if "Scal" in name] == [
        "DeleteScalingPolicy",
        "DeregisterScalableTarget",
        "RegisterScalableTarget",
        "PutScalingPolicy",
    ]
    account.fake.fate = "alarm"
    with pytest.raises(CanaryError):
        account.deploy(0)
    scaling = account.fake.client("application-autoscaling")
    assert len(scaling.describe_scaling_policies(**SCALED)["ScalingPolicies"]) == 1


def test_updates_with_elastic_inference_have_no_guardrails(account: Account) -> None:
    spec = replace(account.spec, accelerator="ml.eia2.medium")
    _, api = account.deploy(0, spec)
    assert "PutMetricAlarm" not in api.operations
    account.deploy(1, spec)
    assert "DeploymentConfig" not in account.fake.updates[-1]


def test_destroy_leaves_nothing_of_its_own(account: Account) -> None:
    account.deploy()
    account.deploy(1)
    second = replace(account.spec, endpoint="bin-counter-2", prefix="other")
    account.deploy(0, second)
    api = connect(account.fake.url)
    outcome = destroy(api, account.spec, PACE)
    assert len([name for name in outcome.removed if name.startswith("DeleteModel")]) == 2
    assert account.fake.endpoints.keys() == {"bin-counter-2"}
    assert hosting.names(second, account.versions[0]).config in str(account.resources())
    destroy(api, second, PACE)
    assert account.resources() == []
    assert destroy(api, account.spec, PACE).removed == []


def test_destroy_removes_what_a_deployment_left_half_done(account: Account) -> None:
    whole = len(account.deploy()[1].requests)
    api = connect(account.fake.url)
    for last in range(whole - 1, 0, -max(1, whole // rounds(3, whole))):
        destroy(api, account.spec, PACE)
        with pytest.raises(Killed):
            deploy(RecordingApi(api, last=last), account.spec, account.versions[0], PACE)
        destroy(api, account.spec, PACE)
        assert account.resources() == []


def script(*options: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the script; ``environ`` alone can set a region and credentials."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BINWATCH_AWS"))}
    no_aws = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "HOME": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    command = [sys.executable, "scripts/deploy_sagemaker.py", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, env={**bare, **no_aws, **environ}, capture_output=True, text=True)


def test_a_dry_run_prints_every_request_without_champion_mlflow_region_or_credentials(tmp_path: Path) -> None:
    done = script("--dry-run", "--json", "--tracking-uri", "http://127.0.0.1:1", "--work", tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content.keys() == {"requests"}
    assert all(request.keys() == {"service", "operation", "parameters"} for request in content["requests"])
    operations = {request["operation"] for request in content["requests"]}
    assert operations >= {
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "PutScalingPolicy",
        "InvokeEndpoint",
    }
    parameters = [request["parameters"] for request in content["requests"]]
    bodies = [members["Body"] for members in parameters if "Body" in members]
    assert all(Path(body["path"]).stat().st_size == body["bytes"] for body in bodies)
    assert "placeholder" in bodies[1]["path"]
    assert "placeholder for the champion" in done.stderr


def test_errors_name_what_is_missing_without_a_traceback(tmp_path: Path, trained: Trained) -> None:
    done = script("--tracking-uri", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("--region", "--role", "--bucket"))
    archive = packed(tmp_path / "small.mar", contents())
    evaluation = trained.archive.with_name("evaluation.json")
    done = script(
        "--archive",
        archive,
        "--evaluation",
        evaluation,
        "--work",
        tmp_path,
        "--bucket",
        "a-bucket",
        "--region",
        "us-east-1",
        "--role",
        "arn:aws:iam::123456789012:role/binwatch",
    )
    assert done.returncode == 1
    assert "no credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_deploys_the_registry_s_champion(
    account: Account, registry: Registry, trained: Trained, tmp_path: Path
) -> None:
    with registry.run("a training") as run:
        run.log_file(packed(tmp_path / "bin-counter.mar", contents()), "archive")
        run.log_file(trained.archive.with_name("evaluation.json"))
    number = registry.register(run.id, "approved", "a test", "").number
    registry.set_champion(number)
    options = (
        "--tracking-uri",
        registry.uri,
        "--work",
        tmp_path,
        "--endpoint-url",
        account.fake.url,
        "--json",
        "--poll",
        0.01,
        "--role",
        account.spec.role,
        "--bucket",
        account.spec.bucket,
    )
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    done = script(*options, **keys)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == number
    assert account.accuracy()["version"] == number
    assert account.endpoint() == ("InService", json.loads(done.stdout)["config"])
    removal = script(*options[4:], "--destroy", **keys)
    assert removal.returncode == 0, removal.stderr
    assert account.resources() == []


IMAGES = """
import json, sys
from sagemaker import image_uris
def uri(region, **options):
    return image_uris.retrieve("pytorch", region, image_scope="inference", **options)
regions = json.loads(sys.argv[1])
plain = {region: uri(region, version="2.6.0", py_version="py312", instance_type="ml.m5.large") for region in regions}
others = [
    uri("us-east-1", version="2.6.0", py_version="py312", instance_type="ml.g4dn.xlarge"),
    uri("us-east-1", version="2.4.0", py_version="py311", instance_type="ml.c7g.large"),
    uri("us-east-1", version="1.5.1", py_version="py3", instance_type="ml.m5.large", accelerator_type="ml.eia2.medium"),
]
print(json.dumps([plain, others]))
"""


def test_the_containers_are_those_that_the_sagemaker_sdk_names(toolkits: Path) -> None:
    regions = [*OWNERS, "us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1", "sa-east-1"]
    command = [str(toolkits / "python"), "-W", "ignore", "-c", IMAGES, json.dumps(regions)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    plain, others = json.loads(done.stdout.splitlines()[-1])
    assert {region: image_for(region, "ml.m5.large").uri for region in regions} == plain
    assert [
        image_for("us-east-1", "ml.g4dn.xlarge").uri,
        image_for("us-east-1", "ml.c7g.large").uri,
        image_for("us-east-1", "ml.m5.large", "ml.eia2.medium").uri,
    ] == others
