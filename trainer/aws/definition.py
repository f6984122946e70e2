"""The pipeline as SageMaker runs it: train, evaluate, a condition on both accuracies, update or keep. Pure.

    Training      the trainer's image trains and leaves the archive
    Evaluation    the same image asks the archive about the test photos: evaluation.json; and what is deployed, where
                  it was tested on other photos, about the same ones: accuracy.json
    condition     the accuracy of evaluation.json is greater than that of accuracy.json
    Update        the same image runs scripts/deploy_sagemaker.py, which writes accuracy.json last
    Keep          the same image says why nothing changes

Only Training is cached: what it depends on is in its arguments (of the photos, ``DataVersion``), while the other steps
depend on what is deployed, which is not. Format: https://aws-sagemaker-mlops.github.io/sagemaker-model-building-pipeline-definition-JSON-schema/
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.aws.account import Account
from trainer.aws.training_jobs import VOLUME_GB, Arguments, Training, Value, training_arguments

VERSION = "2020-12-01"
ACCURACY = "accuracy.json"
PROCESSING = "/opt/ml/processing"
TRAINING, EVALUATION, CONDITION = "Training", "Evaluation", "Is-the-new-model-better"
UPDATE, KEEP = "Update-endpoint", "Keep-the-deployed-model"
REPORT, DEPLOYED = "EvaluationReport", "DeployedAccuracy"
CACHE = {"Enabled": True, "ExpireAfter": "P30D"}

NOT_LISTED = "not-listed"
"""DataVersion of an execution that was started without looking at the photos."""

PARAMETERS = {
    "TrainingInstanceType": "ml.g4dn.xlarge",
    "ProcessingInstanceType": "ml.m5.xlarge",
    "Recipe": "resnet34-pipeline",
    "Epochs": "3",
    "BatchSize": "64",
    "LearningRate": "0.01",
    "Counts": "1-5",
    "DataVersion": NOT_LISTED,
}
"""Parameters and what they are without being given: the report's. InputData comes from the account."""

HYPERPARAMETERS = {
    "recipe": "Recipe",
    "epochs": "Epochs",
    "batch-size": "BatchSize",
    "learning-rate": "LearningRate",
    "counts": "Counts",
}
"""The trainer's hyperparameters, and the pipeline's parameters that they come from."""


@dataclass(frozen=True)
class Retry:
    """When a step is tried again; each wait is twice the one before."""

    exceptions: tuple[str, ...]
    interval_s: int
    attempts: int

    def policy(self) -> Arguments:
        """As the definition has it."""
        return {
            "ExceptionType": list(self.exceptions),
            "IntervalSeconds": self.interval_s,
            "BackoffRate": 2.0,
            "MaxAttempts": self.attempts,
        }


OF_A_STEP = Retry(("Step.SERVICE_FAULT", "Step.THROTTLING"), 10, 5)
OF_A_JOB = Retry(("SageMaker.JOB_INTERNAL_ERROR",), 30, 3)
NO_MACHINE = Retry(("SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"), 300, 6)
"""With these numbers up to five hours are waited for a machine."""


def parameter(name: str) -> Value:
    """What stands for a parameter's value."""
    return {"Get": f"Parameters.{name}"}


def join(*parts: Value) -> Value:
    """An address put together when the pipeline runs."""
    return {"Std:Join": {"On": "/", "Values": list(parts)}}


EXECUTION: Value = {"Get": "Execution.PipelineExecutionId"}
ARCHIVE: Value = {"Get": f"Steps.{TRAINING}.ModelArtifacts.S3ModelArtifacts"}


def definition(account: Account, deploy: Sequence[str] = ()) -> Arguments:
    """The whole definition. ``deploy``: words for scripts/deploy_sagemaker.py beyond the archive's."""
    defaults = {"InputData": account.uri("data"), **PARAMETERS}
    return {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [{"Name": name, "Type": "String", "DefaultValue": value} for name, value in defaults.items()],
        "PipelineExperimentConfig": {"ExperimentName": {"Get": "Execution.PipelineName"}, "TrialName": EXECUTION},
        "Steps": [_training(account), _evaluation(account), _condition(account, deploy)],
    }


def text(of: Mapping[str, Any]) -> str:
    """A definition as CreatePipeline takes it."""
    return json.dumps(of)


def _training(account: Account) -> Arguments:
    wanted = Training(
        hyperparameters={name: parameter(source) for name, source in HYPERPARAMETERS.items()},
        data=parameter("InputData"),
        output=account.uri("models"),
        checkpoints=join(
            account.uri("checkpoints", account.image_version), parameter("Recipe"), parameter("DataVersion")
        ),
        instance_type=parameter("TrainingInstanceType"),
        environment={"BINWATCH_DATA_VERSION": parameter("DataVersion")},
    )
    step = _step(TRAINING, "Training", training_arguments(account, wanted), (OF_A_STEP, OF_A_JOB, NO_MACHINE))
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
        {"model": ARCHIVE, "photos": parameter("InputData"), "accuracy": account.uri(ACCURACY)},
    )
    arguments["ProcessingOutputConfig"] = {"Outputs": [output]}
    files = {REPORT: "evaluation.json", DEPLOYED: ACCURACY}
    step = _step(EVALUATION, "Processing", arguments, (OF_A_STEP, OF_A_JOB, NO_MACHINE))
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
    """Deploying is not tried again after an error of its own: it has rolled back, and somebody must look."""
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
        {"model": ARCHIVE, "evaluation": _evaluated()},
    )
    return _step(UPDATE, "Processing", arguments, (OF_A_STEP, NO_MACHINE))


def _keep(account: Account) -> Arguments:
    words = ("python", "-m", "trainer.aws.processing_steps", "keep")
    arguments = _processing(account, words, (), {"evaluation": _evaluated()})
    return _step(KEEP, "Processing", arguments, (OF_A_STEP, OF_A_JOB, NO_MACHINE))


def _evaluated() -> Value:
    return {"Get": f"Steps.{EVALUATION}.ProcessingOutputConfig.Outputs['evaluation'].S3Output.S3Uri"}


def _number(file: str, path: str) -> Arguments:
    return {"Std:JsonGet": {"PropertyFile": {"Get": f"Steps.{EVALUATION}.PropertyFiles.{file}"}, "Path": path}}


def _step(name: str, kind: str, arguments: Arguments, retries: Sequence[Retry]) -> Arguments:
    return {"Name": name, "Type": kind, "Arguments": arguments, "RetryPolicies": [each.policy() for each in retries]}


def _processing(
    account: Account, entrypoint: Sequence[str], words: Sequence[Value], inputs: Mapping[str, Value]
) -> Arguments:
    """A processing job of the trainer's image. ``inputs``: what lies below /opt/ml/processing when it starts."""
    cluster = {"InstanceType": parameter("ProcessingInstanceType"), "InstanceCount": 1, "VolumeSizeInGB": VOLUME_GB}
    application: Arguments = {"ImageUri": account.image, "ContainerEntrypoint": list(entrypoint)}
    if words:
        application["ContainerArguments"] = list(words)
    return {
        "RoleArn": account.role,
        "ProcessingResources": {"ClusterConfig": cluster},
        "AppSpecification": application,
        "ProcessingInputs": [_input(name, source) for name, source in inputs.items()],
        "Environment": {"AWS_DEFAULT_REGION": account.region},
    }


def _input(name: str, source: Value) -> Arguments:
    how = {
        "S3DataType": "S3Prefix",
        "S3InputMode": "File",
        "S3DataDistributionType": "FullyReplicated",
        "S3CompressionType": "None",
    }
    return {
        "InputName": name,
        "AppManaged": False,
        "S3Input": {"S3Uri": source, "LocalPath": f"{PROCESSING}/{name}", **how},
    }
