"""Statistics of captured answers, of a time span or of a station. Pure.

Percentiles are exact: all answers of the window are in memory, at about 180 bytes each, and numpy interpolates linearly
between the two nearest values. An answer belongs to the bucket of its own time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serve.monitoring import capture_rows, drift
from serve.monitoring.capture_rows import Rows
from serve.monitoring.drift import ReferenceShares
from serve.recount.recount_progress import MeasuredShare

WIDTHS = (timedelta(minutes=5), timedelta(hours=1), timedelta(days=1))
MAX_BUCKETS = 100


@dataclass(frozen=True, kw_only=True)
class TimeBucket:
    """Statistics of answers from ``start`` on (ISO 8601, UTC); None if nothing was measured.

    ``errors``: answers with status 400 or above; ``verdicts_by_evidence``: the verdicts by what they rest on
    (``Evidence``), as far as there are any; ``not_a_bin``: the verdicts on photos that were taken for something
    else than a bin; ``feedback``: answers with ground truth; ``accuracy``: the share of these that was right, with
    its 95 % interval; ``accuracy_estimated``: the same of all answers, by their confidence (``CalibrationQuality``).
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
    accuracy_estimated: float | None
    accuracy_estimated_low: float | None
    accuracy_estimated_high: float | None


@dataclass(frozen=True)
class CalibrationQuality:
    """How well the confidence of the model is known to be calibrated.

    ``photos``: how many it was calibrated on, None if unknown; ``error``: the expected calibration error on them (0-1).
    """

    photos: int | None = None
    error: float = 0.0

    @classmethod
    def of(cls, reference: ReferenceShares) -> "CalibrationQuality":
        """What a reference says of it; old ones do not say all."""
        return cls(reference.get("photos", {}).get("confidence"), reference.get("calibration_error", 0.0))

    def estimate_accuracy(self, confidence: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
        """The expected accuracy of answers with this ``confidence`` (0-1), and its 95 % interval.

        A calibrated answer is right with the probability that it names, so the accuracy of n answers has the mean of
        these and the variance mean(c (1 - c)) / n. The same variance over the calibration photos says how far the
        calibration itself may be off by chance; its measured error is added on both sides. The interval does not
        cover drift, which can change what a confidence means: recounts tell (``recount_statistics.py``).
        """
        if not len(confidence):
            return None, None, None
        mean, variance = float(np.mean(confidence)), float(np.mean(confidence * (1 - confidence)))
        samples = 1 / len(confidence) + (1 / self.photos if self.photos else 0.0)
        half = self.error + drift.Z95 * float(np.sqrt(variance * samples))
        return round(mean, 4), round(max(0.0, mean - half), 4), round(min(1.0, mean + half), 4)


def bucket_width(window: timedelta) -> timedelta:
    """5 minutes, an hour or a day: the finest that gives at most MAX_BUCKETS, or a day."""
    return next((width for width in WIDTHS if window / width <= MAX_BUCKETS), WIDTHS[-1])


def split_by_time(
    rows: Rows, correct: NDArray[np.int8], width_s: float, quality: CalibrationQuality
) -> tuple[TimeBucket, ...]:
    """The buckets of ``rows``, which are sorted by time; buckets without a record are left out."""
    indices = (rows["time_s"] // width_s).astype(np.int64)
    cuts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist(), len(rows)] if len(rows) else [0]
    return tuple(
        summarise_rows(indices[first] * width_s, rows[first:last], correct[first:last], quality)
        for first, last in pairwise(cuts)
    )


def summarise_rows(start_s: float, rows: Rows, correct: NDArray[np.int8], quality: CalibrationQuality) -> TimeBucket:
    """The statistics of ``rows``. ``correct``: for each 1 right, 0 wrong, -1 unknown."""
    answered = rows[rows["count"] != b""]
    latency = rows["latency_ms"][~np.isnan(rows["latency_ms"])]
    checked = correct[correct >= 0]
    measured = MeasuredShare.of((checked == 1).tolist())
    estimated, estimated_low, estimated_high = quality.estimate_accuracy(answered["confidence"])
    return TimeBucket(
        start=iso(start_s),
        requests=len(rows),
        errors=int((rows["status"] >= 400).sum()),
        confidence_mean=_mean(answered["confidence"]),
        confidence_p10=_percentile(answered["confidence"], 10),
        latency_p50_ms=_percentile(latency, 50),
        latency_p99_ms=_percentile(latency, 99),
        verdicts=_count_verdicts(rows),
        verdicts_by_evidence={
            name: _count_verdicts(rows[rows["evidence"] == name.encode()]) for name in count_names(rows["evidence"])
        },
        not_a_bin=int(rows["not_a_bin"].sum()),
        counts=count_names(rows["count"]),
        feedback=measured.total,
        accuracy=measured.share,
        accuracy_low=measured.low,
        accuracy_high=measured.high,
        accuracy_estimated=estimated,
        accuracy_estimated_low=estimated_low,
        accuracy_estimated_high=estimated_high,
    )


def count_names(values: NDArray[np.bytes_]) -> dict[str, int]:
    """How often each name occurs, except for the empty one; numbers are sorted by value."""
    names, occurrences = np.unique(values[values != b""], return_counts=True)
    counts = {name.decode(): int(number) for name, number in zip(names, occurrences, strict=True)}
    return dict(sorted(counts.items(), key=lambda item: (len(item[0].rstrip("+")), item[0])))


def iso(seconds: float) -> str:
    """A time since 1970 in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _count_verdicts(rows: Rows) -> dict[str, int]:
    """How often there was each verdict, 0 included."""
    numbers = count_names(rows["verdict"])
    return {name: numbers.get(name, 0) for name in capture_rows.VERDICTS}


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 4) if len(values) else None


def _mean(values: NDArray[np.float64] | NDArray[np.int8]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
