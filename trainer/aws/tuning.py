"""The tuning job on SageMaker: the parameters of CreateHyperParameterTuningJob. Pure.

The search is Bayesian, over the space of the report (docs/background.md), which ``trainer/experiments/tune.py`` has
too: learning rate 0.001-0.1 (log), batch size 16, 32 or 64, and the network. It minimises the lowest validation loss
that a trial prints. Trials run on spot instances and resume from their checkpoints; SageMaker's early stopping ends
those that are worse than the median.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateHyperParameterTuningJob.html
"""

from dataclasses import dataclass, field

from serve.errors import SettingsError
from trainer.aws.account import Account
from trainer.aws.training_jobs import Arguments, Training, metric_definitions, shared_arguments
from trainer.experiments.tune import Space

OBJECTIVE = "best_validation_loss"
RETRIES = 3
MAX_TRIALS, MAX_PARALLEL = 750, 100
"""SageMaker's limits for a Bayesian search."""


@dataclass(frozen=True)
class Tuning:
    """A search of ``trials`` jobs, ``parallel`` at a time. ``training``: what they have in common."""

    training: Training
    trials: int = 5
    parallel: int = 1
    space: Space = field(default_factory=Space)


def tuning_job(account: Account, name: str, tuning: Tuning) -> Arguments:
    """The parameters of CreateHyperParameterTuningJob. Raises SettingsError."""
    if not 1 <= tuning.parallel <= min(tuning.trials, MAX_PARALLEL) or tuning.trials > MAX_TRIALS:
        raise SettingsError(
            f"{tuning.trials} trials, {tuning.parallel} at a time: SageMaker takes up to {MAX_TRIALS} trials, and at "
            f"least 1, at most {MAX_PARALLEL} of them at a time"
        )
    limits = {"MaxNumberOfTrainingJobs": tuning.trials, "MaxParallelTrainingJobs": tuning.parallel}
    config = {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": OBJECTIVE},
        "ResourceLimits": limits,
        "ParameterRanges": ranges(tuning.space),
        "TrainingJobEarlyStoppingType": "Auto",
    }
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": _trial(account, tuning.training),
    }


def _trial(account: Account, training: Training) -> Arguments:
    shared = shared_arguments(account, training)
    # the machine of a trial has a member of its own, which could also list several to choose from
    shared["HyperParameterTuningResourceConfig"] = shared.pop("ResourceConfig")
    return {
        "AlgorithmSpecification": {
            "TrainingImage": account.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": metric_definitions(),
        },
        # a trial needs no archive
        "StaticHyperParameters": {**training.hyperparameters, "export": "false"},
        **shared,
        "RetryStrategy": {"MaximumRetryAttempts": RETRIES},
    }


def ranges(space: Space) -> Arguments:
    """The space in SageMaker's format, in which numbers are strings."""
    lowest, highest = space.learning_rates
    return {
        "ContinuousParameterRanges": [
            {"Name": "learning-rate", "MinValue": str(lowest), "MaxValue": str(highest), "ScalingType": "Logarithmic"}
        ],
        "CategoricalParameterRanges": [
            {"Name": "batch-size", "Values": [str(size) for size in space.batch_sizes]},
            {"Name": "architecture", "Values": list(space.architectures)},
        ],
        "IntegerParameterRanges": [],
    }
