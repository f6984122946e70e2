"""The pictures of a run: loss curves and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from trainer.calibration import reliability
from trainer.evaluate import Evaluation, Prediction
from trainer.train import Epoch


def loss_curves(epochs: Sequence[Epoch], best_epoch: int) -> Figure:
    """Loss and accuracy of training and validation by epoch, the kept epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    numbers = [epoch.number for epoch in epochs]
    for axes, what, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("nats", "share"), strict=True):
        for part in ("train", "validation"):
            axes.plot(numbers, [getattr(epoch, f"{part}_{what}") for epoch in epochs], marker="o", label=part)
        axes.axvline(best_epoch, color="grey", linestyle=":", label="kept weights")
        axes.set(xlabel="epoch", ylabel=f"{what} ({unit})", title=what)
        axes.legend()
    return figure


def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Recorded against predicted counts on the test photos."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(evaluation.confusion, cmap="Blues")
    highest = max(max(row) for row in evaluation.confusion)
    for row, values in enumerate(evaluation.confusion):
        for column, value in enumerate(values):
            axes.text(
                column, row, str(value), ha="center", va="center", color="white" if value > highest / 2 else "black"
            )
    ticks = range(len(evaluation.classes))
    axes.set(xlabel="predicted count", ylabel="recorded count",
             title=f"{evaluation.accuracy:.1%} of {evaluation.photos} test photos")  # fmt: skip
    axes.set_xticks(ticks, evaluation.classes)
    axes.set_yticks(ticks, evaluation.classes)
    return figure


def reliability_diagram(predictions: Sequence[Prediction]) -> Figure:
    """Confidence against the share that is right: on the diagonal a probability can be believed."""
    probabilities = np.array([each.probabilities for each in predictions])
    steps = reliability(probabilities, np.array([each.count == each.recorded for each in predictions]))
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="can be believed")
    sizes = [20 + 400 * step.answers / len(predictions) for step in steps]
    axes.scatter([step.confidence for step in steps], [step.accuracy for step in steps], sizes, alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1),
             title=f"{len(predictions)} test photos; area: how many")  # fmt: skip
    axes.legend()
    return figure
