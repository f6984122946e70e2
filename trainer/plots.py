"""The pictures of a run: loss curves, confusion, reliability, and how a search went."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from trainer.alarms import Alarms
from trainer.calibration import reliability
from trainer.epochs import Epoch
from trainer.evaluate import Evaluation, Prediction

if TYPE_CHECKING:
    from trainer.tune import Trial  # Optuna takes a second to import, and jobs do without


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


def alarm_curves(found: Sequence[Alarms]) -> Figure:
    """The share of records that raise the alarm, right ones and wrong ones, against the share that may."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    alphas = [each.alpha for each in found]
    axes.plot(alphas, alphas, color="grey", linestyle=":", label="promised at most")
    axes.plot(alphas, [each.false_alarms for each in found], color="black", label="right records")
    low, high = zip(*(each.false_alarms_interval for each in found), strict=True)
    axes.fill_between(alphas, low, high, color="black", alpha=0.15)
    for name in found[0].caught:
        shares = np.array([each.caught[name] for each in found], dtype=np.float64)  # None becomes NaN
        axes.plot(alphas, shares, label=f"off by {name}")
    axes.set(xlabel="share of right records that may raise the alarm (alpha)", ylabel="share that does", ylim=(0, 1))
    axes.legend()
    return figure


def search_history(trials: Sequence["Trial"]) -> Figure:
    """The loss of each trial, and the best so far."""
    good = [each for each in trials if each.loss is not None]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    numbers, losses = [each.number for each in good], [each.loss for each in good if each.loss is not None]
    axes.scatter(numbers, losses, label="trial")
    axes.step(numbers, np.minimum.accumulate(losses), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="validation loss (nats)")
    axes.legend()
    return figure


def parallel_coordinates(trials: Sequence["Trial"]) -> Figure:
    """One line a trial through its parameters to its loss; dark lines are the good ones."""
    good = [each for each in trials if each.loss is not None]
    names = [*good[0].params, "loss"]
    columns = [_places([each.params.get(name, each.loss) for each in good]) for name in names]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for line, rank in zip(zip(*(places for places, _ in columns), strict=True), columns[-1][0], strict=True):
        axes.plot(range(len(names)), line, color=str(0.8 * rank), marker="o")
    for x, (_, labels) in enumerate(columns):
        for place, label in labels.items():
            axes.annotate(label, (x, place), xytext=(6, 0), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    return figure


def _places(values: Sequence[Any]) -> tuple[list[float], dict[float, str]]:
    """Where values stand on an axis from 0 to 1, by their order, and what to write there."""
    kinds = sorted(set(values))
    place = {value: i / max(len(kinds) - 1, 1) for i, value in enumerate(kinds)}
    return [place[value] for value in values], {
        place[value]: f"{value:.3g}" if isinstance(value, float) else str(value) for value in kinds
    }


def importances(found: Mapping[str, float]) -> Figure:
    """How much of the loss's variance each parameter explains."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(found), list(found.values()))
    axes.set(xlabel="share of the variance that it explains", xlim=(0, 1))
    return figure
