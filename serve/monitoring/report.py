"""The monitoring report: summarises captured answers and ground truth. Pure.

Percentiles are exact: all answers of the window are in memory, at about 120 bytes each, and numpy interpolates linearly
between the two nearest values. An answer belongs to the bucket of its own time. Ground truth counts for the answer that
it names, even if it arrives days later; if there are several for one answer, the last one counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serve.monitoring import capture_rows, drift
from serve.monitoring.capture_rows import Rows
from serve.monitoring.drift import Alert, Drift, RecentStatistics, ReferenceShares
from serve.monitoring.monitor_settings import Thresholds

WIDTHS = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
MAX_BUCKETS = 100
STATISTICS = ("confidence", "brightness", "sharpness")


@dataclass(frozen=True, kw_only=True)
class TimeBucket:
    """Statistics of a time span that begins at ``start`` (ISO 8601, UTC); None if nothing was measured.

    ``errors``: answers with status 400 or above; ``verdicts_by_evidence``: the verdicts by what they rest on
    (``Evidence``), as far as there are any; ``not_a_bin``: the verdicts on photos that were taken for something
    else than a bin; ``feedback``: answers with ground truth; ``accuracy``: the share of these that was right, with
    its 95 % interval.
    """

    start: str
    requests: int
    errors: int
    confidence_mean: float | None
    confidence_p10: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    verdicts: Mapping[str, int]
    verdicts_by_evidence: Mapping[str, Mapping[str, int]]
    not_a_bin: int
    counts: Mapping[str, int]
    feedback: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class Reference:
    """What answers are compared with: ``shares`` is ``reference.json`` of the run that trained ``version``."""

    version: str
    shares: ReferenceShares


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of ``monitoring.json``; buckets without a record are left out."""

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
) -> Report:
    """The report on the time from ``now - window`` to ``now``.

    ``answers``: rows of ANSWER_DTYPE; ``truths``: rows of TRUTH_DTYPE; ``unreadable``: lines that could not be parsed.
    """
    start, end = (now - window).timestamp(), now.timestamp()
    rows = answers[(answers["time_s"] >= start) & (answers["time_s"] <= end)]
    rows = rows[np.argsort(rows["time_s"], kind="stable")]
    correct = _correctness(rows, truths)
    width_s = bucket_width(window).total_seconds()
    indices = (rows["time_s"] // width_s).astype(np.int64)
    cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(rows)] if len(rows) else [0]
    buckets = [
        _bucket(indices[first] * width_s, rows[first:last], correct[first:last]) for first, last in pairwise(cuts)
    ]
    drifts, notes = _compare_with_reference(rows, reference, thresholds)
    expected_confidence = drift.reference_confidence(reference.shares) if reference else None
    recent = _recent_statistics(rows[rows["time_s"] >= end - thresholds.recent_s])
    return Report(
        made_at=_iso(end),
        start=_iso(start),
        end=_iso(end),
        records=len(rows),
        unreadable=unreadable,
        bucket_s=int(width_s),
        buckets=tuple(buckets),
        totals=_bucket(start, rows, correct),
        drift=drifts,
        alerts=drift.active_alerts(drifts, recent, expected_confidence, thresholds),
        model_versions=_count_names(rows["version"]),
        notes=notes,
    )


def bucket_width(window: timedelta) -> timedelta:
    """5 minutes, an hour or a day: the finest that gives at most MAX_BUCKETS, or a day."""
    return next((width for width in WIDTHS if window / width <= MAX_BUCKETS), WIDTHS[-1])


def _bucket(start_s: float, rows: Rows, correct: NDArray[np.int8]) -> TimeBucket:
    answered = rows[rows["count"] != b""]
    latency = rows["latency_ms"][~np.isnan(rows["latency_ms"])]
    checked = correct[correct >= 0]
    low, high = drift.wilson(int(checked.sum()), len(checked)) if len(checked) else (None, None)
    return TimeBucket(
        start=_iso(start_s),
        requests=len(rows),
        errors=int((rows["status"] >= 400).sum()),
        confidence_mean=_mean(answered["confidence"]),
        confidence_p10=_percentile(answered["confidence"], 10),
        latency_p50_ms=_percentile(latency, 50),
        latency_p99_ms=_percentile(latency, 99),
        verdicts=_count_verdicts(rows),
        verdicts_by_evidence={
            name: _count_verdicts(rows[rows["evidence"] == name.encode()]) for name in _count_names(rows["evidence"])
        },
        not_a_bin=int(rows["not_a_bin"].sum()),
        counts=_count_names(rows["count"]),
        feedback=len(checked),
        accuracy=_mean(checked),
        accuracy_low=low and round(low, 4),
        accuracy_high=high and round(high, 4),
    )


def _count_verdicts(rows: Rows) -> dict[str, int]:
    """How often there was each verdict, 0 included."""
    numbers = _count_names(rows["verdict"])
    return {name: numbers.get(name, 0) for name in capture_rows.VERDICTS}


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
    drifts = drift.compare(_count_names(answers["count"]), values, reference.shares, thresholds)
    if len(answers) >= thresholds.min_records:
        return drifts, ()
    note = (
        f"{len(answers)} answers of version {reference.version} are in the window, fewer than "
        f"{thresholds.min_records}: drift raises no alert"
    )
    return drifts, (note,)


def _recent_statistics(rows: Rows) -> RecentStatistics:
    totals = _bucket(0.0, rows, np.full(len(rows), -1, np.int8))
    verdicts = sum(totals.verdicts.values())
    return RecentStatistics(
        requests=len(rows),
        answers=int((rows["count"] != b"").sum()),
        verdicts=verdicts,
        confidence_mean=totals.confidence_mean,
        mismatch_share=totals.verdicts["mismatch"] / verdicts if verdicts else None,
        error_share=totals.errors / len(rows) if len(rows) else None,
        latency_p99_ms=totals.latency_p99_ms,
    )


def _count_names(values: NDArray[np.bytes_]) -> dict[str, int]:
    """How often each name occurs, except for the empty one; numbers are sorted by value."""
    names, occurrences = np.unique(values[values != b""], return_counts=True)
    counts = {name.decode(): int(number) for name, number in zip(names, occurrences, strict=True)}
    return dict(sorted(counts.items(), key=lambda item: (len(item[0].rstrip("+")), item[0])))


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 4) if len(values) else None


def _mean(values: NDArray[np.float64] | NDArray[np.int8]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
