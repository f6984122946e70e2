"""The pictures of a monitoring report: confidence, counts, verdicts, latency, accuracy and drift."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure


def confidence(report: Mapping[str, Any]) -> Figure:
    """Mean confidence and its lowest tenth by time: the report's reason for capture."""
    figure, axes = _by_time("confidence of the answers")
    for name, label in (("confidence_mean", "mean"), ("confidence_p10", "10th percentile")):
        axes.plot(_times(report), _values(report, name), marker=".", label=label)
    axes.set(ylabel="probability of the predicted count", ylim=(0, 1))
    axes.legend()
    return figure


def counts(report: Mapping[str, Any]) -> Figure:
    """Shares of the predicted counts by time."""
    names = list(report["totals"]["counts"])
    return _stacked(
        report, "predicted counts", {name: [b["counts"].get(name, 0) for b in report["buckets"]] for name in names}
    )


def verdicts(report: Mapping[str, Any]) -> Figure:
    """Shares of the verdicts by time."""
    names = list(report["totals"]["verdicts"])
    return _stacked(report, "verdicts", {name: [b["verdicts"][name] for b in report["buckets"]] for name in names})


def latency(report: Mapping[str, Any]) -> Figure:
    """Median and slowest hundredth by time."""
    figure, axes = _by_time("latency")
    for name, label in (("latency_p50_ms", "median"), ("latency_p99_ms", "99th percentile")):
        axes.plot(_times(report), _values(report, name), marker=".", label=label)
    axes.set(ylabel="ms", ylim=(0, None))
    axes.legend()
    return figure


def accuracy(report: Mapping[str, Any]) -> Figure:
    """The share that was right by time, with its 95 % interval, where the ground truth is known."""
    figure, axes = _by_time("accuracy where the ground truth is known")
    low, high = _values(report, "accuracy_low"), _values(report, "accuracy_high")
    axes.plot(_times(report), _values(report, "accuracy"), marker=".")
    axes.fill_between(_times(report), low, high, alpha=0.2, label="95 % interval")
    axes.set(ylabel="share", ylim=(0, 1))
    axes.legend()
    return figure


def drift(report: Mapping[str, Any]) -> Figure:
    """The population stability index of each statistic, and its threshold."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    found = [each for each in report["drift"] if each["psi"] is not None]
    places = np.arange(len(found))
    axes.barh(places, [each["psi"] for each in found], color=["C3" if each["alert"] else "C0" for each in found])
    axes.scatter([each["threshold"] for each in found], places, marker="|", s=400, color="black", label="threshold")
    axes.set_yticks(places, [each["name"] for each in found])
    axes.set(xlabel="population stability index against the model's reference")
    axes.legend()
    return figure


PICTURES: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    each.__name__: each for each in (confidence, counts, verdicts, latency, accuracy, drift)
}


def _by_time(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set(title=title, xlabel="UTC")
    return figure, axes


def _stacked(report: Mapping[str, Any], title: str, numbers: Mapping[str, list[int]]) -> Figure:
    figure, axes = _by_time(f"{title}, share of each")
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


def _times(report: Mapping[str, Any]) -> list[datetime]:
    return [datetime.fromisoformat(each["start"]) for each in report["buckets"]]


def _values(report: Mapping[str, Any], name: str) -> list[float]:
    return [np.nan if each[name] is None else each[name] for each in report["buckets"]]
