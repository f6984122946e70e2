"""Drift of what is served against what the model was made with, and when to raise an alert. Pure.

The population stability index of shares p (now) and q (reference) over B bins is the sum of (p - q) ln(p / q). By
custom 0.1 is little and 0.25 much; how it behaves is from B. Yurdakul and J. Naranjo, Statistical properties of the
population stability index, Journal of Risk Model Validation 14(4), 2020: where nothing has changed, it is distributed
as (1/n + 1/m) chi-square with B - 1 degrees of freedom, for n records now and m in the reference. So it has the
mean (B - 1)(1/n + 1/m), and a small sample passes 0.2 by luck. Hence an alert needs

- at least ``min_records``: 200 put 20 into a decile, and with them 0.2 is above the 99.9 % quantile by itself
- an index above the threshold and above that 99.9 % quantile: a false alarm in 1,000 looks at fresh, independent photos
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from serve.errors import SettingsError

FALSE_ALARMS = 0.001
"""Share of the looks without any change that may raise the alert of one index."""
SMOOTHING = 0.5
"""Records added to every bin on both sides, so that an empty one gives no infinite index (Jeffreys' prior)."""
Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Thresholds:
    """When to raise an alert.

    ``psi``: the index; ``confidence_drop``: of the mean confidence below the reference's; ``mismatch_share``: of the
    verdicts; ``error_share``: of the requests; ``latency_p99_ms``. All but the index look at the last ``recent_s``
    seconds. Nothing is said of fewer than ``min_records``.
    """

    psi: float = 0.2
    confidence_drop: float = 0.1
    mismatch_share: float = 0.25
    error_share: float = 0.05
    latency_p99_ms: float = 1000.0
    min_records: int = 200
    recent_s: float = 3600.0


@dataclass(frozen=True)
class Drift:
    """One index; ``threshold``: what it must pass; ``psi`` is None where there is nothing to compare."""

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


@dataclass(frozen=True)
class Recent:
    """What the last ``recent_s`` seconds came to; None where there was nothing to measure."""

    requests: int
    answers: int
    verdicts: int
    confidence_mean: float | None
    mismatch_share: float | None
    error_share: float | None
    latency_p99_ms: float | None


def psi(now: Sequence[float], reference: Sequence[float], sizes: tuple[float, float]) -> float:
    """The index of shares per bin; ``sizes``: how many records each side's shares come from."""
    smooth = [
        (np.asarray(shares) * size + SMOOTHING) / (size + SMOOTHING * len(shares))
        for shares, size in zip((now, reference), sizes, strict=True)
    ]
    return float(np.sum((smooth[0] - smooth[1]) * np.log(smooth[0] / smooth[1])))


def threshold(bins: int, sizes: tuple[float, float], least: float) -> float:
    """What an index over so many bins must pass: ``least``, or more where the samples are small."""
    return max(least, chi_square(bins - 1, 1 - FALSE_ALARMS) * sum(1 / size for size in sizes))


def chi_square(degrees: int, probability: float) -> float:
    """Quantile of the chi-square distribution (E. B. Wilson and M. M. Hilferty, 1931).

    At 99.9 % it is within 1.5 % from 4 degrees of freedom on, and within 5 % below.
    """
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + NormalDist().inv_cdf(probability) * math.sqrt(part)) ** 3)


def shares_by_name(counts: Mapping[str, int], reference: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Shares of the counts now and in the reference, a bin a name that either of them has."""
    total = sum(counts.values())
    names = sorted({*counts, *(name for name, share in reference.items() if share)})
    return [counts.get(name, 0) / total for name in names], [float(reference.get(name, 0)) for name in names]


def shares_by_decile(values: NDArray[np.float64], deciles: Sequence[float]) -> tuple[list[float], list[float]]:
    """Shares of values now and in the reference, in bins between the reference's 11 deciles.

    The outer bins are open. Deciles that are equal make one bin, of which the reference holds that many tenths.
    """
    below = {edge: tenth / 10 for tenth, edge in enumerate(deciles) if tenth}  # of equal ones the last stays
    edges = [edge for edge, share in below.items() if share < 1]
    bins = np.searchsorted(edges, values, side="left")  # a bin holds its upper edge
    found = np.bincount(bins, minlength=len(edges) + 1) / len(values)
    return found.tolist(), np.diff([0.0, *(below[edge] for edge in edges), 1.0]).tolist()


def compare(
    counts: Mapping[str, int],
    values: Mapping[str, NDArray[np.float64]],
    reference: Mapping[str, Any],
    limits: Thresholds,
) -> tuple[Drift, ...]:
    """The index of the counts and of each of ``values`` against ``reference`` (``reference.json`` of a run).

    ``reference["photos"]``, where it is there, says from how many photos each of its parts comes; else it counts as
    as many as there are records now.
    """
    made = []
    for name in ("counts", *values):
        if name not in reference:
            continue
        size = sum(counts.values()) if name == "counts" else len(values[name])
        if not size:
            made.append(Drift(name, None, limits.psi, False))
            continue
        now, then = (
            shares_by_name(counts, reference[name])
            if name == "counts"
            else shares_by_decile(values[name], reference[name])
        )
        sizes = (size, float(reference.get("photos", {}).get(name) or size))
        index, limit = psi(now, then, sizes), threshold(len(now), sizes, limits.psi)
        made.append(Drift(name, round(index, 4), round(limit, 4), size >= limits.min_records and index > limit))
    return tuple(made)


def reference_confidence(reference: Mapping[str, Any]) -> float | None:
    """The reference's mean confidence, from its deciles: as if it were spread evenly between two of them."""
    deciles = reference.get("confidence")
    return float(np.mean((np.asarray(deciles[1:]) + np.asarray(deciles[:-1])) / 2)) if deciles else None


def alerts(found: Sequence[Drift], recent: Recent, expected: float | None, limits: Thresholds) -> tuple[Alert, ...]:
    """What to raise. ``expected``: the reference's mean confidence, where there is one."""
    made = [
        Alert(
            f"drift of {each.name}",
            each.psi,
            each.threshold,
            f"{each.name} in the window differ from the model's reference: population stability index "
            f"{each.psi:.2f}, threshold {each.threshold:.2f}; look at the photos and at what changed",
        )
        for each in found
        if each.alert and each.psi is not None
    ]
    drop = None if expected is None or recent.confidence_mean is None else expected - recent.confidence_mean
    span = f"of the last {limits.recent_s / 60:.0f} minutes"
    rules = [
        (
            "confidence",
            drop,
            limits.confidence_drop,
            recent.answers,
            f"the mean confidence {span} is {{:.3f}} below the reference's; look at the photos",
        ),
        (
            "mismatches",
            recent.mismatch_share,
            limits.mismatch_share,
            recent.verdicts,
            f"{{:.1%}} of the verdicts {span} are mismatches; check some of these bins by hand",
        ),
        (
            "errors",
            recent.error_share,
            limits.error_share,
            recent.requests,
            f"{{:.1%}} of the requests {span} got no answer; look at the capture's statuses and TorchServe's log",
        ),
        (
            "latency",
            recent.latency_p99_ms,
            limits.latency_p99_ms,
            recent.requests,
            f"the slowest hundredth of the answers {span} took {{:.0f}} ms or more; look at load and workers",
        ),
    ]
    made += [
        Alert(name, round(value, 4), limit, text.format(value))
        for name, value, limit, size, text in rules
        if value is not None and value > limit and size >= limits.min_records
    ]
    return tuple(made)


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (E. B. Wilson, 1927); it holds for few records and for shares near 0 and 1."""
    share, square = right / total, Z95**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def thresholds_from(environ: Mapping[str, str]) -> Thresholds:
    """The thresholds that BINWATCH_ALERT_<NAME> set. Raises SettingsError with all problems."""
    found: dict[str, Any] = {}
    problems = []
    for field in fields(Thresholds):
        name = f"BINWATCH_ALERT_{field.name.upper()}"
        text = environ.get(name)
        if not text:
            continue
        try:
            found[field.name] = (int if field.name == "min_records" else float)(text)
            if not 0 < found[field.name] < math.inf:
                raise ValueError
        except ValueError:
            problems.append(f"{name} is {text!r}; give a number above 0, such as {field.default}")
    if problems:
        raise SettingsError("; ".join(problems))
    return Thresholds(**found)


def webhook_from(environ: Mapping[str, str]) -> str:
    """The address that BINWATCH_ALERT_WEBHOOK names, empty for none. Raises SettingsError."""
    url = environ.get("BINWATCH_ALERT_WEBHOOK") or ""
    address = urlsplit(url)
    if url and (address.scheme not in ("http", "https") or not address.hostname):
        raise SettingsError(f"BINWATCH_ALERT_WEBHOOK is {url!r}; give an address that starts with http:// or https://")
    return url
