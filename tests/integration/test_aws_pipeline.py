import json
import re
import shutil
import tarfile
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve.errors import AwsError, DataError, SettingsError
from trainer.artifacts import EVALUATION
from trainer.aws import account, pipeline_commands, pipelines, processing_steps, training_log
from trainer.aws.definition import CONDITION, DEPLOYED, PARAMETERS, REPORT, TRAINING, definition
from trainer.aws.requests import Answer, AwsRequest, Recorder, check, problems
from trainer.aws.training_jobs import Training, metric_definitions, training_job
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/binwatch"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/binwatch-trainer:0.1.0"
HERE = account.read_account({"role": ROLE, "image": IMAGE, "bucket": "our-bins"})
TRAINING_JOB = Training(hyperparameters={"recipe": "best"}, data="s3://b/d", output="s3://b/o", checkpoints="s3://b/c")
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def recorded(*options: str) -> list[AwsRequest]:
    """The requests that the script's options cause; the recorder validates each."""
    parser = ArgumentParser()
    account.add_options(parser, {})
    pipeline_commands.add_options(parser)
    api = Recorder()
    pipeline_commands.run(api, HERE, parser.parse_args(options), NOW)
    return api.requests


def resolve(value: Any) -> Any:
    """A part of a definition, with the defaults of parameters, and a string in place of other references."""
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "Get" in value:
        name = value["Get"].removeprefix("Parameters.")
        return {"InputData": account.folder(HERE.uri("data")), **PARAMETERS}.get(name, "s3://our-bins/later")
    if "Std:Join" in value:
        return value["Std:Join"]["On"].join(resolve(value["Std:Join"]["Values"]))
    return {key: resolve(item) for key, item in value.items()}


def all_steps() -> Answer:
    steps = {step["Name"]: step for step in definition(HERE)["Steps"]}
    branches = steps[CONDITION]["Arguments"]
    return {**steps, **{step["Name"]: step for step in (*branches["IfSteps"], *branches["ElseSteps"])}}


def test_the_script_s_options_become_requests_that_aws_takes() -> None:
    requests = recorded("--upsert", "--start", "--train", "--tune", "--status")
    assert [request.operation for request in requests] == [
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
    assert {request.service for request in requests} == {"sagemaker", "s3"}
    assert not [problem for request in requests for problem in problems(request)]


@pytest.mark.parametrize("name", ["binwatch-train-1", "binwatch-tune-1"])
def test_asking_about_a_job_is_a_request_that_aws_takes(name: str) -> None:
    (request,) = recorded("--status", name)
    assert request.operation.startswith("Describe")
    assert name in request.parameters.values()


def test_every_step_s_job_is_one_that_aws_takes() -> None:
    operations = {
        "Training": ("CreateTrainingJob", "TrainingJobName"),
        "Processing": ("CreateProcessingJob", "ProcessingJobName"),
    }
    steps = [step for name, step in all_steps().items() if name != CONDITION]
    assert len(steps) == 4
    for step in steps:
        operation, name = operations[step["Type"]]
        check(AwsRequest("sagemaker", operation, {name: "some-job", **resolve(step["Arguments"])}))


def test_what_aws_would_refuse_is_found_in_a_job() -> None:
    job = training_job(HERE, "x", TRAINING_JOB)
    check(AwsRequest("sagemaker", "CreateTrainingJob", job))
    for wrong in ({"TrainingJobName": "-x"}, {"RoleArn": "binwatch"}, {"HyperParameters": {"epochs": 3}}):
        assert problems(AwsRequest("sagemaker", "CreateTrainingJob", {**job, **wrong})), wrong


def test_the_condition_is_greater_and_compares_the_two_files_of_the_evaluation() -> None:
    (better,) = all_steps()[CONDITION]["Arguments"]["Conditions"]
    assert better["Type"] == "GreaterThan"
    files = all_steps()["Evaluation"]["PropertyFiles"]
    assert {file["PropertyFileName"]: file["FilePath"] for file in files} == {
        REPORT: "evaluation.json",
        DEPLOYED: "accuracy.json",
    }
    for side, name in (("LeftValue", REPORT), ("RightValue", DEPLOYED)):
        assert better[side]["Std:JsonGet"]["PropertyFile"] == {"Get": f"Steps.Evaluation.PropertyFiles.{name}"}


def test_every_variable_is_a_parameter_or_comes_from_an_earlier_step() -> None:
    text = json.dumps(definition(HERE))
    gets = set(re.findall(r'"Get": "([^"]+)"', text))
    declared = {f"Parameters.{parameter['Name']}" for parameter in definition(HERE)["Parameters"]}
    assert declared <= gets, "an unused parameter"
    others = {name for name in gets - declared if not name.startswith(("Steps.Training.", "Steps.Evaluation."))}
    assert others == {"Execution.PipelineName", "Execution.PipelineExecutionId"}


def test_only_the_training_is_cached_and_nothing_in_its_arguments_differs_between_executions() -> None:
    cached = {name for name, step in all_steps().items() if step.get("CacheConfig", {}).get("Enabled")}
    assert cached == {TRAINING}
    assert "Execution." not in json.dumps(all_steps()[TRAINING])
    assert "Parameters.DataVersion" in json.dumps(all_steps()[TRAINING])


def test_deploying_is_retried_only_where_it_has_not_started() -> None:
    policies = all_steps()["Update-endpoint"]["RetryPolicies"]
    kinds = {kind for policy in policies for kind in policy["ExceptionType"]}
    assert "SageMaker.JOB_INTERNAL_ERROR" not in kinds
    assert kinds == {"Step.SERVICE_FAULT", "Step.THROTTLING", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"}


def test_the_update_step_uses_options_of_the_deploying_script() -> None:
    branches = definition(HERE, ("--update", "all-at-once"))["Steps"][2]["Arguments"]
    application = branches["IfSteps"][0]["Arguments"]["AppSpecification"]
    script = ROOT / application["ContainerEntrypoint"][1]
    endpoint = ROOT / "trainer" / "aws" / "endpoint"
    sources = [script, endpoint / "endpoint_spec.py", endpoint / "choose.py"]
    known = set(re.findall(r'"(--[a-z-]+)"', "".join(source.read_text() for source in sources)))
    options = {word for word in application["ContainerArguments"] if word.startswith("--")}
    assert options == {"--archive", "--evaluation", "--role", "--bucket", "--prefix", "--update"}
    assert options <= known


def test_the_pipeline_s_hyperparameters_are_ones_that_the_trainer_reads(tmp_path: Path) -> None:
    from trainer.aws import training_container

    values = resolve(all_steps()[TRAINING]["Arguments"]["HyperParameters"])
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "data" / "training" / "bin-images").mkdir(parents=True)
    (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(values))
    job = training_container.read_job(tmp_path, {"TRAINING_JOB_NAME": "x"})
    recipe = job.recipe
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.learning_rate) == ("resnet34-pipeline", 3, 64, 0.01)
    assert job.checkpoints == tmp_path / "checkpoints" / "x"


def test_sagemaker_s_patterns_find_the_numbers_that_the_trainer_prints() -> None:
    numbers = {"train_loss": 1.5, "train_accuracy": 0.25, "validation_loss": 1.75, "validation_accuracy": 0.125}
    lines = [
        training_log.epoch_line(3, numbers, 1.25),
        training_log.evaluation_line({"test_accuracy": 0.5, "test_rmse": 1.0}),
    ]
    matches = {metric["Name"]: re.findall(metric["Regex"], "\n".join(lines)) for metric in metric_definitions()}
    expected = {**numbers, "best_validation_loss": 1.25, "test_accuracy": 0.5, "test_rmse": 1.0}
    assert matches == {name: [f"{value:.4f}"] for name, value in expected.items()}


def test_a_search_is_bayesian_over_the_report_s_space_on_spot_instances_with_checkpoints() -> None:
    parameters = recorded("--tune", "--trials", "9", "--parallel", "3", "--set", "epochs=2")[0].parameters
    config, job = parameters["HyperParameterTuningJobConfig"], parameters["TrainingJobDefinition"]
    assert config["Strategy"] == "Bayesian"
    assert config["HyperParameterTuningJobObjective"] == {"Type": "Minimize", "MetricName": "best_validation_loss"}
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 9, "MaxParallelTrainingJobs": 3}
    (rate,) = config["ParameterRanges"]["ContinuousParameterRanges"]
    assert (rate["MinValue"], rate["MaxValue"], rate["ScalingType"]) == ("0.001", "0.1", "Logarithmic")
    choices = {choice["Name"]: choice["Values"] for choice in config["ParameterRanges"]["CategoricalParameterRanges"]}
    assert choices == {"batch-size": ["16", "32", "64"], "architecture": ["resnet34", "vgg16", "alexnet"]}
    assert job["EnableManagedSpotTraining"]
    assert job["CheckpointConfig"]["S3Uri"] == HERE.uri("checkpoints", parameters["HyperParameterTuningJobName"])
    assert job["StoppingCondition"]["MaxWaitTimeInSeconds"] >= job["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert job["StaticHyperParameters"] == {"recipe": "hpo-frozen", "epochs": "2", "export": "false"}


def test_on_demand_leaves_spot_and_checkpoints_away() -> None:
    parameters = recorded("--train", "--on-demand")[0].parameters
    assert "EnableManagedSpotTraining" not in parameters
    assert "CheckpointConfig" not in parameters
    assert "MaxWaitTimeInSeconds" not in parameters["StoppingCondition"]


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
def test_all_invalid_settings_are_named(options: dict[str, str], reasons: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        account.read_account(options)
    assert all(reason in str(caught.value) for reason in reasons), caught.value


def test_a_pipeline_with_another_recipe_trains_by_that_recipe(tmp_path: Path) -> None:
    """The pipeline always sends epochs, batch size and learning rate; unless somebody sets them, the recipe's count."""
    from trainer.aws import training_container

    for name, changed, expected in (
        ("best", {}, (8, 32, 0.001)),
        ("best", {"epochs": "2"}, (2, 32, 0.001)),
        ("resnet34-scratch", {"learning-rate": "0.5"}, (10, 16, 0.5)),
    ):
        values = {**resolve(all_steps()[TRAINING]["Arguments"]["HyperParameters"]), "recipe": name, **changed}
        (tmp_path / "input" / "config").mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / "config" / "hyperparameters.json").write_text(json.dumps(values))
        (tmp_path / "input" / "data" / "training").mkdir(parents=True, exist_ok=True)
        recipe = training_container.read_job(tmp_path, {}).recipe
        assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.learning_rate) == (name, *expected)


def test_addresses_of_photos_end_in_a_slash() -> None:
    """SageMaker reads a prefix: without the slash, data-old/ would be read with data/."""
    for words in (["--train"], ["--tune"], ["--train", "--data", "s3://bins/photos"]):
        (channel,) = next(
            part["InputDataConfig"]
            for request in recorded(*words)
            for part in (request.parameters, request.parameters.get("TrainingJobDefinition", {}))
            if "InputDataConfig" in part
        )
        assert channel["DataSource"]["S3DataSource"]["S3Uri"].endswith(("/data/", "/photos/"))
    start = recorded("--start", "--data", "s3://bins/photos")[-1].parameters["PipelineParameters"]
    assert {"Name": "InputData", "Value": "s3://bins/photos/"} in start
    defaults = {part["Name"]: part["DefaultValue"] for part in definition(HERE)["Parameters"]}
    assert defaults["InputData"].endswith("/data/")


def test_an_image_by_its_digest_is_taken() -> None:
    image = IMAGE.replace(":0.1.0", "@sha256:" + "ab" * 32)
    by_digest = account.read_account({"role": ROLE, "image": image, "bucket": "our-bins"})
    assert (by_digest.region, by_digest.image_version) == ("eu-central-1", "ab" * 6)


@pytest.mark.parametrize(
    ("options", "reason"),
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
def test_invalid_options_are_refused_before_a_request_is_sent(options: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        recorded(*options)


class CannedApi:
    """Answers from lists by operation, and validates the requests."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers, self.requests = answers, list[AwsRequest]()

    def call(self, request: AwsRequest) -> Answer:
        check(request)
        self.requests.append(request)
        return self.answers[request.operation].pop(0)


def test_photos_that_change_change_the_version_of_the_data() -> None:
    def page(etag: str, token: str = "") -> Answer:
        content = {"KeyCount": 1, "Contents": [{"Key": f"binwatch/data/{etag}", "ETag": etag, "Size": 3}]}
        return {**content, "NextContinuationToken": token} if token else content

    versions = [
        pipelines.data_version(CannedApi(ListObjectsV2=pages), "s3://our-bins/binwatch/data")
        for pages in ([page("a")], [page("a")], [page("b")], [page("a", "t"), page("b")])
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    with pytest.raises(AwsError, match="s3://our-bins/binwatch/data"):
        pipelines.data_version(CannedApi(ListObjectsV2=[{"KeyCount": 0}]), "s3://our-bins/binwatch/data")


def test_an_execution_is_described_with_the_steps_of_all_pages() -> None:
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
    api = CannedApi(
        DescribePipelineExecution=[{"PipelineExecutionStatus": "Failed", "FailureReason": "a step failed"}],
        ListPipelineExecutionSteps=[
            {"PipelineExecutionSteps": [one], "NextToken": "more"},
            {"PipelineExecutionSteps": [two, three]},
        ],
    )
    arn = "arn:aws:sagemaker:eu-central-1:123456789012:pipeline/binwatch/execution/abcdefghijkl"
    execution = pipelines.describe_execution(api, HERE, "binwatch", arn)
    assert execution.steps == (
        pipelines.StepSummary("Training", "Succeeded", 120.0, True, ""),
        pipelines.StepSummary("Evaluation", "Failed", 5.0, False, "no photos"),
        pipelines.StepSummary("Other", "Executing", None, False, ""),
    )
    assert str(execution).splitlines()[0] == f"Failed: a step failed  {arn}"
    assert "no photos" in str(execution)


def test_the_best_of_a_search_is_trained_with_its_hyperparameters() -> None:
    best = {
        "TunedHyperParameters": {"learning-rate": "0.002", "batch-size": "16", "architecture": "vgg16"},
        "FinalHyperParameterTuningJobObjectiveMetric": {"Value": 1.4321},
    }
    answer = {"HyperParameterTuningJobStatus": "Completed", "BestTrainingJob": best}
    job = pipelines.describe_job(CannedApi(DescribeHyperParameterTuningJob=[answer]), "binwatch-tune-1")
    assert (job.status, job.loss, job.best["architecture"]) == ("Completed", 1.4321, "vgg16")
    parser = ArgumentParser()
    pipeline_commands.add_options(parser)
    api = CannedApi(DescribeHyperParameterTuningJob=[answer], CreateTrainingJob=[{"TrainingJobArn": "x"}])
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
    write_deployed(tmp_path, **pipelines.NOTHING_DEPLOYED)
    return tmp_path


def write_deployed(base: Path, **content: object) -> None:
    (base / "accuracy" / "accuracy.json").write_text(json.dumps(content))


def fetch_nothing(uri: str, folder: Path) -> Path:
    raise AssertionError(f"{uri} was fetched")


def test_the_evaluation_writes_what_the_condition_compares(processing: Path, trained: Trained) -> None:
    challenger, accuracy = processing_steps.evaluate_step(processing, None, fetch_nothing)
    before = json.loads(trained.archive.with_name(EVALUATION).read_text())["binwatch"]
    assert challenger.accuracy == before["accuracy"], "the training job evaluated the same archive on the same photos"
    assert challenger.fingerprint == before["fingerprint"]
    assert accuracy == 0.1
    written = {
        name: json.loads((processing / "evaluation" / name).read_text()) for name in (EVALUATION, "accuracy.json")
    }
    assert written[EVALUATION]["multiclass_classification_metrics"]["accuracy"]["value"] == challenger.accuracy
    assert written["accuracy.json"]["accuracy"] == 0.1


def test_a_model_that_was_tested_on_other_photos_is_fetched_and_evaluated_again(
    processing: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    write_deployed(processing, accuracy=0.99, version="3", fingerprint="of others", archive="s3://b/m/bin-counter.mar")

    def fetch(uri: str, folder: Path) -> Path:
        assert uri == "s3://b/m/bin-counter.mar"
        return Path(shutil.copy(trained.archive, folder / "deployed.mar"))

    challenger, accuracy = processing_steps.evaluate_step(processing, "1-5", fetch)
    assert accuracy == challenger.accuracy, "it is the same archive"
    assert processing_steps.main(Namespace(step="keep", base=processing, counts=None)) == 0
    assert f"{challenger.accuracy:.1%} is not greater than the deployed {accuracy:.1%}" in capsys.readouterr().out
    write_deployed(processing, accuracy=0.99, version="3", fingerprint=challenger.fingerprint)
    assert processing_steps.evaluate_step(processing, "1-5", fetch_nothing)[1] == 0.99


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
        processing_steps.evaluate_step(processing, None, fetch_nothing)
