import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from serve.errors import AwsError
from tests.integration.pipeline_steps import steps_told
from trainer.aws import account, pipeline_commands, pipelines
from trainer.aws.definition import PARAMETERS, definition
from trainer.aws.requests import Aws
from trainer.aws.training_jobs import Training, metric_definitions
from trainer.aws.tuning import Tuning, tuning_job

ROOT = Path(__file__).parents[2]
REGION, BUCKET = "eu-central-1", "our-bins"
OPTIONS = {
    "role": "arn:aws:iam::123456789012:role/binwatch",
    "bucket": BUCKET,
    "prefix": "binwatch",
    "image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/binwatch-trainer:0.1.0",
}
HERE = account.account(OPTIONS)
NO_CREDENTIALS = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BINWATCH_AWS_"))} | {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
CREDENTIALS = {**NO_CREDENTIALS, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """moto's server, which stands in for AWS, with a bucket of photos."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        named = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": REGION}
        s3 = boto3.client("s3", endpoint_url=url, **named)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=BUCKET, Key="binwatch/data/bin-images/1.jpg", Body=b"a photo")
        yield url
    finally:
        server.stop()


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The real client, at moto, where ListPipelineExecutionSteps is answered by a stand-in of our own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with steps_told(moto) as url:
        yield Aws(REGION, url)


def run(url: str, *words: str, environ: dict[str, str] = CREDENTIALS) -> subprocess.CompletedProcess[str]:
    options = [f"--{key}={value}" for key, value in OPTIONS.items()]
    command = [sys.executable, "scripts/sagemaker_pipeline.py", *options, *words]
    where = {**environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": url} if url else environ
    return subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True, timeout=300)


def test_the_pipeline_is_put_updated_started_and_asked_about(aws: Aws) -> None:
    assert pipelines.upsert(aws, HERE, "binwatch") == "created"
    assert pipelines.upsert(aws, HERE, "binwatch", ("--update", "all-at-once")) == "updated"
    arn = pipelines.start(aws, HERE, "binwatch", {"Recipe": "best"}, "a" * 32)
    assert re.fullmatch(r"arn:aws:sagemaker:eu-central-1:\d{12}:pipeline/binwatch/execution/[a-z0-9]{12}", arn)
    found = pipelines.execution(aws, HERE, "binwatch")
    assert (found.arn, found.status) == (arn, "Succeeded")
    names = ["Training", "Evaluation", "Is-the-new-model-better", "Update-endpoint"]
    assert [(each.name, each.status) for each in found.steps] == [(name, "Succeeded") for name in names]
    assert found.steps[0].seconds == 60.0
    assert found == pipelines.execution(aws, HERE, "binwatch", arn)


def test_what_says_what_is_deployed_is_written_once_and_never_again(aws: Aws, moto: str) -> None:
    s3 = boto3.client("s3", endpoint_url=moto, region_name=REGION)
    pipelines.upsert(aws, HERE, "other")
    body = s3.get_object(Bucket=BUCKET, Key="binwatch/accuracy.json")["Body"].read()
    assert json.loads(body) == {"accuracy": 0.1, "version": None}
    s3.put_object(Bucket=BUCKET, Key="binwatch/accuracy.json", Body=b'{"accuracy": 0.4, "version": "7"}')
    pipelines.upsert(aws, HERE, "other")
    body = s3.get_object(Bucket=BUCKET, Key="binwatch/accuracy.json")["Body"].read()
    assert json.loads(body)["version"] == "7"


def test_the_script_does_all_of_it(moto: str) -> None:
    with steps_told(moto) as url:
        done = run(url, "--name", "mine", "--upsert", "--start", "--train", "--tune", "--status", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["pipeline"], told["did"], told["status"]) == ("mine", "created", "Succeeded")
    assert told["execution"] == told["arn"]
    aws = boto3.client(
        "sagemaker", endpoint_url=moto, region_name=REGION, aws_access_key_id="none", aws_secret_access_key="none"
    )
    job = aws.describe_training_job(TrainingJobName=told["training_job"])
    assert job["AlgorithmSpecification"]["TrainingImage"] == HERE.image
    search = aws.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=told["tuning_job"])
    assert search["HyperParameterTuningJobConfig"]["Strategy"] == "Bayesian"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--start", "--name", "nowhere"], "no pipeline 'nowhere' in eu-central-1; put it there with --upsert"),
        (["--status", "--name", "nowhere"], "there is no pipeline 'nowhere'"),
        (
            ["--status", f"arn:aws:sagemaker:{REGION}:123456789012:pipeline/binwatch/execution/aaaaaaaaaaaa"],
            "there is no execution arn:aws:sagemaker",
        ),
        (["--status", "binwatch-train-0"], "there is no job binwatch-train-0"),
        (["--status", "binwatch-tune-0"], "there is no job binwatch-tune-0"),
        (["--start", "--data", "s3://our-bins/nothing"], "nothing lies below s3://our-bins/nothing"),
        (["--upsert", "--bucket", "not-there"], "NoSuchBucket"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_do(aws: Aws, words: list[str], reason: str) -> None:
    parser = ArgumentParser()
    account.add_options(parser, {})
    pipeline_commands.add_options(parser)
    args = parser.parse_args([*(f"--{key}={value}" for key, value in OPTIONS.items()), *words])
    with pytest.raises(AwsError, match=re.escape(reason)):
        pipeline_commands.run(aws, account.account(vars(args)), args)


def test_an_error_is_one_line_and_a_setting_s_ends_with_2() -> None:
    done = run("", "--upsert", "--role", "me", environ=NO_CREDENTIALS)
    assert done.returncode == 2
    assert done.stderr == ("error: the role 'me' is no ARN of a role; it looks like arn:aws:iam::ACCOUNT:role/NAME\n")


def test_a_dry_run_needs_neither_credentials_nor_a_network() -> None:
    done = run(
        "",
        "--upsert",
        "--start",
        "--dry-run",
        "--json",
        environ=NO_CREDENTIALS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )
    assert done.returncode == 0, done.stderr
    requests = json.loads(done.stdout)["requests"]
    assert all(set(each) == {"service", "operation", "parameters"} for each in requests)
    assert [each["operation"] for each in requests][:2] == ["PutObject", "CreatePipeline"]
    assert json.loads(requests[1]["parameters"]["PipelineDefinition"]) == definition(HERE)


@pytest.fixture(scope="module")
def sdk(toolkits: Path, moto: str) -> dict[str, Any]:
    """What SageMaker's SDK 2 makes of the same things."""
    given: dict[str, Any] = {
        **OPTIONS,
        "region": HERE.region,
        "tag": HERE.image_version,
        "metrics": metric_definitions(),
        "parameters": {"InputData": HERE.uri("data"), **PARAMETERS},
    }
    program = ROOT / "tests" / "integration" / "sdk_pipeline.py"
    command: list[str] = [str(toolkits / "python"), "-P", str(program), json.dumps(given)]
    where = {**CREDENTIALS, "AWS_ENDPOINT_URL": moto, "AWS_DEFAULT_REGION": REGION}
    done = subprocess.run(command, env=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def test_the_definition_is_what_sagemaker_s_sdk_makes_step_for_step(sdk: dict[str, Any]) -> None:
    ours, theirs = definition(HERE), sdk["pipeline"]
    for number, step in enumerate(theirs["Steps"]):
        assert ours["Steps"][number] == step
    assert ours == theirs


def test_the_search_is_what_sagemaker_s_sdk_makes(sdk: dict[str, Any]) -> None:
    shared = Training(
        {"recipe": "hpo-frozen"}, HERE.uri("data"), HERE.uri("models", "search"), HERE.uri("checkpoints", "search")
    )
    ours = tuning_job(HERE, "search", Tuning(shared))
    assert ours.pop("HyperParameterTuningJobName") == "search"
    assert ours == sdk["tuning"]


OTHERWISE = {
    "GreaterThanOrEqualTo": "GreaterThan",  # its text says greater
    "Is-it-better": "Is-the-new-model-better",
    "Too-bad": "Keep-the-deployed-model",
    "LastReport": "DeployedAccuracy",
    "current_accuracy.json": "accuracy.json",
    "test_accuracy": "multiclass_classification_metrics.accuracy.value",
    "Accuracy_of_deployed_model": "accuracy",
    "/opt/ml/processing/test": "/opt/ml/processing/photos",  # all photos: the split is by bin
    "s3://our-bins/binwatch/data/test": "s3://our-bins/binwatch/data",
    "s3://our-bins/binwatch/current_accuracy.json": "s3://our-bins/binwatch/accuracy.json",
}
"""The report's words, and ours."""


def outline(value: Any) -> Any:
    """A definition by what its steps are, read, write and compare, with parameters as they are without being given.

    Left out: images and what starts in them (the report's code is an input; ours is in the image), machines and time
    limits, hyperparameters beyond the report's two, and the evaluation as a further input of the branches.
    """
    given = {f"Parameters.{each['Name']}": each["DefaultValue"] for each in value["Parameters"]}

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return given.get(part["Get"], part) if "Get" in part else {key: plain(each) for key, each in part.items()}
        return [plain(each) for each in part] if isinstance(part, list) else part

    return [_outline(each) for each in plain(value["Steps"])]


def _outline(step: dict[str, Any]) -> dict[str, Any]:
    arguments = step["Arguments"]
    found: dict[str, Any] = {"Name": step["Name"], "Type": step["Type"], "Files": step.get("PropertyFiles")}
    if step["Type"] == "Condition":
        branches = {key: [_outline(each) for each in arguments[key]] for key in ("IfSteps", "ElseSteps")}
        return {**found, "Conditions": arguments["Conditions"], **branches}
    if step["Type"] == "Training":
        numbers = arguments["HyperParameters"]
        rate = numbers.get("learning-rate") or numbers["lr"]
        return {
            **found,
            "Reads": arguments["InputDataConfig"],
            "Role": arguments["RoleArn"],
            "Learns": (numbers["batch-size"], rate),
        }
    inputs = {each["InputName"]: each["S3Input"] for each in arguments["ProcessingInputs"]}
    reads = [each for name, each in inputs.items() if name not in ("code", "evaluation")]
    writes = [
        (each["OutputName"], each["S3Output"]["LocalPath"])
        for each in arguments.get("ProcessingOutputConfig", {}).get("Outputs", ())
    ]
    return {**found, "Reads": reads, "Writes": writes, "Role": arguments["RoleArn"]}


def in_our_words(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: in_our_words(each) for key, each in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(in_our_words(each) for each in part)
    if isinstance(part, str) and part.startswith("Steps."):
        return ".".join(OTHERWISE.get(each, each) for each in part.split("."))
    return OTHERWISE.get(part, part) if isinstance(part, str) else part


def test_the_definition_is_the_report_s_pipeline_step_for_step(sdk: dict[str, Any]) -> None:
    assert outline(definition(HERE)) == in_our_words(outline(sdk["report"]))
