"""The plots of a search: its history, its parameters, and their importance."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from trainer.experiments.tune import Trial


def search_history(trials: Sequence[Trial]) -> Figure:
    """The loss of each trial, and the best so far."""
    losses = {trial.number: trial.loss for trial in trials if trial.loss is not None}
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    numbers, values = list(losses), list(losses.values())
    axes.scatter(numbers, values, label="trial")
    axes.step(numbers, np.minimum.accumulate(values), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="validation loss (nats)")
    axes.legend()
    return figure


def parallel_coordinates(trials: Sequence[Trial]) -> Figure:
    """One line per trial through its parameters to its loss; the darker the line, the lower the loss."""
    completed = [trial for trial in trials if trial.loss is not None]
    names = list(completed[0].params)
    columns = [_positions([trial.params[name] for trial in completed]) for name in names]
    columns.append(_positions([trial.loss for trial in completed if trial.loss is not None]))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for line, rank in zip(zip(*(heights for heights, _ in columns), strict=True), columns[-1][0], strict=True):
        axes.plot(range(len(columns)), line, color=str(0.8 * rank), marker="o")
    for x, (_, labels) in enumerate(columns):
        for height, label in labels.items():
            axes.annotate(label, (x, height), xytext=(6, 0), textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(columns)), [*names, "loss"])
    axes.set_yticks([])
    return figure


def _positions(values: Sequence[str | float]) -> tuple[list[float], dict[float, str]]:
    """The positions of values on an axis from 0 to 1, by rank, and the labels of the positions."""
    numbers = sorted({value for value in values if not isinstance(value, str)})
    distinct: list[str | float] = [*numbers, *sorted({value for value in values if isinstance(value, str)})]
    positions = {value: i / max(len(distinct) - 1, 1) for i, value in enumerate(distinct)}
    labels = {
        position: f"{value:.3g}" if isinstance(value, float) else str(value) for value, position in positions.items()
    }
    return [positions[value] for value in values], labels


def importances(shares: Mapping[str, float]) -> Figure:
    """How much of the loss's variance (0-1) each parameter explains."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()))
    axes.set(xlabel="share of the variance that it explains", xlim=(0, 1))
    return figure
