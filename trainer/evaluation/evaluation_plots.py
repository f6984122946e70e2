"""The figures of an evaluation: confusion matrix, reliability diagram, alarm curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from trainer.evaluation.alarms import Alarms
from trainer.evaluation.calibration import reliability
from trainer.evaluation.evaluate import Evaluation, Prediction
from trainer.evaluation.record_alarms import RecordCurves


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
    axes.set(
        xlabel="predicted count",
        ylabel="recorded count",
        title=f"{evaluation.accuracy:.1%} of {evaluation.photos} test photos",
    )
    axes.set_xticks(ticks, evaluation.classes)
    axes.set_yticks(ticks, evaluation.classes)
    return figure


def reliability_diagram(predictions: Sequence[Prediction]) -> Figure:
    """Accuracy against confidence: on the diagonal, probabilities are calibrated."""
    probabilities = np.array([answer.probabilities for answer in predictions])
    steps = reliability(probabilities, np.array([answer.count == answer.recorded for answer in predictions]))
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    sizes = [20 + 400 * step.answers / len(predictions) for step in steps]
    axes.scatter([step.confidence for step in steps], [step.accuracy for step in steps], sizes, alpha=0.6)
    axes.set(
        xlabel="confidence",
        ylabel="share that is right",
        xlim=(0, 1),
        ylim=(0, 1),
        title=f"{len(predictions)} test photos; area: how many",
    )
    axes.legend()
    return figure


def alarm_curves(alarms: Sequence[Alarms]) -> Figure:
    """The share of right and of wrong records that raise the alarm, against ``alpha``."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    alphas = [at_alpha.alpha for at_alpha in alarms]
    axes.plot(alphas, alphas, color="grey", linestyle=":", label="promised at most")
    axes.plot(alphas, [at_alpha.false_alarms for at_alpha in alarms], color="black", label="right records")
    low, high = zip(*(at_alpha.false_alarms_interval for at_alpha in alarms), strict=True)
    axes.fill_between(alphas, low, high, color="black", alpha=0.15)
    for name in alarms[0].caught:
        shares = np.array([at_alpha.caught[name] for at_alpha in alarms], dtype=np.float64)  # None becomes NaN
        axes.plot(alphas, shares, label=f"off by {name}")
    axes.set(
        xlabel="alpha: share of right records that may raise the alarm", ylabel="share that raises it", ylim=(0, 1)
    )
    axes.legend()
    return figure


def record_alarm_curves(curves: RecordCurves) -> Figure:
    """The share of wrong records that raise the alarm, against ``alpha``: a panel for each kind of error."""
    rows = -(-len(curves.caught) // 3)
    figure = Figure(figsize=(10, 0.6 + 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (kind, caught) in zip(panels, curves.caught.items(), strict=False):
        axes.plot(curves.alphas, curves.alphas, color="grey", linestyle=":", label="right records: promised at most")
        axes.plot(curves.alphas, curves.right, color="black", label="right records, with photo and products")
        axes.plot(curves.alphas, caught, color="tab:blue", label="wrong ones, with photo and products")
        axes.plot(curves.alphas, curves.by_photo[kind], color="tab:orange", label="by the photo alone")
        axes.plot(curves.alphas, curves.by_record[kind], color="tab:green", linestyle="--", label="by the record alone")
        axes.set(title=kind.replace("_", " "), ylim=(0, 1))
    for axes in panels[len(curves.caught) :]:
        axes.set_axis_off()
    figure.supxlabel("alpha: share of right records that may raise the alarm")
    figure.supylabel("share that raises it")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
