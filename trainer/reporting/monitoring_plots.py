"""The figures of a monitoring report: confidence, counts, verdicts, latency, accuracy and drift."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

Report = Mapping[str, Any]
"""The content of ``monitoring.json`` (``serve/monitoring/report.py``)."""


def confidence(report: Report) -> Figure:
    """Mean and 10th percentile of the confidence over time."""
    figure, axes = _over_time("confidence of the answers")
    for name, label in (("confidence_mean", "mean"), ("confidence_p10", "10th percentile")):
        axes.plot(_times(report), _values(report, name), marker=".", label=label)
    axes.set(ylabel="probability of the predicted count", ylim=(0, 1))
    axes.legend()
    return figure


def counts(report: Report) -> Figure:
    """Shares of the predicted counts over time."""
    names = list(report["totals"]["counts"])
    numbers = {name: [bucket["counts"].get(name, 0) for bucket in report["buckets"]] for name in names}
    return _stacked(report, "predicted counts", numbers)


def verdicts(report: Report) -> Figure:
    """Shares of the verdicts over time."""
    names = list(report["totals"]["verdicts"])
    numbers = {name: [bucket["verdicts"][name] for bucket in report["buckets"]] for name in names}
    return _stacked(report, "verdicts", numbers)


def latency(report: Report) -> Figure:
    """Median and 99th percentile of the latency over time."""
    figure, axes = _over_time("latency")
    for name, label in (("latency_p50_ms", "median"), ("latency_p99_ms", "99th percentile")):
        axes.plot(_times(report), _values(report, name), marker=".", label=label)
    axes.set(ylabel="ms", ylim=(0, None))
    axes.legend()
    return figure


def accuracy(report: Report) -> Figure:
    """Accuracy over time where the ground truth is known, and as confidence says it, each with its 95 % interval."""
    figure, axes = _over_time("accuracy, and its 95 % interval")
    for name, label in (("accuracy", "where the ground truth is known"), ("accuracy_estimated", "by confidence")):
        low, high = _values(report, f"{name}_low"), _values(report, f"{name}_high")
        axes.plot(_times(report), _values(report, name), marker=".", label=label)
        axes.fill_between(_times(report), low, high, alpha=0.2)
    axes.set(ylabel="share", ylim=(0, 1))
    axes.legend()
    return figure


def drift(report: Report) -> Figure:
    """The population stability index of each statistic, and its threshold."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    drifts = [statistic for statistic in report["drift"] if statistic["psi"] is not None]
    rows = np.arange(len(drifts))
    colours = ["C3" if statistic["alert"] else "C0" for statistic in drifts]
    axes.barh(rows, [statistic["psi"] for statistic in drifts], color=colours)
    thresholds = [statistic["threshold"] for statistic in drifts]
    axes.scatter(thresholds, rows, marker="|", s=400, color="black", label="threshold")
    axes.set_yticks(rows, [statistic["name"] for statistic in drifts])
    axes.set(xlabel="population stability index against the model's reference")
    axes.legend()
    return figure


FIGURES: dict[str, Callable[[Report], Figure]] = {
    draw.__name__: draw for draw in (confidence, counts, verdicts, latency, accuracy, drift)
}


def _over_time(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set(title=title, xlabel="UTC")
    return figure, axes


def _stacked(report: Report, title: str, numbers: Mapping[str, Sequence[int]]) -> Figure:
    figure, axes = _over_time(f"{title}, share of each")
    rows = np.array(list(numbers.values()), float).reshape(len(numbers), -1)
    total = rows.sum(axis=0)
    shares = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
    bottom = np.zeros(rows.shape[1])
    for name, share in zip(numbers, shares, strict=True):
        axes.bar(_times(report), share, width=0.9 * report["bucket_s"] / 86_400, bottom=bottom, label=name)
        bottom += share
    axes.set(ylabel="share", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _times(report: Report) -> Any:  # datetimes, which matplotlib draws and its types do not allow
    return [datetime.fromisoformat(bucket["start"]) for bucket in report["buckets"]]


def _values(report: Report, name: str) -> list[float]:
    return [np.nan if bucket[name] is None else bucket[name] for bucket in report["buckets"]]
