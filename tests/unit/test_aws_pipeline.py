import json
import re
import shutil
import tarfile
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve.errors import AwsError, DataError, SettingsError
from trainer.artifacts import EVALUATION
from trainer.aws import account, pipeline_commands, pipelines, processing_steps, training_log
from trainer.aws.definition import CONDITION, DEPLOYED, PARAMETERS, REPORT, TRAINING, definition
from trainer.aws.requests import AwsRequest, Recorder, check, problems
from trainer.aws.training_jobs import Training, metric_definitions, training_job
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/binwatch"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/binwatch-trainer:0.1.0"
HERE = account.account({"role": ROLE, "image": IMAGE, "bucket": "our-bins"})
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def asked(*words: str) -> list[AwsRequest]:
    """The requests that the script's words make, each checked against the service's description."""
    parser = ArgumentParser()
    account.add_options(parser, {})
    pipeline_commands.add_options(parser)
    api = Recorder()
    pipeline_commands.run(api, HERE, parser.parse_args(words), NOW)
    return api.requests


def resolved(value: Any) -> Any:
    """A definition's value with parameters as they are without being given, and other variables as a text."""
    if isinstance(value, list):
        return [resolved(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "Get" in value:
        name = value["Get"].removeprefix("Parameters.")
        return {"InputData": HERE.uri("data"), **PARAMETERS}.get(name, "s3://our-bins/later")
    if "Std:Join" in value:
        return value["Std:Join"]["On"].join(resolved(value["Std:Join"]["Values"]))
    return {key: resolved(each) for key, each in value.items()}


def all_steps() -> dict[str, Any]:
    found = {each["Name"]: each for each in definition(HERE)["Steps"]}
    branches = found[CONDITION]["Arguments"]
    return {**found, **{each["Name"]: each for each in (*branches["IfSteps"], *branches["ElseSteps"])}}


def test_the_script_s_words_become_requests_that_aws_takes() -> None:
    made = asked("--upsert", "--start", "--train", "--tune", "--status")
    assert [each.operation for each in made] == [
        "PutObject",
        "CreatePipeline",
        "UpdatePipeline",
        "ListObjectsV2",
        "StartPipelineExecution",
        "CreateTrainingJob",
        "CreateHyperParameterTuningJob",
        "ListPipelineExecutions",
        "DescribePipelineExecution",
        "ListPipelineExecutionSteps",
    ]
    assert {each.service for each in made} == {"sagemaker", "s3"}
    assert not [problem for each in made for problem in problems(each)]


@pytest.mark.parametrize("name", ["binwatch-train-1", "binwatch-tune-1"])
def test_asking_about_a_job_is_a_request_that_aws_takes(name: str) -> None:
    (made,) = asked("--status", name)
    assert made.operation.startswith("Describe")
    assert name in made.parameters.values()


def test_every_step_s_job_is_one_that_aws_takes() -> None:
    operations = {
        "Training": ("CreateTrainingJob", "TrainingJobName"),
        "Processing": ("CreateProcessingJob", "ProcessingJobName"),
    }
    made = {name: each for name, each in all_steps().items() if name != CONDITION}
    assert len(made) == 4
    for step in made.values():
        operation, name = operations[step["Type"]]
        check(AwsRequest("sagemaker", operation, {name: "some-job", **resolved(step["Arguments"])}))


def test_what_aws_would_refuse_is_found_in_a_job() -> None:
    job = training_job(HERE, "x", Training({"recipe": "best"}, "s3://b/d", "s3://b/o", "s3://b/c"))
    check(AwsRequest("sagemaker", "CreateTrainingJob", job))
    for wrong in ({"TrainingJobName": "-x"}, {"RoleArn": "binwatch"}, {"HyperParameters": {"epochs": 3}}):
        assert problems(AwsRequest("sagemaker", "CreateTrainingJob", {**job, **wrong})), wrong


def test_the_condition_is_greater_and_compares_the_two_files_of_the_evaluation() -> None:
    (better,) = all_steps()[CONDITION]["Arguments"]["Conditions"]
    assert better["Type"] == "GreaterThan"
    files = {each["PropertyFileName"]: each for each in all_steps()["Evaluation"]["PropertyFiles"]}
    assert {name: each["FilePath"] for name, each in files.items()} == {
        REPORT: "evaluation.json",
        DEPLOYED: "accuracy.json",
    }
    for side, name in (("LeftValue", REPORT), ("RightValue", DEPLOYED)):
        assert better[side]["Std:JsonGet"]["PropertyFile"] == {"Get": f"Steps.Evaluation.PropertyFiles.{name}"}


def test_every_variable_is_a_parameter_or_comes_from_an_earlier_step() -> None:
    text = json.dumps(definition(HERE))
    gets = set(re.findall(r'"Get": "([^"]+)"', text))
    declared = {f"Parameters.{each['Name']}" for each in definition(HERE)["Parameters"]}
    assert declared <= gets, "a parameter that nothing uses"
    others = {each for each in gets - declared if not each.startswith(("Steps.Training.", "Steps.Evaluation."))}
    assert others == {"Execution.PipelineName", "Execution.PipelineExecutionId"}


def test_only_the_training_is_cached_and_nothing_in_its_arguments_differs_between_executions() -> None:
    cached = {name for name, each in all_steps().items() if each.get("CacheConfig", {}).get("Enabled")}
    assert cached == {TRAINING}
    assert "Execution." not in json.dumps(all_steps()[TRAINING])
    assert "Parameters.DataVersion" in json.dumps(all_steps()[TRAINING])


def test_deploying_is_tried_again_only_where_it_has_not_begun() -> None:
    kinds = {kind for each in all_steps()["Update-endpoint"]["RetryPolicies"] for kind in each["ExceptionType"]}
    assert "SageMaker.JOB_INTERNAL_ERROR" not in kinds
    assert kinds == {"Step.SERVICE_FAULT", "Step.THROTTLING", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"}


def test_the_update_step_runs_words_that_the_deploying_script_takes() -> None:
    application = definition(HERE, ("--update", "all-at-once"))["Steps"][2]["Arguments"]["IfSteps"][0]["Arguments"][
        "AppSpecification"
    ]
    script = ROOT / application["ContainerEntrypoint"][1]
    sources = [script, ROOT / "trainer" / "aws" / "wanted.py", ROOT / "trainer" / "aws" / "choose.py"]
    known = set(re.findall(r'"(--[a-z-]+)"', "".join(each.read_text() for each in sources)))
    options = {each for each in application["ContainerArguments"] if each.startswith("--")}
    assert options == {"--archive", "--evaluation", "--role", "--bucket", "--prefix", "--update"}
    assert options <= known


def test_the_pipeline_s_hyperparameters_are_ones_that_the_trainer_reads(tmp_path: Path) -> None:
    from trainer.aws import training_container

    values = resolved(all_steps()[TRAINING]["Arguments"]["HyperParameters"])
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "data" / "training" / "bin-images").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(values))
    recipe = training_container.read_job(tmp_path, {"TRAINING_JOB_NAME": "x"}).recipe
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.learning_rate) == ("resnet34-pipeline", 3, 64, 0.01)
    assert (
        training_container.read_job(tmp_path, {"TRAINING_JOB_NAME": "x"}).checkpoints == tmp_path / "checkpoints" / "x"
    )


def test_sagemaker_s_patterns_find_the_numbers_that_the_trainer_prints() -> None:
    numbers = {"train_loss": 1.5, "train_accuracy": 0.25, "validation_loss": 1.75, "validation_accuracy": 0.125}
    lines = [
        training_log.epoch_line(3, numbers, 1.25),
        training_log.evaluation_line({"test_accuracy": 0.5, "test_rmse": 1.0}),
    ]
    found = {each["Name"]: re.findall(each["Regex"], "\n".join(lines)) for each in metric_definitions()}
    expected = {**numbers, "best_validation_loss": 1.25, "test_accuracy": 0.5, "test_rmse": 1.0}
    assert found == {name: [f"{value:.4f}"] for name, value in expected.items()}


def test_a_search_is_bayesian_over_the_report_s_space_on_spot_instances_with_checkpoints() -> None:
    made = asked("--tune", "--trials", "9", "--parallel", "3", "--set", "epochs=2")[0].parameters
    config, job = made["HyperParameterTuningJobConfig"], made["TrainingJobDefinition"]
    assert config["Strategy"] == "Bayesian"
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": "best_validation_loss"}
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 9, "MaxParallelTrainingJobs": 3}
    (rate,) = config["ParameterRanges"]["ContinuousParameterRanges"]
    assert (rate["MinValue"], rate["MaxValue"], rate["ScalingType"]) == ("0.001", "0.1", "Logarithmic")
    choices = {each["Name"]: each["Values"] for each in config["ParameterRanges"]["CategoricalParameterRanges"]}
    assert choices == {"batch-size": ["16", "32", "64"], "architecture": ["resnet34", "vgg16", "alexnet"]}
    assert job["EnableManagedSpotTraining"]
    assert job["CheckpointConfig"]["S3Uri"] == HERE.uri("checkpoints", made["HyperParameterTuningJobName"])
    assert job["StoppingCondition"]["MaxWaitTimeInSeconds"] >= job["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert job["StaticHyperParameters"] == {"recipe": "hpo-frozen", "epochs": "2", "export": "false"}


def test_on_demand_leaves_spot_and_checkpoints_away() -> None:
    made = asked("--train", "--on-demand")[0].parameters
    assert "EnableManagedSpotTraining" not in made
    assert "CheckpointConfig" not in made
    assert "MaxWaitTimeInSeconds" not in made["StoppingCondition"]


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({}, ["no role", "no image", "no bucket"]),
        ({"role": "binwatch", "image": IMAGE, "bucket": "b-1"}, ["role 'binwatch' is no ARN"]),
        ({"role": ROLE, "image": "binwatch-trainer", "bucket": "b-1"}, ["'binwatch-trainer' is not in ECR"]),
        ({"role": ROLE, "image": IMAGE.replace("0.1.0", "latest"), "bucket": "b-1"}, ["tag latest"]),
        ({"role": ROLE, "image": IMAGE, "bucket": "s3://b"}, ["'s3://b' is no name of a bucket"]),
        ({"role": ROLE, "image": IMAGE, "bucket": "192.168.0.1"}, ["no name of a bucket"]),
        ({"role": ROLE, "image": IMAGE, "bucket": "b-1", "prefix": "a b"}, ["the prefix 'a b'"]),
        ({"role": "x", "image": "y", "bucket": "Z"}, ["role 'x'", "image 'y'", "'Z'"]),
    ],
)
def test_settings_that_cannot_be_are_all_named(options: dict[str, str], reasons: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        account.account(options)
    assert all(each in str(caught.value) for each in reasons), caught.value


def test_an_image_by_its_digest_is_taken() -> None:
    image = IMAGE.replace(":0.1.0", "@sha256:" + "ab" * 32)
    found = account.account({"role": ROLE, "image": image, "bucket": "our-bins"})
    assert (found.region, found.image_version) == ("eu-central-1", "ab" * 6)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--start", "--set", "Recpie=best"], "no parameter Recpie; it has InputData, Training"),
        (["--start", "--set", "Recipe"], "'Recipe' is not NAME=VALUE"),
        (["--train", "--set", "lr=0.1"], "no hyperparameter lr; it has"),
        (["--tune", "--trials", "2", "--parallel", "3"], "2 trials, 3 at a time"),
        (["--status", "my-job"], "'my-job' is neither the ARN"),
        (["--name", "a b", "--upsert"], "CreatePipeline would be refused by AWS: PipelineName is 'a b'"),
        (["--train", "--instance-type", "g4dn"], "InstanceType is 'g4dn'"),
    ],
)
def test_words_that_cannot_be_are_refused_before_aws_is_asked(words: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        asked(*words)


class Answers:
    """Answers as AWS would, from a list by operation; each request is checked as before it is sent."""

    def __init__(self, **answers: list[dict[str, Any]]) -> None:
        self.answers, self.requests = answers, list[AwsRequest]()

    def call(self, request: AwsRequest) -> dict[str, Any]:
        check(request)
        self.requests.append(request)
        return self.answers[request.operation].pop(0)


def test_photos_that_change_change_the_version_of_the_data() -> None:
    def page(etag: str, more: str = "") -> dict[str, Any]:
        found = {"KeyCount": 1, "Contents": [{"Key": f"binwatch/data/{etag}", "ETag": etag, "Size": 3}]}
        return {**found, "NextContinuationToken": more} if more else found

    versions = [
        pipelines.data_version(Answers(ListObjectsV2=pages), "s3://our-bins/binwatch/data")
        for pages in ([page("a")], [page("a")], [page("b")], [page("a", "t"), page("b")])
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    with pytest.raises(AwsError, match="nothing lies below s3://our-bins/binwatch/data"):
        pipelines.data_version(Answers(ListObjectsV2=[{"KeyCount": 0}]), "s3://our-bins/binwatch/data")


def test_an_execution_is_told_with_its_steps_page_by_page() -> None:
    then = datetime(2026, 3, 1, tzinfo=UTC)
    one = {
        "StepName": "Training",
        "StepStatus": "Succeeded",
        "StartTime": then,
        "EndTime": then.replace(minute=2),
        "CacheHitResult": {},
    }
    two = {
        "StepName": "Evaluation",
        "StepStatus": "Failed",
        "StartTime": then,
        "EndTime": then.replace(second=5),
        "FailureReason": "no photos",
    }
    three = {"StepName": "Other", "StepStatus": "Executing", "StartTime": then}
    api = Answers(
        DescribePipelineExecution=[{"PipelineExecutionStatus": "Failed", "FailureReason": "a step failed"}],
        ListPipelineExecutionSteps=[
            {"PipelineExecutionSteps": [one], "NextToken": "more"},
            {"PipelineExecutionSteps": [two, three]},
        ],
    )
    arn = "arn:aws:sagemaker:eu-central-1:123456789012:pipeline/binwatch/execution/abcdefghijkl"
    found = pipelines.execution(api, HERE, "binwatch", arn)
    assert found.steps == (
        pipelines.Step("Training", "Succeeded", 120.0, True, ""),
        pipelines.Step("Evaluation", "Failed", 5.0, False, "no photos"),
        pipelines.Step("Other", "Executing", None, False, ""),
    )
    assert str(found).splitlines()[0] == f"Failed: a step failed  {arn}"
    assert "no photos" in str(found)


def test_the_best_of_a_search_is_trained_with_its_hyperparameters() -> None:
    best = {
        "TunedHyperParameters": {"learning-rate": "0.002", "batch-size": "16", "architecture": "vgg16"},
        "FinalHyperParameterTuningJobObjectiveMetric": {"Value": 1.4321},
    }
    told = {"HyperParameterTuningJobStatus": "Completed", "BestTrainingJob": best}
    found = pipelines.job(Answers(DescribeHyperParameterTuningJob=[told]), "binwatch-tune-1")
    assert (found.status, found.loss, found.best["architecture"]) == ("Completed", 1.4321, "vgg16")
    parser = ArgumentParser()
    pipeline_commands.add_options(parser)
    api = Answers(DescribeHyperParameterTuningJob=[told], CreateTrainingJob=[{"TrainingJobArn": "x"}])
    pipeline_commands.run(
        api, HERE, parser.parse_args(["--train", "--best-of", "binwatch-tune-1", "--set", "epochs=9"]), NOW
    )
    assert api.requests[-1].parameters["HyperParameters"] == {
        "recipe": "resnet34-scratch",
        "learning-rate": "0.002",
        "batch-size": "16",
        "architecture": "vgg16",
        "epochs": "9",
    }


@pytest.fixture
def processing(trained: Trained, drawn: Path, tmp_path: Path) -> Path:
    """/opt/ml/processing as the evaluation finds it, after the first training."""
    for folder in ("model", "accuracy"):
        (tmp_path / folder).mkdir()
    (tmp_path / "photos").symlink_to(drawn)
    with tarfile.open(tmp_path / "model" / "model.tar.gz", "w:gz") as tar:
        for path in trained.archive.parent.iterdir():
            tar.add(path, path.name)
    deployed(tmp_path, **pipelines.NOTHING_DEPLOYED)
    return tmp_path


def deployed(base: Path, **content: Any) -> None:
    (base / "accuracy" / "accuracy.json").write_text(json.dumps(content))


def nothing_is_fetched(uri: str, folder: Path) -> Path:
    raise AssertionError(f"{uri} was fetched")


def test_the_evaluation_writes_what_the_condition_compares(processing: Path, trained: Trained) -> None:
    challenger, accuracy = processing_steps.evaluate_step(processing, None, nothing_is_fetched)
    before = json.loads(trained.archive.with_name(EVALUATION).read_text())["binwatch"]
    assert challenger.accuracy == before["accuracy"], "the training job evaluated the same archive on the same photos"
    assert challenger.fingerprint == before["fingerprint"]
    assert accuracy == 0.1
    written = {
        name: json.loads((processing / "evaluation" / name).read_text()) for name in (EVALUATION, "accuracy.json")
    }
    assert written[EVALUATION]["multiclass_classification_metrics"]["accuracy"]["value"] == challenger.accuracy
    assert written["accuracy.json"]["accuracy"] == 0.1


def test_what_was_tested_on_other_photos_is_fetched_and_asked_again(
    processing: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed(processing, accuracy=0.99, version="3", fingerprint="of others", archive="s3://b/m/bin-counter.mar")

    def fetched(uri: str, folder: Path) -> Path:
        assert uri == "s3://b/m/bin-counter.mar"
        return Path(shutil.copy(trained.archive, folder / "deployed.mar"))

    challenger, accuracy = processing_steps.evaluate_step(processing, "1-5", fetched)
    assert accuracy == challenger.accuracy, "it is the same archive"
    parser = ArgumentParser()
    assert processing_steps.main(parser.parse_args([], _step("keep", processing))) == 0
    said = capsys.readouterr().out
    assert f"{challenger.accuracy:.1%} is not greater than the deployed {accuracy:.1%}: it stays" in said
    deployed(processing, accuracy=0.99, version="3", fingerprint=challenger.fingerprint)
    assert processing_steps.evaluate_step(processing, "1-5", nothing_is_fetched)[1] == 0.99


def _step(name: str, base: Path) -> Any:
    import argparse

    return argparse.Namespace(step=name, base=base, counts=None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"accuracy": 0.5, "version": "3"}', "not where its archive is"),
        ('{"accuracy": "many", "version": "3"}', "does not say what is deployed"),
        ("[]", "does not say what is deployed"),
    ],
)
def test_what_cannot_be_compared_is_an_error(processing: Path, content: str, reason: str) -> None:
    (processing / "accuracy" / "accuracy.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        processing_steps.evaluate_step(processing, None, nothing_is_fetched)
