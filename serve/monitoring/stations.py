"""Statistics and drift by station: where one camera has slipped, only its photos differ. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.monitoring import drift
from serve.monitoring.capture_rows import Rows
from serve.monitoring.drift import FALSE_ALARM_RATE, Alert, Drift, ReferenceShares
from serve.monitoring.monitor_settings import Thresholds
from serve.monitoring.time_buckets import CalibrationQuality, TimeBucket, count_names, summarise_rows

MAX_STATIONS = 50
"""Stations that are listed, those with the most answers; the others are summarised together."""
STATISTICS = ("brightness", "sharpness")


@dataclass(frozen=True, kw_only=True)
class StationStatistics:
    """The answers of one station in the window. ``name``: empty for answers that no station is known of."""

    name: str
    totals: TimeBucket
    drift: tuple[Drift, ...]


@dataclass(frozen=True, kw_only=True)
class StationReport:
    """The stations with the most answers, and ``other``, the remaining ones together; empty if none is known."""

    listed: tuple[StationStatistics, ...] = ()
    other: TimeBucket | None = None


def split_by_station(
    start_s: float,
    rows: Rows,
    correct: NDArray[np.int8],
    quality: CalibrationQuality,
    reference: tuple[str, ReferenceShares] | None,
    thresholds: Thresholds,
) -> StationReport:
    """The answers by station. ``reference``: a version, and what its answers are compared with."""
    names, inverse, numbers = np.unique(rows["station"], return_inverse=True, return_counts=True)
    if not any(names):
        return StationReport()
    order = np.argsort(-numbers, kind="stable")
    tested = max(1, int((numbers[order[:MAX_STATIONS]] >= thresholds.min_records).sum()))
    stations = []
    for index in order[:MAX_STATIONS]:
        mask = inverse == index
        stations.append(
            StationStatistics(
                name=names[index].decode("utf-8", "ignore"),
                totals=summarise_rows(start_s, rows[mask], correct[mask], quality),
                drift=_drift(rows[mask], reference, thresholds, FALSE_ALARM_RATE / tested),
            )
        )
    remaining = np.isin(inverse, order[MAX_STATIONS:])
    other = summarise_rows(start_s, rows[remaining], correct[remaining], quality) if remaining.any() else None
    return StationReport(listed=tuple(stations), other=other)


def _drift(
    rows: Rows, reference: tuple[str, ReferenceShares] | None, thresholds: Thresholds, false_alarm_rate: float
) -> tuple[Drift, ...]:
    """The drift of one station. Its share of false alarms is divided by the number of stations that are tested."""
    if reference is None:
        return ()
    version, shares = reference
    answers = rows[(rows["version"] == version.encode()) & (rows["count"] != b"")]
    values = {name: answers[name][~np.isnan(answers[name])] for name in STATISTICS}
    return drift.compare(count_names(answers["count"]), values, shares, thresholds, false_alarm_rate)


def station_alerts(stations: Sequence[StationStatistics]) -> tuple[Alert, ...]:
    """One alert for each named station that drifted. A retraining does not answer it: a camera has to be looked at."""
    drifted = {station.name: [index for index in station.drift if index.alert] for station in stations if station.name}
    return tuple(_alert(name, indices) for name, indices in drifted.items() if indices)


def _alert(name: str, indices: Sequence[Drift]) -> Alert:
    worst = max(indices, key=lambda index: index.psi or 0.0)
    figures = " and ".join(f"{index.name} ({index.psi:.2f}, threshold {index.threshold:.2f})" for index in indices)
    message = (
        f"the {figures} of station {name!r} differ from the model's reference (population stability index); "
        "look at its camera, its light and its bins"
    )
    return Alert(f"station {name}", worst.psi or 0.0, worst.threshold, message)
