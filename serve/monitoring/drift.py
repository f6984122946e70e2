"""Drift of the served answers and photos from the training data, and which alerts are active. Pure.

The population stability index (PSI) of shares p (now) and q (reference) over B bins is the sum of (p - q) ln(p / q).
By convention 0.1 is a small and 0.25 a large change. Its distribution is from B. Yurdakul and J. Naranjo, Statistical
properties of the population stability index, Journal of Risk Model Validation 14(4), 2020: without any change it is
(1/n + 1/m) chi-square with B - 1 degrees of freedom, for n records now and m in the reference. So its mean is
(B - 1)(1/n + 1/m), and a small sample exceeds 0.2 by chance. Hence an alert needs

- at least ``min_records``: 200 put 20 into a decile, and then 0.2 alone is above the 99.9 % quantile
- an index above the threshold and above that 99.9 % quantile: one false alarm in 1,000 reports on independent photos
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Annotated, Any, TypeAlias

import numpy as np
from annotated_types import Ge, Le, Len
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from scipy.special import chdtri

from serve.errors import DataError
from serve.monitoring.monitor_settings import Thresholds

FALSE_ALARM_RATE = 0.001
"""Share of reports without any change in which one index may raise an alert."""
SMOOTHING = 0.5
"""Records added to every bin on both sides, so that an empty bin gives a finite index (Jeffreys' prior)."""
Z95 = NormalDist().inv_cdf(0.975)

_Deciles = Annotated[list[FiniteFloat], Len(11, 11)]
ReferenceShares: TypeAlias = Mapping[str, Any]
"""``reference.json`` of a training run.

``counts``: share (0-1) by count; ``confidence``, ``brightness`` and ``sharpness``: 11 deciles each, from minimum to
maximum; ``photos``: the number of photos behind each of them; ``calibration_error``: of the confidence (0-1). Old runs
lack the last two.
"""


@dataclass(frozen=True)
class _Reference:
    counts: dict[str, FiniteFloat] | None = None
    confidence: _Deciles | None = None
    brightness: _Deciles | None = None
    sharpness: _Deciles | None = None
    photos: dict[str, int] | None = None
    calibration_error: Annotated[FiniteFloat, Ge(0), Le(1)] | None = None


_REFERENCE = TypeAdapter(_Reference)


def checked_reference(content: Mapping[str, object]) -> ReferenceShares:
    """The part of a ``reference.json`` that is compared with. Raises DataError where it has another shape."""
    try:
        reference = asdict(_REFERENCE.validate_python(content))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise DataError(f"this is not a reference.json of binwatch: {place}: {problem['msg']}") from error
    return {name: shares for name, shares in reference.items() if shares is not None}


@dataclass(frozen=True)
class Drift:
    """The index of one distribution, None if there are no records; above ``threshold`` it raises an alert."""

    name: str
    psi: float | None
    threshold: float
    alert: bool


@dataclass(frozen=True)
class Alert:
    """Something that a person should look at."""

    name: str
    value: float
    threshold: float
    message: str


@dataclass(frozen=True, kw_only=True)
class RecentStatistics:
    """Statistics of the last ``recent_s`` seconds; None if there is nothing to measure."""

    requests: int
    answers: int
    verdicts: int
    confidence_mean: float | None
    mismatch_share: float | None
    error_share: float | None
    latency_p99_ms: float | None


def psi(now: Sequence[float], reference: Sequence[float], sizes: tuple[float, float]) -> float:
    """The index of shares per bin. ``sizes``: the number of records behind the shares of each side."""
    p, q = (
        (np.asarray(shares) * size + SMOOTHING) / (size + SMOOTHING * len(shares))
        for shares, size in zip((now, reference), sizes, strict=True)
    )
    return float(np.sum((p - q) * np.log(p / q)))


def psi_threshold(
    bins: int, sizes: tuple[float, float], minimum: float, false_alarm_rate: float = FALSE_ALARM_RATE
) -> float:
    """What an index over ``bins`` must exceed to raise an alert: ``minimum``, or more for small samples.

    ``false_alarm_rate``: the share of reports without any change (0-1) in which it may do so by chance.
    """
    if bins < 2:
        return minimum
    quantile = float(chdtri(bins - 1, false_alarm_rate))  # of the chi-square distribution
    return max(minimum, quantile * sum(1 / size for size in sizes))


def shares_by_name(counts: Mapping[str, int], reference: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Shares of the counts now and in the reference, with a bin for each name that occurs in either."""
    total = sum(counts.values())
    names = sorted({*counts, *(name for name, share in reference.items() if share)})
    return [counts.get(name, 0) / total for name in names], [float(reference.get(name, 0)) for name in names]


def shares_by_decile(values: NDArray[np.float64], deciles: Sequence[float]) -> tuple[list[float], list[float]]:
    """Shares of values now and in the reference, in bins between the reference's 11 deciles.

    The outer bins are open. Equal deciles are merged into one bin, with that many tenths of the reference.
    """
    below = {edge: tenth / 10 for tenth, edge in enumerate(deciles) if tenth}  # the last of equal deciles wins
    edges = [edge for edge, share in below.items() if share < 1]
    bins = np.searchsorted(edges, values, side="left")  # a bin includes its upper edge
    shares = np.bincount(bins, minlength=len(edges) + 1) / len(values)
    return shares.tolist(), np.diff([0.0, *(below[edge] for edge in edges), 1.0]).tolist()


def compare(
    counts: Mapping[str, int],
    values: Mapping[str, NDArray[np.float64]],
    reference: ReferenceShares,
    thresholds: Thresholds,
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> tuple[Drift, ...]:
    """The index of the counts and of each of ``values`` against the reference.

    Where the reference does not say how many photos it is from, it counts as having as many as there are records now.
    """
    drifts = []
    for name in ("counts", *values):
        if name not in reference:
            continue
        size = sum(counts.values()) if name == "counts" else len(values[name])
        if not size:
            drifts.append(Drift(name, None, thresholds.psi, False))
            continue
        now, before = (
            shares_by_name(counts, reference[name])
            if name == "counts"
            else shares_by_decile(values[name], reference[name])
        )
        sizes = (size, float(reference.get("photos", {}).get(name) or size))
        index, limit = psi(now, before, sizes), psi_threshold(len(now), sizes, thresholds.psi, false_alarm_rate)
        alert = size >= thresholds.min_records and index > limit
        drifts.append(Drift(name, round(index, 4), round(limit, 4), alert))
    return tuple(drifts)


def reference_confidence(reference: ReferenceShares) -> float | None:
    """The reference's mean confidence, estimated from its deciles as if values were uniform between two of them."""
    deciles = reference.get("confidence")
    return float(np.mean((np.asarray(deciles[1:]) + np.asarray(deciles[:-1])) / 2)) if deciles else None


def active_alerts(
    drifts: Sequence[Drift], recent: RecentStatistics, expected_confidence: float | None, thresholds: Thresholds
) -> tuple[Alert, ...]:
    """The alerts to raise. ``expected_confidence``: the reference's mean confidence, if there is a reference."""
    return (*_drift_alerts(drifts), *_recent_alerts(recent, expected_confidence, thresholds))


def _drift_alerts(drifts: Sequence[Drift]) -> list[Alert]:
    return [
        Alert(
            f"drift of {drift.name}",
            drift.psi,
            drift.threshold,
            f"{drift.name} in the window differ from the model's reference: population stability index "
            f"{drift.psi:.2f}, threshold {drift.threshold:.2f}; look at the photos and at what changed",
        )
        for drift in drifts
        if drift.alert and drift.psi is not None
    ]


def _recent_alerts(recent: RecentStatistics, expected_confidence: float | None, thresholds: Thresholds) -> list[Alert]:
    drop = None
    if expected_confidence is not None and recent.confidence_mean is not None:
        drop = expected_confidence - recent.confidence_mean
    period = f"of the last {thresholds.recent_s / 60:.0f} minutes"
    rules = [
        (
            "confidence",
            drop,
            thresholds.confidence_drop,
            recent.answers,
            f"the mean confidence {period} is {{:.3f}} below the reference's; look at the photos",
        ),
        (
            "mismatches",
            recent.mismatch_share,
            thresholds.mismatch_share,
            recent.verdicts,
            f"{{:.1%}} of the verdicts {period} are mismatches; check some of these bins by hand",
        ),
        (
            "errors",
            recent.error_share,
            thresholds.error_share,
            recent.requests,
            f"{{:.1%}} of the requests {period} failed; look at the statuses in the capture and at TorchServe's log",
        ),
        (
            "latency",
            recent.latency_p99_ms,
            thresholds.latency_p99_ms,
            recent.requests,
            f"the slowest 1 % of the answers {period} took {{:.0f}} ms or more; check the load and the workers",
        ),
    ]
    return [
        Alert(name, round(value, 4), limit, text.format(value))
        for name, value, limit, size, text in rules
        if value is not None and value > limit and size >= thresholds.min_records
    ]
