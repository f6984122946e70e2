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
from tests.integration.pipeline_steps import steps_proxy
from trainer.aws import account, pipeline_commands, pipelines
from trainer.aws.definition import PARAMETERS, definition
from trainer.aws.requests import Answer, Aws
from trainer.aws.training_jobs import Training, metric_definitions
from trainer.aws.training_log import OF_RECIPE
from trainer.aws.tuning import Tuning, tuning_job
from trainer.training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
REGION, BUCKET = "eu-central-1", "our-bins"
OPTIONS = {
    "role": "arn:aws:iam::123456789012:role/binwatch",
    "bucket": BUCKET,
    "prefix": "binwatch",
    "image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/binwatch-trainer:0.1.0",
}
HERE = account.read_account(OPTIONS)
NO_CREDENTIALS = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BINWATCH_AWS_"))} | {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
CREDENTIALS = {**NO_CREDENTIALS, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """moto's server in place of AWS, with a bucket of photos."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        credentials = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": REGION}
        s3 = boto3.client("s3", endpoint_url=url, **credentials)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=BUCKET, Key="binwatch/data/bin-images/1.jpg", Body=b"a photo")
        yield url
    finally:
        server.stop()


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The real client, with moto; a proxy answers ListPipelineExecutionSteps."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    with steps_proxy(moto) as url:
        yield Aws(REGION, url)


def run(url: str, *arguments: str, environ: dict[str, str] = CREDENTIALS) -> subprocess.CompletedProcess[str]:
    options = [f"--{key}={value}" for key, value in OPTIONS.items()]
    command = [sys.executable, "scripts/sagemaker_pipeline.py", *options, *arguments]
    environ = {**environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": url} if url else environ
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)


def test_the_pipeline_is_created_updated_started_and_described(aws: Aws) -> None:
    assert pipelines.upsert(aws, HERE, "binwatch") == "created"
    assert pipelines.upsert(aws, HERE, "binwatch", ("--update", "all-at-once")) == "updated"
    arn = pipelines.start(aws, HERE, "binwatch", {"Recipe": "best"}, "a" * 32)
    assert re.fullmatch(r"arn:aws:sagemaker:eu-central-1:\d{12}:pipeline/binwatch/execution/[a-z0-9]{12}", arn)
    execution = pipelines.describe_execution(aws, HERE, "binwatch")
    assert (execution.arn, execution.status) == (arn, "Succeeded")
    names = ["Training", "Evaluation", "Is-the-new-model-better", "Update-endpoint"]
    assert [(step.name, step.status) for step in execution.steps] == [(name, "Succeeded") for name in names]
    assert execution.steps[0].seconds == 60.0
    assert execution == pipelines.describe_execution(aws, HERE, "binwatch", arn)


def test_the_initial_accuracy_is_written_once_and_never_overwritten(aws: Aws, moto: str) -> None:
    s3 = boto3.client("s3", endpoint_url=moto, region_name=REGION)
    pipelines.upsert(aws, HERE, "other")
    body = s3.get_object(Bucket=BUCKET, Key="binwatch/accuracy.json")["Body"].read()
    assert json.loads(body) == {"accuracy": 0.1, "version": None}
    s3.put_object(Bucket=BUCKET, Key="binwatch/accuracy.json", Body=b'{"accuracy": 0.4, "version": "7"}')
    pipelines.upsert(aws, HERE, "other")
    body = s3.get_object(Bucket=BUCKET, Key="binwatch/accuracy.json")["Body"].read()
    assert json.loads(body)["version"] == "7"


def test_the_script_does_all_of_it(moto: str) -> None:
    with steps_proxy(moto) as url:
        done = run(url, "--name", "mine", "--upsert", "--start", "--train", "--tune", "--status", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["pipeline"], result["did"], result["status"]) == ("mine", "created", "Succeeded")
    assert result["execution"] == result["arn"]
    aws = boto3.client(
        "sagemaker", endpoint_url=moto, region_name=REGION, aws_access_key_id="none", aws_secret_access_key="none"
    )
    job = aws.describe_training_job(TrainingJobName=result["training_job"])
    assert job["AlgorithmSpecification"]["TrainingImage"] == HERE.image
    search = aws.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=result["tuning_job"])
    assert search["HyperParameterTuningJobConfig"]["Strategy"] == "Bayesian"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--start", "--name", "nowhere"], "no pipeline 'nowhere' in eu-central-1"),
        (["--status", "--name", "nowhere"], "there is no pipeline 'nowhere'"),
        (
            ["--status", f"arn:aws:sagemaker:{REGION}:123456789012:pipeline/binwatch/execution/aaaaaaaaaaaa"],
            "there is no execution arn:aws:sagemaker",
        ),
        (["--status", "binwatch-train-0"], "there is no job binwatch-train-0"),
        (["--status", "binwatch-tune-0"], "there is no job binwatch-tune-0"),
        (["--start", "--data", "s3://our-bins/nothing"], "s3://our-bins/nothing"),
        (["--upsert", "--bucket", "not-there"], "NoSuchBucket"),
    ],
)
def test_what_does_not_exist_is_named(aws: Aws, options: list[str], reason: str) -> None:
    parser = ArgumentParser()
    account.add_options(parser, {})
    pipeline_commands.add_options(parser)
    args = parser.parse_args([*(f"--{key}={value}" for key, value in OPTIONS.items()), *options])
    with pytest.raises(AwsError, match=re.escape(reason)):
        pipeline_commands.run(aws, account.read_account(vars(args)), args)


def test_an_error_is_one_line_and_a_setting_s_ends_with_2() -> None:
    done = run("", "--upsert", "--role", "me", environ=NO_CREDENTIALS)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "'me'" in done.stderr


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
    assert all(set(request) == {"service", "operation", "parameters"} for request in requests)
    assert [request["operation"] for request in requests][:2] == ["PutObject", "CreatePipeline"]
    assert json.loads(requests[1]["parameters"]["PipelineDefinition"]) == definition(HERE)


@pytest.fixture(scope="module")
def sdk(toolkits: Path, moto: str) -> Answer:
    """The definitions that SageMaker's SDK 2 writes for the same things."""
    options: Answer = {
        **OPTIONS,
        "region": HERE.region,
        "tag": HERE.image_version,
        "metrics": metric_definitions(),
        "parameters": {"InputData": account.folder(HERE.uri("data")), **PARAMETERS},
    }
    program = ROOT / "tests" / "integration" / "sdk_pipeline.py"
    command: list[str] = [str(toolkits / "python"), "-P", str(program), json.dumps(options)]
    environ = {**CREDENTIALS, "AWS_ENDPOINT_URL": moto, "AWS_DEFAULT_REGION": REGION}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    definitions: Answer = json.loads(done.stdout.splitlines()[-1])
    return definitions


def test_the_definition_is_that_of_sagemaker_s_sdk_step_for_step(sdk: Answer) -> None:
    pipeline = definition(HERE)
    for number, step in enumerate(sdk["pipeline"]["Steps"]):
        assert pipeline["Steps"][number] == step
    assert pipeline == sdk["pipeline"]


def test_the_tuning_job_is_that_of_sagemaker_s_sdk(sdk: Answer) -> None:
    training = Training(
        hyperparameters={"recipe": "hpo-frozen"},
        data=HERE.uri("data"),
        output=HERE.uri("models", "search"),
        checkpoints=HERE.uri("checkpoints", "search"),
    )
    job = tuning_job(HERE, "search", Tuning(training))
    assert job.pop("HyperParameterTuningJobName") == "search"
    assert job == sdk["tuning"]


OWN_WORDS = {
    "GreaterThanOrEqualTo": "GreaterThan",  # its text says greater
    "Is-it-better": "Is-the-new-model-better",
    "Too-bad": "Keep-the-deployed-model",
    "LastReport": "DeployedAccuracy",
    "current_accuracy.json": "accuracy.json",
    "test_accuracy": "multiclass_classification_metrics.accuracy.value",
    "Accuracy_of_deployed_model": "accuracy",
    "/opt/ml/processing/test": "/opt/ml/processing/photos",  # all photos: the split is by bin
    "s3://our-bins/binwatch/data/test": "s3://our-bins/binwatch/data/",
    "s3://our-bins/binwatch/current_accuracy.json": "s3://our-bins/binwatch/accuracy.json",
}
"""Word of the report -> word of the project."""


def outline(pipeline: Answer) -> list[Answer]:
    """The steps of a definition: what they are, read, write and compare, with the defaults of parameters.

    Left out: images and their entry points (the report's code is an input, the project's is in the image), machines and
    time limits, hyperparameters beyond the report's two, and the evaluation as a further input of the branches.
    """
    defaults = {f"Parameters.{item['Name']}": item["DefaultValue"] for item in pipeline["Parameters"]}

    def resolve(part: Any) -> Any:
        if isinstance(part, dict):
            if "Get" in part:
                return defaults.get(part["Get"], part)
            return {key: resolve(item) for key, item in part.items()}
        return [resolve(item) for item in part] if isinstance(part, list) else part

    return [_outline(step) for step in resolve(pipeline["Steps"])]


def _outline(step: Answer) -> Answer:
    arguments = step["Arguments"]
    summary = {"Name": step["Name"], "Type": step["Type"], "Files": step.get("PropertyFiles")}
    if step["Type"] == "Condition":
        branches = {key: [_outline(branch) for branch in arguments[key]] for key in ("IfSteps", "ElseSteps")}
        return {**summary, "Conditions": arguments["Conditions"], **branches}
    if step["Type"] == "Training":
        hyperparameters = arguments["HyperParameters"]
        recipe = RECIPES["resnet34-pipeline"]
        rate = hyperparameters.get("learning-rate") or hyperparameters["lr"]
        of_recipe = {"batch-size": str(recipe.batch_size), "learning-rate": str(recipe.learning_rate)}
        return {
            **summary,
            "Reads": arguments["InputDataConfig"],
            "Role": arguments["RoleArn"],
            "Learns": (
                of_recipe["batch-size"]
                if hyperparameters["batch-size"] == OF_RECIPE
                else hyperparameters["batch-size"],
                of_recipe["learning-rate"] if rate == OF_RECIPE else rate,
            ),
        }
    inputs = {item["InputName"]: item["S3Input"] for item in arguments["ProcessingInputs"]}
    reads = [source for name, source in inputs.items() if name not in ("code", "evaluation")]
    writes = [
        (output["OutputName"], output["S3Output"]["LocalPath"])
        for output in arguments.get("ProcessingOutputConfig", {}).get("Outputs", ())
    ]
    return {**summary, "Reads": reads, "Writes": writes, "Role": arguments["RoleArn"]}


def in_own_words(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: in_own_words(item) for key, item in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(in_own_words(item) for item in part)
    if isinstance(part, str) and part.startswith("Steps."):
        return ".".join(OWN_WORDS.get(word, word) for word in part.split("."))
    return OWN_WORDS.get(part, part) if isinstance(part, str) else part


def test_the_definition_is_the_report_s_pipeline_step_for_step(sdk: Answer) -> None:
    assert outline(definition(HERE)) == in_own_words(outline(sdk["report"]))
