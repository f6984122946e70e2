"""The search for hyperparameters as SageMaker runs it: CreateHyperParameterTuningJob. Pure.

Bayesian, over the report's space, which is that of ``trainer/tune.py``: learning rate 0.001-0.1 (log), batch size 16,
32 or 64, and the network. What is minimised is the lowest validation loss that a job prints. Its jobs run on spot
instances and go on from their checkpoints; SageMaker's early stopping ends those that are worse than the median.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateHyperParameterTuningJob.html
"""

from dataclasses import dataclass, field

from serve.errors import SettingsError
from trainer.aws.account import Account
from trainer.aws.training_jobs import Arguments, Training, metric_definitions, where_and_how_long
from trainer.experiments.tune import Space

OBJECTIVE = "best_validation_loss"
RETRIES = 3
MOST_TRIALS, MOST_PARALLEL = 750, 100
"""What SageMaker's limits allow a Bayesian search."""


@dataclass(frozen=True)
class Tuning:
    """A search: of ``trials`` jobs, ``parallel`` at a time. ``training``: what all of them share."""

    training: Training
    trials: int = 5
    parallel: int = 1
    space: Space = field(default_factory=Space)


def tuning_job(account: Account, name: str, tuning: Tuning) -> Arguments:
    """The parameters of CreateHyperParameterTuningJob. Raises SettingsError."""
    if not 1 <= tuning.parallel <= min(tuning.trials, MOST_PARALLEL) or tuning.trials > MOST_TRIALS:
        raise SettingsError(
            f"{tuning.trials} trials, {tuning.parallel} at a time: SageMaker takes up to {MOST_TRIALS} trials, and at "
            f"least 1, at most {MOST_PARALLEL} of them at a time"
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
        "TrainingJobDefinition": _each_job(account, tuning.training),
    }


def _each_job(account: Account, training: Training) -> Arguments:
    shared = where_and_how_long(account, training)
    # a trial's machine has a member of its own, which could also name several to choose from
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
    """The space in SageMaker's words; numbers are texts there."""
    least, most = space.learning_rates
    return {
        "ContinuousParameterRanges": [
            {"Name": "learning-rate", "MinValue": str(least), "MaxValue": str(most), "ScalingType": "Logarithmic"}
        ],
        "CategoricalParameterRanges": [
            {"Name": "batch-size", "Values": [str(each) for each in space.batch_sizes]},
            {"Name": "architecture", "Values": list(space.architectures)},
        ],
        "IntegerParameterRanges": [],
    }
