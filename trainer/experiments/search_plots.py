"""The pictures of a search: its history, its parameters, and what they explain."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainer.experiments.tune import Trial


def search_history(trials: Sequence[Trial]) -> Figure:
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


def parallel_coordinates(trials: Sequence[Trial]) -> Figure:
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
