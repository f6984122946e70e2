"""scripts/deploy_sagemaker.py against moto's server, and the fake where moto has no such operation."""

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
from tests.fake_sagemaker import Fake, fake_aws, promised
from tests.small_archives import FILES, contents, packed
from trainer.aws.endpoint import hosting, plan
from trainer.aws.endpoint.deploy import DeployOutcome, Pace, deploy
from trainer.aws.endpoint.destroy import destroy
from trainer.aws.endpoint.endpoint_spec import EndpointSpec
from trainer.aws.endpoint.hosting import Package
from trainer.aws.endpoint.images import ONNX, OWNERS, image_for
from trainer.aws.endpoint.package import Chosen, build
from trainer.aws.requests import Aws, AwsRequest
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
PACE = Pace(poll_s=0.01, timeout_s=60)
SCALED = {"ServiceNamespace": "sagemaker"}


@cache
def reach(url: str) -> Aws:
    """The fake account, with clients that are made once: each reads descriptions of megabytes."""
    return Aws("us-east-1", url)


class Killed(BaseException):
    """What a process is ended by; nothing in the product catches it."""


@dataclass
class Noted:
    """AWS, with notes of what it was asked; ended before request number ``last``."""

    aws: Aws
    requests: list[AwsRequest] = field(default_factory=list)
    last: int | None = None

    def call(self, request: AwsRequest) -> dict[str, Any]:
        if self.last is not None and len(self.requests) == self.last:
            raise Killed
        self.requests.append(request)
        return self.aws.call(request)

    @property
    def operations(self) -> list[str]:
        """What was asked, a repeated look once."""
        names = [each.operation for each in self.requests]
        return [name for name, before in zip(names, ["", *names], strict=False) if name != before or "Put" in name]


@dataclass(frozen=True)
class Account:
    """A fake account with a bucket of its own, and two versions to deploy."""

    fake: Fake
    wanted: EndpointSpec
    versions: tuple[Package, Package]

    def deploy(
        self, number: int = 0, wanted: EndpointSpec | None = None, **options: Any
    ) -> tuple[DeployOutcome, Noted]:
        """Deploy one of the versions."""
        noted = Noted(reach(self.fake.url))
        return deploy(noted, wanted or self.wanted, self.versions[number], PACE, **options), noted

    def config(self, number: int = 0, wanted: EndpointSpec | None = None) -> str:
        """The configuration that a version gets."""
        return hosting.names(wanted or self.wanted, self.versions[number]).config

    def accuracy(self) -> dict[str, Any]:
        """What accuracy.json says, nothing where there is none."""
        objects = {each["Key"] for each in self.objects()}
        key = hosting.accuracy_key(self.wanted)
        found = self.fake.client("s3").get_object(Bucket=self.wanted.bucket, Key=key) if key in objects else None
        content: dict[str, Any] = json.loads(found["Body"].read()) if found else {}
        return content

    def objects(self) -> list[dict[str, Any]]:
        """What is in the bucket."""
        listed = self.fake.client("s3").list_objects_v2(Bucket=self.wanted.bucket)
        found: list[dict[str, Any]] = listed.get("Contents", [])
        return found

    def now(self) -> tuple[str, str] | None:
        """The endpoint's status and configuration."""
        found = self.fake.endpoints.get(self.wanted.endpoint)
        return (found.status, found.config) if found else None

    def left(self) -> list[Any]:
        """All that is there."""
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
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
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
    first, second = (build(Chosen(*each, "f" * 8), ONNX, work) for each in (("7", old, 0.4), ("8", new, 0.5)))
    return first, second


@pytest.fixture
def account(aws: Fake, versions: tuple[Package, Package]) -> Iterator[Account]:
    bucket = "photos-of-bins"
    aws.client("s3").create_bucket(Bucket=bucket)
    wanted = EndpointSpec("us-east-1", "arn:aws:iam::123456789012:role/binwatch", bucket)
    yield Account(aws, wanted, versions)
    aws.endpoints.clear()
    aws.updates.clear()
    aws.fate, aws.answer = "", promised
    requests.post(f"{aws.moto}/moto-api/reset", timeout=60).raise_for_status()


def refuses(version: str, said: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A container whose ``version`` answers with something else than was promised."""

    def answer(model: dict[str, Any], photo: bytes) -> tuple[int, bytes]:
        status, body = promised(model, photo)
        if model["BINWATCH_MODEL_VERSION"] == version:
            return status, json.dumps(said(json.loads(body))).encode()
        return status, body

    return answer


def wrong(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "probabilities": dict.fromkeys(answer["probabilities"], 0.9)}


def test_creates_model_configuration_endpoint_scaling_and_says_the_accuracy_last(account: Account) -> None:
    outcome, noted = account.deploy()
    assert (outcome.did, outcome.version) == ("created", "7")
    assert account.now() == ("InService", account.config())
    assert noted.requests[-1].operation == "PutObject"
    assert noted.requests[-1].parameters["Key"] == "binwatch/accuracy.json"
    assert account.accuracy()["accuracy"] == 0.4
    assert account.accuracy()["endpoint_config"] == account.config()
    archive = account.accuracy()["archive"].removeprefix(f"s3://{account.wanted.bucket}/")
    assert archive in {each["Key"] for each in account.objects()}
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


def test_makes_the_requests_that_a_dry_run_prints(account: Account) -> None:
    for number, exists in ((0, False), (1, True)):
        _, noted = account.deploy(number)
        planned = Noted(noted.aws, plan.deployment(account.wanted, account.versions[number], exists))
        # an update looks, too, whether the configuration that passed last is still there
        made, said = (
            [name for name in each.operations if name != "DescribeEndpointConfig"] for each in (noted, planned)
        )
        assert made == said


def test_run_again_changes_nothing(account: Account) -> None:
    account.deploy()
    outcome, noted = account.deploy()
    assert outcome.did == "unchanged"
    assert not [each for each in noted.requests if each.operation.startswith(("Create", "Update"))]
    assert [each.parameters["Key"] for each in noted.requests if each.operation == "PutObject"] == [
        "binwatch/accuracy.json"
    ]


def test_updates_keep_the_name_and_the_number_of_instances(account: Account) -> None:
    account.deploy()
    account.fake.endpoints["bin-counter"].instances = 3
    outcome, _ = account.deploy(1, replace(account.wanted, capture_percent=20), must_exist=True)
    assert outcome.did == "updated"
    found = account.fake.endpoints["bin-counter"]
    assert (found.instances, found.capture) == (3, 20)
    assert account.accuracy()["version"] == "8"
    update = account.fake.updates[-1]
    assert update["RetainAllVariantProperties"] is True
    assert update["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "CANARY"
    alarms = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [each["AlarmName"] for each in alarms] == ["bin-counter-5xx", "bin-counter-latency"]


@pytest.mark.parametrize("changed", [{"instances": 1}, {"update": "all-at-once"}])
def test_shifts_all_at_once_where_that_is_wanted_or_a_canary_would_be_too_large(
    account: Account, changed: dict[str, Any]
) -> None:
    account.deploy()
    account.fake.endpoints["bin-counter"].instances = changed.pop("instances", 3)
    account.deploy(1, replace(account.wanted, **changed))
    policy = account.fake.updates[-1]["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"]["Type"] == "ALL_AT_ONCE"


@pytest.mark.parametrize("said", [wrong, lambda answer: {**answer, "model_version": "7"}, lambda _: {"count": 1}])
def test_an_update_that_answers_otherwise_than_promised_is_rolled_back(account: Account, said: Any) -> None:
    account.deploy()
    account.fake.answer = refuses("8", said)
    with pytest.raises(CanaryError, match=f"returned to {account.config()}"):
        account.deploy(1)
    assert account.now() == ("InService", account.config())
    assert account.accuracy()["version"] == "7"
    assert "DeploymentConfig" not in account.fake.updates[-1]


def test_a_first_deployment_that_fails_leaves_no_endpoint(account: Account) -> None:
    account.fake.answer = lambda _model, _photo: (500, b'{"code": 500}')
    with pytest.raises(CanaryError, match="nothing to return to, so the endpoint was deleted"):
        account.deploy()
    assert account.now() is None
    assert account.accuracy() == {}


def test_an_alarm_that_rolls_the_update_back_is_an_error(account: Account) -> None:
    account.deploy()
    account.fake.fate = "alarm"
    with pytest.raises(CanaryError, match="An alarm was breached"):
        account.deploy(1)
    assert account.now() == ("InService", account.config())
    assert account.accuracy()["version"] == "7"


def test_an_endpoint_that_an_update_broke_is_made_anew_as_it_was(account: Account) -> None:
    account.deploy()
    account.fake.fate = "failed"
    with pytest.raises(CanaryError, match="The container did not start"):
        account.deploy(1)
    assert account.now() == ("InService", account.config())


def test_a_later_failure_returns_to_what_passed_last(account: Account) -> None:
    """The process ended after the update and before its check: what answers now is no way back."""
    account.deploy()
    account.fake.looks = 0
    _, whole = account.deploy(1)
    cut = [each.operation for each in whole.requests].index("InvokeEndpoint")
    destroy(reach(account.fake.url), account.wanted, PACE)
    account.deploy()
    with pytest.raises(Killed):
        deploy(Noted(reach(account.fake.url), last=cut), account.wanted, account.versions[1], PACE)
    assert account.now() == ("InService", account.config(1))
    account.fake.answer = refuses("8", wrong)
    with pytest.raises(CanaryError, match=f"returned to {account.config(0)}"):
        account.deploy(1)
    assert account.now() == ("InService", account.config(0))
    account.fake.looks = 1


def test_ended_before_any_request_it_is_finished_by_the_next_run(account: Account) -> None:
    account.deploy()
    whole = len(account.deploy(1)[1].requests)
    api = reach(account.fake.url)
    for last in range(whole - 1, 0, -max(1, whole // rounds(3, whole))):
        destroy(api, account.wanted, PACE)
        account.deploy()
        with pytest.raises(Killed):
            deploy(Noted(api, last=last), account.wanted, account.versions[1], PACE)
        assert account.accuracy()["version"] == "7"
        account.deploy(1)
        assert account.now() == ("InService", account.config(1))
        assert account.accuracy()["version"] == "8"


def test_waits_for_an_endpoint_that_is_being_changed(account: Account) -> None:
    account.deploy()
    found = account.fake.endpoints["bin-counter"]
    found.status, found.looks = "Updating", 5
    assert account.deploy(1)[0].did == "updated"


def test_makes_an_endpoint_that_failed_earlier_anew(account: Account) -> None:
    account.deploy()
    found = account.fake.endpoints["bin-counter"]
    found.then, found.reason = ("Failed", found.config), "no capacity"
    assert account.deploy(1)[0].did == "created"
    assert account.now() == ("InService", account.config(1))


def test_says_what_cannot_be_done(account: Account) -> None:
    with pytest.raises(SettingsError, match="aws s3 mb s3://another-bucket --region us-east-1"):
        account.deploy(0, replace(account.wanted, bucket="another-bucket"))
    with pytest.raises(ServerError, match="no endpoint bin-counter to update"):
        account.deploy(must_exist=True)
    account.deploy()
    found = account.fake.endpoints["bin-counter"]
    found.then = ("OutOfService", found.config)
    with pytest.raises(ServerError, match="is OutOfService"):
        account.deploy(1)
    found.then, found.status, found.looks = ("InService", found.config), "Updating", 10**6
    with pytest.raises(ServerError, match="has been Updating for 0 s; run this again later"):
        deploy(reach(account.fake.url), account.wanted, account.versions[1], Pace(0.01, 0.1))


def test_pauses_scaling_where_the_type_of_instance_changes(account: Account) -> None:
    account.deploy()
    _, noted = account.deploy(1, replace(account.wanted, instance_type="ml.m5.xlarge"))
    assert [name for name in noted.operations if "Scal" in name] == [
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
    wanted = replace(account.wanted, accelerator="ml.eia2.medium")
    _, noted = account.deploy(0, wanted)
    assert "PutMetricAlarm" not in noted.operations
    account.deploy(1, wanted)
    assert "DeploymentConfig" not in account.fake.updates[-1]


def test_destroy_leaves_nothing_of_its_own(account: Account) -> None:
    account.deploy()
    account.deploy(1)
    other = replace(account.wanted, endpoint="bin-counter-2", prefix="other")
    account.deploy(0, other)
    api = reach(account.fake.url)
    gone = destroy(api, account.wanted, PACE)
    assert len([each for each in gone.removed if each.startswith("DeleteModel")]) == 2
    assert account.fake.endpoints.keys() == {"bin-counter-2"}
    assert hosting.names(other, account.versions[0]).config in str(account.left())
    destroy(api, other, PACE)
    assert account.left() == []
    assert destroy(api, account.wanted, PACE).removed == []


def test_destroy_removes_what_a_deployment_left_half_done(account: Account) -> None:
    whole = len(account.deploy()[1].requests)
    api = reach(account.fake.url)
    for last in range(whole - 1, 0, -max(1, whole // rounds(3, whole))):
        destroy(api, account.wanted, PACE)
        with pytest.raises(Killed):
            deploy(Noted(api, last=last), account.wanted, account.versions[0], PACE)
        destroy(api, account.wanted, PACE)
        assert account.left() == []


def script(*words: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the script where neither a region nor credentials are set but by ``environ``."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BINWATCH_AWS"))}
    nowhere = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "HOME": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    command = [sys.executable, "scripts/deploy_sagemaker.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env={**bare, **nowhere, **environ}, capture_output=True, text=True)


def test_a_dry_run_prints_every_request_without_champion_mlflow_region_or_credentials(tmp_path: Path) -> None:
    done = script("--dry-run", "--json", "--tracking-uri", "http://127.0.0.1:1", "--work", tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content.keys() == {"requests"}
    assert all(each.keys() == {"service", "operation", "parameters"} for each in content["requests"])
    made = {each["operation"]: each["parameters"] for each in content["requests"]}
    assert made.keys() >= {
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "PutScalingPolicy",
        "InvokeEndpoint",
    }
    bodies = [each["parameters"]["Body"] for each in content["requests"] if "Body" in each["parameters"]]
    assert all(Path(each["path"]).stat().st_size == each["bytes"] for each in bodies)
    assert "placeholder" in bodies[1]["path"]
    assert "a placeholder stands for the champion" in done.stderr


def test_says_what_is_missing_without_a_traceback(tmp_path: Path, trained: Trained) -> None:
    done = script("--tracking-uri", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("--region", "--role", "--bucket"))
    made = packed(tmp_path / "small.mar", contents())
    evaluation = trained.archive.with_name("evaluation.json")
    done = script(
        "--archive",
        made,
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
    words = (
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
        account.wanted.role,
        "--bucket",
        account.wanted.bucket,
    )
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    done = script(*words, **keys)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == number
    assert account.accuracy()["version"] == number
    assert account.now() == ("InService", json.loads(done.stdout)["config"])
    gone = script(*words[4:], "--destroy", **keys)
    assert gone.returncode == 0, gone.stderr
    assert account.left() == []


IMAGES = """
import json, sys
from sagemaker import image_uris
def uri(region, **other):
    return image_uris.retrieve("pytorch", region, image_scope="inference", **other)
regions = json.loads(sys.argv[1])
plain = {each: uri(each, version="2.6.0", py_version="py312", instance_type="ml.m5.large") for each in regions}
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
