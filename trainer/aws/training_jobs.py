"""The training job on SageMaker: what CreateTrainingJob is asked, alone or as a pipeline's step. Pure.

The image is the trainer's own (``trainer/contract.py``). It runs on spot instances: SageMaker copies its
checkpoints to the bucket, and after an interruption gives them back.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.aws.account import Account
from trainer.aws.training_log import EPOCH_METRICS, TEST_METRICS

CHANNEL = "training"
LONGEST_RUN_S, LONGEST_WAIT_S = 24 * 3600, 48 * 3600
"""A training's own time, and that with the waiting for spot instances."""
VOLUME_GB = 30

Value = str | Mapping[str, Any]
"""A text, or what a pipeline puts in its place when it runs: ``{"Get": "Parameters.Recipe"}``."""
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training. ``data``: the photos' address; ``checkpoints``: an address that no other training writes to."""

    hyperparameters: Mapping[str, Value]
    data: Value
    output: Value
    checkpoints: Value
    instance_type: Value = "ml.g4dn.xlarge"
    spot: bool = True
    environment: Mapping[str, Value] | None = None


def metric_definitions() -> list[dict[str, str]]:
    """How SageMaker finds the numbers in the log; the trainer writes them (``trainer/contract_lines.py``)."""
    return [{"Name": name, "Regex": rf" {name}=([0-9.]+)"} for name in (*EPOCH_METRICS, *TEST_METRICS)]


def training_arguments(account: Account, training: Training) -> Arguments:
    """CreateTrainingJob's members but the name. SageMaker's debugger is off: the rules are ours."""
    wanted: Arguments = {
        "AlgorithmSpecification": {
            "TrainingImage": account.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(),
        },
        "HyperParameters": dict(training.hyperparameters),
        **where_and_how_long(account, training),
        "ProfilerConfig": {"DisableProfiler": True},
    }
    if training.environment:
        wanted["Environment"] = dict(training.environment)
    return wanted


def where_and_how_long(account: Account, training: Training) -> Arguments:
    """What a training job and the jobs of a tuning job have in common: role, data, machine, limits, spot."""
    limits = {"MaxRuntimeInSeconds": LONGEST_RUN_S}
    wanted: Arguments = {
        "RoleArn": account.role,
        "InputDataConfig": [_channel(training.data)],
        "OutputDataConfig": {"S3OutputPath": training.output},
        "ResourceConfig": {
            "InstanceType": training.instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": VOLUME_GB,
        },
        "StoppingCondition": limits,
    }
    if training.spot:
        limits["MaxWaitTimeInSeconds"] = LONGEST_WAIT_S
        wanted |= {"EnableManagedSpotTraining": True, "CheckpointConfig": {"S3Uri": training.checkpoints}}
    return wanted


def _channel(data: Value) -> Arguments:
    source = {"S3DataType": "S3Prefix", "S3Uri": data, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": CHANNEL, "DataSource": {"S3DataSource": source}}


def training_job(account: Account, name: str, training: Training) -> Arguments:
    """The parameters of CreateTrainingJob."""
    return {"TrainingJobName": name, **training_arguments(account, training)}
