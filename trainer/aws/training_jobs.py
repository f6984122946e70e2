"""The training job on SageMaker: the parameters of CreateTrainingJob, also for a step of the pipeline. Pure.

The image is the trainer's own (``training_container.py``). It runs on spot instances: SageMaker copies its checkpoints
to the bucket, and restores them after an interruption.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from trainer.aws.account import Account, folder
from trainer.aws.training_log import EPOCH_METRICS, TEST_METRICS

CHANNEL = "training"
MAX_RUN_S, MAX_WAIT_S = 24 * 3600, 48 * 3600
"""The time limit of a training, without and with the wait for spot instances."""
VOLUME_GB = 30

Value: TypeAlias = str | Mapping[str, object]
"""A string, or a reference that the pipeline resolves when it runs: ``{"Get": "Parameters.Recipe"}``."""
Arguments: TypeAlias = dict[str, Any]
"""Members of a request or of a definition, nested as the API has them."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training; addresses start with ``s3://``.

    ``data``: of the photos; ``output``: for the archive; ``checkpoints``: one that no other training writes to.
    """

    hyperparameters: Mapping[str, Value]
    data: Value
    output: Value
    checkpoints: Value
    instance_type: Value = "ml.g4dn.xlarge"
    spot: bool = True
    environment: Mapping[str, Value] | None = None


def metric_definitions() -> list[dict[str, str]]:
    """The patterns by which SageMaker finds the metrics in the log (``training_log.py`` writes them)."""
    return [{"Name": name, "Regex": rf" {name}=([0-9.]+)"} for name in (*EPOCH_METRICS, *TEST_METRICS)]


def training_arguments(account: Account, training: Training) -> Arguments:
    """The parameters of CreateTrainingJob without the name; the trainer has rules, so SageMaker's debugger is off."""
    arguments: Arguments = {
        "AlgorithmSpecification": {
            "TrainingImage": account.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(),
        },
        "HyperParameters": dict(training.hyperparameters),
        **shared_arguments(account, training),
        "ProfilerConfig": {"DisableProfiler": True},
    }
    if training.environment:
        arguments["Environment"] = dict(training.environment)
    return arguments


def shared_arguments(account: Account, training: Training) -> Arguments:
    """What a training job and the trials of a tuning job have in common: role, data, machine, limits, spot."""
    limits = {"MaxRuntimeInSeconds": MAX_RUN_S}
    arguments: Arguments = {
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
        limits["MaxWaitTimeInSeconds"] = MAX_WAIT_S
        arguments |= {"EnableManagedSpotTraining": True, "CheckpointConfig": {"S3Uri": training.checkpoints}}
    return arguments


def _channel(data: Value) -> Arguments:
    data = folder(data) if isinstance(data, str) else data
    source = {"S3DataType": "S3Prefix", "S3Uri": data, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": CHANNEL, "DataSource": {"S3DataSource": source}}


def training_job(account: Account, name: str, training: Training) -> Arguments:
    """The parameters of CreateTrainingJob."""
    return {"TrainingJobName": name, **training_arguments(account, training)}
