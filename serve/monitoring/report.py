"""What happened to the model lately: rows of data capture and of late ground truth in, a report out. Pure.

Percentiles are exact: every answer of the window is held, as about 100 bytes, and numpy interpolates linearly between
the two nearest. An answer belongs to the bucket of its own time, and a ground truth to the answer that it names, also
when it comes days later; of several for one answer the last counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.monitoring import drift, records
from serve.monitoring.drift import Alert, Drift, Recent, Thresholds
from serve.monitoring.records import Rows

WIDTHS = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
MOST_BUCKETS = 100
STATISTICS = ("confidence", "brightness", "sharpness")


@dataclass(frozen=True)
class Bucket:
    """A span of time that begins at ``start`` (ISO, UTC); None where nothing was measured.

    ``errors``: answers with a status of 400 or above; ``feedback``: answers whose ground truth is known;
    ``accuracy``: the share of these that was right, with its 95 % interval.
    """

    start: str
    requests: int
    errors: int
    confidence_mean: float | None
    confidence_p10: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    verdicts: Mapping[str, int]
    counts: Mapping[str, int]
    feedback: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class Reference:
    """What records are compared with: ``shares``, ``reference.json`` of the run that made ``version``."""

    version: str
    shares: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The whole of ``monitoring.json``; buckets without a record are left out."""

    made_at: str
    start: str
    end: str
    records: int
    unreadable: int
    bucket_s: int
    buckets: tuple[Bucket, ...]
    totals: Bucket
    drift: tuple[Drift, ...]
    alerts: tuple[Alert, ...]
    model_versions: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        content = asdict(self)
        content["from"], content["to"] = content.pop("start"), content.pop("end")
        return content


def summarise(
    answers: Rows,
    truths: Rows,
    unreadable: int,
    now: datetime,
    since: timedelta,
    reference: Reference | None,
    limits: Thresholds,
) -> Report:
    """The report on the answers (records.ANSWER) of the time from ``now - since`` to ``now``; pure."""
    start, end = (now - since).timestamp(), now.timestamp()
    rows = answers[(answers["time_s"] >= start) & (answers["time_s"] <= end)]
    rows = rows[np.argsort(rows["time_s"], kind="stable")]
    right = _right(rows, truths)
    width = bucket_width(since)
    indices = (rows["time_s"] // width.total_seconds()).astype(np.int64)
    cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(rows)] if len(rows) else [0]
    buckets = [
        _bucket(indices[first] * width.total_seconds(), rows[first:last], right[first:last])
        for first, last in pairwise(cuts)
    ]
    found, notes = _compared(rows, reference, limits)
    expected = drift.reference_confidence(reference.shares) if reference else None
    return Report(
        made_at=_iso(end),
        start=_iso(start),
        end=_iso(end),
        records=len(rows),
        unreadable=unreadable,
        bucket_s=int(width.total_seconds()),
        buckets=tuple(buckets),
        totals=_bucket(start, rows, right),
        drift=found,
        alerts=drift.alerts(found, _recent(rows[rows["time_s"] >= end - limits.recent_s]), expected, limits),
        model_versions=_tally(rows["version"]),
        notes=notes,
    )


def bucket_width(since: timedelta) -> timedelta:
    """5 minutes, an hour or a day: the finest that gives at most about 100 buckets."""
    return next((width for width in WIDTHS if since / width <= MOST_BUCKETS), WIDTHS[-1])


def _bucket(start_s: float, rows: Rows, right: NDArray[np.int8]) -> Bucket:
    answered = rows[rows["count"] != b""]
    latency = rows["latency_ms"][~np.isnan(rows["latency_ms"])]
    judged = right[right >= 0]
    low, high = drift.wilson(int(judged.sum()), len(judged)) if len(judged) else (None, None)
    found = _tally(rows["verdict"])
    return Bucket(
        start=_iso(start_s),
        requests=len(rows),
        errors=int((rows["status"] >= 400).sum()),
        confidence_mean=_rounded(answered["confidence"], np.mean),
        confidence_p10=_percentile(answered["confidence"], 10),
        latency_p50_ms=_percentile(latency, 50),
        latency_p99_ms=_percentile(latency, 99),
        verdicts={name: found.get(name, 0) for name in records.VERDICTS},
        counts=_tally(rows["count"]),
        feedback=len(judged),
        accuracy=_rounded(judged, np.mean),
        accuracy_low=low and round(low, 4),
        accuracy_high=high and round(high, 4),
    )


def _right(rows: Rows, truths: Rows) -> NDArray[np.int8]:
    """Of each answer: 1 right, 0 wrong, -1 not known, or not an answer. ``8+`` is right for 8 and above."""
    right = np.full(len(rows), -1, np.int8)
    if not len(truths) or not len(rows):
        return right
    events, last = np.unique(truths["event"][::-1], return_index=True)
    counts = truths["count"][::-1][last]
    place = np.minimum(np.searchsorted(events, rows["event"]), len(events) - 1)
    known = (events[place] == rows["event"]) & (rows["count"] != b"")
    names, inverse = np.unique(rows["count"][known], return_inverse=True)
    number = np.array([int(name.rstrip(b"+")) for name in names], np.int64)[inverse]
    open_top = np.array([name.endswith(b"+") for name in names], bool)[inverse]
    truth = counts[place][known]
    right[known] = np.where(open_top, truth >= number, truth == number)
    return right


def _compared(rows: Rows, reference: Reference | None, limits: Thresholds) -> tuple[tuple[Drift, ...], tuple[str, ...]]:
    """The drift of the answers of the reference's version, and what is to be said of it."""
    if reference is None:
        return (), ("drift is left out: there is no reference of the model that serves",)
    mine = rows[(rows["version"] == reference.version.encode()) & (rows["count"] != b"")]
    values = {name: mine[name][~np.isnan(mine[name])] for name in STATISTICS}
    found = drift.compare(_tally(mine["count"]), values, reference.shares, limits)
    few = f"{len(mine)} answers of version {reference.version} are in the window, fewer than {limits.min_records}"
    return found, (f"{few}: drift raises no alert",) if len(mine) < limits.min_records else ()


def _recent(rows: Rows) -> Recent:
    totals = _bucket(0.0, rows, np.full(len(rows), -1, np.int8))
    verdicts = sum(totals.verdicts.values())
    return Recent(
        requests=len(rows),
        answers=int((rows["count"] != b"").sum()),
        verdicts=verdicts,
        confidence_mean=totals.confidence_mean,
        mismatch_share=totals.verdicts["mismatch"] / verdicts if verdicts else None,
        error_share=totals.errors / len(rows) if len(rows) else None,
        latency_p99_ms=totals.latency_p99_ms,
    )


def _tally(values: Rows) -> dict[str, int]:
    """How often each word occurs, the empty one left out; numbers in their order."""
    names, numbers = np.unique(values[values != b""], return_counts=True)
    found = {name.decode(): int(number) for name, number in zip(names, numbers, strict=True)}
    return dict(sorted(found.items(), key=lambda each: (len(each[0].rstrip("+")), each[0])))


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 4) if len(values) else None


def _rounded(values: Rows, what: Any) -> float | None:
    return round(float(what(values)), 4) if len(values) else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
