"""The monitoring report: summarises captured answers, ground truth and recounts. Pure.

Ground truth counts for the answer that it names, even if it arrives days later; if there are several for one answer,
the last one counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from serve.monitoring import drift
from serve.monitoring.capture_rows import Rows
from serve.monitoring.drift import Alert, Drift, RecentStatistics, ReferenceShares
from serve.monitoring.monitor_settings import ALPHA, Thresholds
from serve.monitoring.recount_statistics import RecountStatistics, promise_alerts, summarise_recounts
from serve.monitoring.stations import StationReport, split_by_station, station_alerts
from serve.monitoring.time_buckets import (
    CalibrationQuality,
    TimeBucket,
    bucket_width,
    count_names,
    iso,
    split_by_time,
    summarise_rows,
)
from serve.recount.recount_entities import Recount

STATISTICS = ("confidence", "brightness", "sharpness")


@dataclass(frozen=True)
class Reference:
    """What answers are compared with: ``shares`` is ``reference.json`` of the run that trained ``version``."""

    version: str
    shares: ReferenceShares


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of ``monitoring.json``; buckets without a record are left out.

    ``stations``: the same statistics by station; ``recounts``: None where no answer of the version was recounted at
    random; ``comparison``: of the newest challenger that was tried on live traffic with the champion, if any was.
    """

    made_at: str
    start: str
    end: str
    records: int
    unreadable: int
    bucket_s: int
    buckets: tuple[TimeBucket, ...]
    totals: TimeBucket
    drift: tuple[Drift, ...]
    alerts: tuple[Alert, ...]
    model_versions: Mapping[str, int]
    stations: StationReport
    recounts: RecountStatistics | None
    comparison: Mapping[str, object] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The JSON object in ``monitoring.json``, where ``start`` and ``end`` are called ``from`` and ``to``."""
        content = asdict(self)
        content["from"], content["to"] = content.pop("start"), content.pop("end")
        return content


def summarise(
    answers: Rows,
    truths: Rows,
    unreadable: int,
    now: datetime,
    window: timedelta,
    reference: Reference | None,
    thresholds: Thresholds,
    recounts: Sequence[Recount] = (),
    alpha: float = ALPHA,
    comparison: Mapping[str, object] | None = None,
) -> Report:
    """The report on the time from ``now - window`` to ``now``.

    ``answers``: rows of ANSWER_DTYPE; ``truths``: rows of TRUTH_DTYPE; ``unreadable``: lines that could not be parsed;
    ``recounts``: all that there are, of whatever time; ``alpha``: the share of right records that may raise the alarm;
    ``comparison``: of a challenger with the champion, as the promoter has stored it.
    """
    start, end = (now - window).timestamp(), now.timestamp()
    rows = answers[(answers["time_s"] >= start) & (answers["time_s"] <= end)]
    rows = rows[np.argsort(rows["time_s"], kind="stable")]
    correct = _correctness(rows, truths)
    shares: ReferenceShares = reference.shares if reference else {}
    quality = CalibrationQuality.of(shares)
    width_s = bucket_width(window).total_seconds()
    drifts, notes = _compare_with_reference(rows, reference, thresholds)
    compared_with = (reference.version, shares) if reference else None
    stations = split_by_station(start, rows, correct, quality, compared_with, thresholds)
    recounted = summarise_recounts(recounts, reference.version if reference else None, alpha)
    recent = _recent_statistics(rows[rows["time_s"] >= end - thresholds.recent_s], recounted)
    return Report(
        made_at=iso(end),
        start=iso(start),
        end=iso(end),
        records=len(rows),
        unreadable=unreadable,
        bucket_s=int(width_s),
        buckets=split_by_time(rows, correct, width_s, quality),
        totals=summarise_rows(start, rows, correct, quality),
        drift=drifts,
        alerts=(
            *drift.active_alerts(drifts, recent, drift.reference_confidence(shares), thresholds),
            *promise_alerts(recounted),
            *station_alerts(stations.listed),
        ),
        model_versions=count_names(rows["version"]),
        stations=stations,
        recounts=recounted,
        comparison=comparison,
        notes=notes,
    )


def _correctness(rows: Rows, truths: Rows) -> NDArray[np.int8]:
    """For each answer: 1 right, 0 wrong, -1 without ground truth or failed. ``8+`` is right for 8 and above."""
    correct = np.full(len(rows), -1, np.int8)
    if not len(truths) or not len(rows):
        return correct
    events, last = np.unique(truths["event"][::-1], return_index=True)
    counts = truths["count"][::-1][last]
    position = np.minimum(np.searchsorted(events, rows["event"]), len(events) - 1)
    known = (events[position] == rows["event"]) & (rows["count"] != b"")
    names, inverse = np.unique(rows["count"][known], return_inverse=True)
    number = np.array([int(name.rstrip(b"+")) for name in names], np.int64)[inverse]
    open_top = np.array([name.endswith(b"+") for name in names], bool)[inverse]
    truth = counts[position][known]
    correct[known] = np.where(open_top, truth >= number, truth == number)
    return correct


def _compare_with_reference(
    rows: Rows, reference: Reference | None, thresholds: Thresholds
) -> tuple[tuple[Drift, ...], tuple[str, ...]]:
    """The drift of the answers that the reference's version gave, and notes on it."""
    if reference is None:
        return (), ("drift is left out: there is no reference for the model that serves",)
    answers = rows[(rows["version"] == reference.version.encode()) & (rows["count"] != b"")]
    values = {name: answers[name][~np.isnan(answers[name])] for name in STATISTICS}
    drifts = drift.compare(count_names(answers["count"]), values, reference.shares, thresholds)
    if len(answers) >= thresholds.min_records:
        return drifts, ()
    note = (
        f"{len(answers)} answers of version {reference.version} are in the window, fewer than "
        f"{thresholds.min_records}: drift raises no alert"
    )
    return drifts, (note,)


def _recent_statistics(rows: Rows, recounts: RecountStatistics | None) -> RecentStatistics:
    """``recounts``: where they test the promise, the share of mismatches is left out, since it would tell less."""
    totals = summarise_rows(0.0, rows, np.full(len(rows), -1, np.int8), CalibrationQuality())
    verdicts = sum(totals.verdicts.values())
    coarse = recounts is None or not recounts.tests_promise
    return RecentStatistics(
        requests=len(rows),
        answers=int((rows["count"] != b"").sum()),
        verdicts=verdicts,
        confidence_mean=totals.confidence_mean,
        mismatch_share=totals.verdicts["mismatch"] / verdicts if verdicts and coarse else None,
        error_share=totals.errors / len(rows) if len(rows) else None,
        latency_p99_ms=totals.latency_p99_ms,
    )
