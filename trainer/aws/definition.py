"""The definition of the pipeline on SageMaker: train, evaluate, compare the accuracies, update or keep. Pure.

    Training      the trainer's image trains and writes the archive
    Evaluation    the same image evaluates the archive on the test photos: evaluation.json; and the deployed model too,
                  where that was tested on other photos: accuracy.json
    condition     the accuracy of evaluation.json is greater than that of accuracy.json
    Update        the same image runs scripts/deploy_sagemaker.py, which writes accuracy.json last
    Keep          the same image logs why nothing changes

Only Training is cached: its arguments contain all that it depends on (``DataVersion`` stands for the photos). The
other steps also depend on what is deployed, which no argument contains.
Format: https://aws-sagemaker-mlops.github.io/sagemaker-model-building-pipeline-definition-JSON-schema/
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer import artifacts
from trainer.aws.account import Account, folder
from trainer.aws.training_jobs import VOLUME_GB, Arguments, Training, Value, training_arguments
from trainer.aws.training_log import OF_RECIPE

VERSION = "2020-12-01"
PROCESSING = "/opt/ml/processing"
TRAINING, EVALUATION, CONDITION = "Training", "Evaluation", "Is-the-new-model-better"
UPDATE, KEEP = "Update-endpoint", "Keep-the-deployed-model"
REPORT, DEPLOYED = "EvaluationReport", "DeployedAccuracy"
CACHE = {"Enabled": True, "ExpireAfter": "P30D"}

NOT_LISTED = "not-listed"
"""DataVersion of an execution that was started without listing the photos."""

PARAMETERS = {
    "TrainingInstanceType": "ml.g4dn.xlarge",
    "ProcessingInstanceType": "ml.m5.xlarge",
    "Recipe": "resnet34-pipeline",
    "Epochs": OF_RECIPE,
    "BatchSize": OF_RECIPE,
    "LearningRate": OF_RECIPE,
    "Counts": "1-5",
    "DataVersion": NOT_LISTED,
}
"""Parameters and their defaults: the report's recipe (docs/background.md). That of InputData is in the account."""

HYPERPARAMETERS = {
    "recipe": "Recipe",
    "epochs": "Epochs",
    "batch-size": "BatchSize",
    "learning-rate": "LearningRate",
    "counts": "Counts",
}
"""Hyperparameter of the trainer -> parameter of the pipeline."""


@dataclass(frozen=True)
class RetryPolicy:
    """On which errors a step is retried, with exponential backoff."""

    exceptions: tuple[str, ...]
    interval_s: int
    attempts: int

    def to_definition(self) -> Arguments:
        """In the format of the definition."""
        return {
            "ExceptionType": list(self.exceptions),
            "IntervalSeconds": self.interval_s,
            "BackoffRate": 2.0,
            "MaxAttempts": self.attempts,
        }


STEP_FAULT = RetryPolicy(("Step.SERVICE_FAULT", "Step.THROTTLING"), 10, 5)
JOB_FAULT = RetryPolicy(("SageMaker.JOB_INTERNAL_ERROR",), 30, 3)
NO_CAPACITY = RetryPolicy(("SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"), 300, 6)
"""This waits up to five hours for a machine."""


def parameter(name: str) -> Value:
    """A reference to a parameter of the pipeline."""
    return {"Get": f"Parameters.{name}"}


def join(*parts: Value) -> Value:
    """Parts joined with slashes when the pipeline runs."""
    return {"Std:Join": {"On": "/", "Values": list(parts)}}


EXECUTION: Value = {"Get": "Execution.PipelineExecutionId"}
ARCHIVE: Value = {"Get": f"Steps.{TRAINING}.ModelArtifacts.S3ModelArtifacts"}


def definition(account: Account, deploy: Sequence[str] = ()) -> Arguments:
    """The whole definition. ``deploy``: further options of scripts/deploy_sagemaker.py in the update step."""
    defaults = {"InputData": folder(account.uri("data")), **PARAMETERS}
    return {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [{"Name": name, "Type": "String", "DefaultValue": value} for name, value in defaults.items()],
        "PipelineExperimentConfig": {"ExperimentName": {"Get": "Execution.PipelineName"}, "TrialName": EXECUTION},
        "Steps": [_training(account), _evaluation(account), _condition(account, deploy)],
    }


def to_text(pipeline: Mapping[str, object]) -> str:
    """A definition as CreatePipeline takes it."""
    return json.dumps(pipeline)


def _training(account: Account) -> Arguments:
    training = Training(
        hyperparameters={name: parameter(source) for name, source in HYPERPARAMETERS.items()},
        data=parameter("InputData"),
        output=account.uri("models"),
        checkpoints=join(
            account.uri("checkpoints", account.image_version), parameter("Recipe"), parameter("DataVersion")
        ),
        instance_type=parameter("TrainingInstanceType"),
        environment={"BINWATCH_DATA_VERSION": parameter("DataVersion")},
    )
    step = _step(TRAINING, "Training", training_arguments(account, training), (STEP_FAULT, JOB_FAULT, NO_CAPACITY))
    return {**step, "CacheConfig": CACHE}


def _evaluation(account: Account) -> Arguments:
    output = {
        "OutputName": "evaluation",
        "AppManaged": False,
        "S3Output": {
            "S3Uri": join(account.uri("evaluations"), EXECUTION),
            "LocalPath": f"{PROCESSING}/evaluation",
            "S3UploadMode": "EndOfJob",
        },
    }
    arguments = _processing(
        account,
        ("python", "-m", "trainer.aws.processing_steps", "evaluate"),
        ("--counts", parameter("Counts")),
        {"model": ARCHIVE, "photos": parameter("InputData"), "accuracy": account.uri(artifacts.ACCURACY)},
    )
    arguments["ProcessingOutputConfig"] = {"Outputs": [output]}
    files = {REPORT: artifacts.EVALUATION, DEPLOYED: artifacts.ACCURACY}
    step = _step(EVALUATION, "Processing", arguments, (STEP_FAULT, JOB_FAULT, NO_CAPACITY))
    return {
        **step,
        "PropertyFiles": [
            {"PropertyFileName": name, "OutputName": "evaluation", "FilePath": path} for name, path in files.items()
        ],
    }


def _condition(account: Account, deploy: Sequence[str]) -> Arguments:
    better = {
        "Type": "GreaterThan",
        "LeftValue": _number(REPORT, "multiclass_classification_metrics.accuracy.value"),
        "RightValue": _number(DEPLOYED, "accuracy"),
    }
    branches = {"IfSteps": [_update(account, deploy)], "ElseSteps": [_keep(account)]}
    return {"Name": CONDITION, "Type": "Condition", "Arguments": {"Conditions": [better], **branches}}


def _update(account: Account, deploy: Sequence[str]) -> Arguments:
    """There is no retry after a failed job: the deployment has rolled back, and somebody must find out why."""
    arguments = _processing(
        account,
        ("python", "scripts/deploy_sagemaker.py"),
        (
            "--archive",
            f"{PROCESSING}/model/model.tar.gz",
            "--evaluation",
            f"{PROCESSING}/evaluation/evaluation.json",
            "--role",
            account.role,
            "--bucket",
            account.bucket,
            "--prefix",
            account.prefix,
            *deploy,
        ),
        {"model": ARCHIVE, "evaluation": _evaluation_uri()},
    )
    return _step(UPDATE, "Processing", arguments, (STEP_FAULT, NO_CAPACITY))


def _keep(account: Account) -> Arguments:
    entrypoint = ("python", "-m", "trainer.aws.processing_steps", "keep")
    arguments = _processing(account, entrypoint, (), {"evaluation": _evaluation_uri()})
    return _step(KEEP, "Processing", arguments, (STEP_FAULT, JOB_FAULT, NO_CAPACITY))


def _evaluation_uri() -> Value:
    return {"Get": f"Steps.{EVALUATION}.ProcessingOutputConfig.Outputs['evaluation'].S3Output.S3Uri"}


def _number(file: str, path: str) -> Arguments:
    return {"Std:JsonGet": {"PropertyFile": {"Get": f"Steps.{EVALUATION}.PropertyFiles.{file}"}, "Path": path}}


def _step(name: str, kind: str, arguments: Arguments, retries: Sequence[RetryPolicy]) -> Arguments:
    policies = [retry.to_definition() for retry in retries]
    return {"Name": name, "Type": kind, "Arguments": arguments, "RetryPolicies": policies}


def _processing(
    account: Account, entrypoint: Sequence[str], options: Sequence[Value], inputs: Mapping[str, Value]
) -> Arguments:
    """A processing job of the trainer's image. ``inputs``: folder below /opt/ml/processing -> address."""
    cluster = {"InstanceType": parameter("ProcessingInstanceType"), "InstanceCount": 1, "VolumeSizeInGB": VOLUME_GB}
    application: Arguments = {"ImageUri": account.image, "ContainerEntrypoint": list(entrypoint)}
    if options:
        application["ContainerArguments"] = list(options)
    return {
        "RoleArn": account.role,
        "ProcessingResources": {"ClusterConfig": cluster},
        "AppSpecification": application,
        "ProcessingInputs": [_input(name, source) for name, source in inputs.items()],
        "Environment": {"AWS_DEFAULT_REGION": account.region},
    }


def _input(name: str, source: Value) -> Arguments:
    transfer = {
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
        "S3DataDistributionType": "FullyReplicated",
        "S3CompressionType": "None",
    }
    return {
        "InputName": name,
        "AppManaged": False,
        "S3Input": {"S3Uri": source, "LocalPath": f"{PROCESSING}/{name}", **transfer},
    }
