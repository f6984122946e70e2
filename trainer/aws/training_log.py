"""The hyperparameters of a training job, and the log lines from which SageMaker reads its metrics.

    epoch 3: train_loss=1.4210 train_accuracy=0.3520 validation_loss=1.4871 ... best_validation_loss=1.4700
    test: test_accuracy=0.3671 test_rmse=1.0412

``best_validation_loss`` is the lowest so far: a tuning job minimises the last value that a trial prints.
This uses the standard library only: starting a job needs no torch.
"""

from collections.abc import Mapping

OF_RECIPE = "recipe"
"""The value of a hyperparameter that is left to the recipe. A pipeline always sends all of them."""
HYPERPARAMETERS = {
    "recipe",
    "epochs",
    "size_px",
    "batch_size",
    "learning_rate",
    "seed",
    "architecture",
    "weights",
    "precision",
    "stop_on",
    "export",
    "counts",
    "limit",
    "data_seed",
    "train_share",
    "drop_suspects",
    "relabel_file",
}
EPOCH_METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "best_validation_loss")
TEST_METRICS = ("test_accuracy", "test_rmse")


def epoch_line(number: int, metrics: Mapping[str, float], best_validation_loss: float) -> str:
    """The line of one epoch. Losses in nats, accuracies 0-1."""
    values = {**metrics, "best_validation_loss": best_validation_loss}
    return f"epoch {number}: " + _pairs(EPOCH_METRICS, values)


def evaluation_line(metrics: Mapping[str, float]) -> str:
    """The line of the evaluation. Accuracy 0-1, RMSE in objects."""
    return "test: " + _pairs(TEST_METRICS, metrics)


def _pairs(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in names)
