"""What a training job is told, and the lines that it prints for SageMaker, which reads its numbers from the log.

    epoch 3: train_loss=1.4210 train_accuracy=0.3520 validation_loss=1.4871 ... best_validation_loss=1.4700
    test: test_accuracy=0.3671 test_rmse=1.0412

``best_validation_loss`` is the lowest so far: what a search minimises is the last value that a job prints.
Standard library only: whoever starts a job needs none of what trains.
"""

from collections.abc import Mapping

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
    found = {**metrics, "best_validation_loss": best_validation_loss}
    return f"epoch {number}: " + _pairs(EPOCH_METRICS, found)


def evaluation_line(metrics: Mapping[str, float]) -> str:
    """The line of the evaluation. Accuracy 0-1, RMSE in objects."""
    return "test: " + _pairs(TEST_METRICS, metrics)


def _pairs(names: tuple[str, ...], values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in names)
