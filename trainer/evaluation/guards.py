"""The gate's guards: what must not get worse while accuracy gets better. Pure.

Two figures of a small test split always differ, so a guard trips only if the loss exceeds its limit and chance alone
would give such a loss in at most ``guard_level`` of the cases (``trainer/evaluation/paired.py``). A plain rule such as
"no count may lose 5 points" would refuse most equally good challengers where a count has 30 photos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from trainer.evaluation.class_results import ClassResult
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.paired import (
    Floats,
    Pairs,
    RecordPairs,
    calibration_gaps_by_bin,
    exact_p,
    have_same_records,
    permutation_p,
    squared_errors_by_bin,
)
from trainer.evaluation.policy import GatePolicy
from trainer.evaluation.record_alarms import RIGHT


class GuardVerdict(StrEnum):
    """The result of one guard; only TRIPPED refuses the challenger."""

    PASSED = "passed"
    TRIPPED = "tripped"
    SWITCHED_OFF = "off"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One guard. ``value``: how much worse the challenger is, in the unit of ``limit``; below 0 it is better.

    ``p_value``: how often chance alone gives such a loss, None where chance plays no part.
    """

    name: str
    verdict: GuardVerdict
    reason: str
    value: float | None = None
    limit: float | None = None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class GuardInputs:
    """What the guards look at. Without a champion, ``pairs`` is None and ``classes`` is empty."""

    challenger: Evaluated
    champion: Evaluated | None
    pairs: Pairs | None
    classes: Sequence[ClassResult]
    values: Sequence[int]


@dataclass(frozen=True)
class _Loss:
    value: float
    p_value: float | None
    text: str


_Measure = Callable[[GuardInputs, GatePolicy], _Loss | str]
"""Measures a loss, or says why it cannot be judged."""


def check(inputs: GuardInputs, policy: GatePolicy) -> tuple[Guard, ...]:
    """The verdict of every guard."""
    return tuple(
        _check(name, getattr(policy, limit), measure, inputs, policy) for name, (limit, measure) in _GUARDS.items()
    )


def _check(name: str, limit: float | None, measure: _Measure, inputs: GuardInputs, policy: GatePolicy) -> Guard:
    if limit is None:
        return Guard(name=name, verdict=GuardVerdict.SWITCHED_OFF, reason="switched off")
    loss = measure(inputs, policy)
    if isinstance(loss, str):
        return Guard(name=name, verdict=GuardVerdict.NOT_JUDGED, reason=loss, limit=limit)
    exceeded = loss.value > limit
    luck = loss.p_value is not None and loss.p_value > policy.guard_level
    return Guard(
        name=name,
        verdict=GuardVerdict.TRIPPED if exceeded and not luck else GuardVerdict.PASSED,
        reason=loss.text + (f", which may be luck (p = {loss.p_value:.3f})" if exceeded and luck else ""),
        value=loss.value,
        limit=limit,
        p_value=loss.p_value,
    )


def _class_loss(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    """The count that lost most; of several above the limit, the one with the smallest p-value.

    It is selected among C counts because it looks worst, so its p-value is multiplied by C (Bonferroni).
    """
    if not inputs.classes:
        return _NO_CHAMPION
    limit = policy.max_class_loss or 0.0

    def rank(result: ClassResult) -> tuple[bool, float]:
        within = result.guarded_loss <= limit
        return within, -result.guarded_loss if within else result.p_value

    worst = min(inputs.classes, key=rank)
    text = (
        f"count {worst.name} went from {worst.champion:.1%} to {worst.challenger:.1%} right on {worst.photos} "
        f"photos, and its F1 from {worst.champion_f1:.1%} to {worst.challenger_f1:.1%}; both may fall by "
        f"{_points(limit)}"
    )
    return _Loss(worst.guarded_loss, min(1.0, worst.p_value * len(inputs.classes)), text)


def _calibration(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    if inputs.pairs is None:
        return _NO_CHAMPION
    parts, photos = calibration_gaps_by_bin(inputs.pairs), len(inputs.pairs.bins)

    def error(sums: Floats) -> Floats:
        return np.asarray(np.abs(sums).sum(axis=-1) / photos)

    challenger, champion = error(parts.sum(axis=1))
    text = (
        f"confidence and accuracy are {_points(challenger)} apart, the champion's {_points(champion)}; at most "
        f"{_points(policy.max_calibration_rise)} more are allowed"
    )
    return _Loss(float(challenger - champion), permutation_p(parts, error), text)


def _rmse(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    if inputs.pairs is None:
        return _NO_CHAMPION
    parts, photos = squared_errors_by_bin(inputs.pairs), len(inputs.pairs.bins)

    def rmse(sums: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(sums[..., 0], 0) / photos))  # a difference of sums may round below 0

    challenger, champion = rmse(parts.sum(axis=1))
    text = f"{challenger:.3f} objects, the champion's {champion:.3f}; at most {policy.max_rmse_rise:g} more is allowed"
    return _Loss(float(challenger - champion), permutation_p(parts, rmse), text)


def _false_alarms(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    """By the photo alone, as all recorded quantities are judged."""
    if inputs.pairs is None:
        return _false_alarms_of_first(inputs, policy)
    if inputs.pairs.fit is None:
        return "one of the two gives no p-values, so it raises no alarm"
    return _against_champion(inputs.pairs.fit, inputs.pairs.bins, policy)


def _false_alarms_of_first(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    answers = inputs.challenger.predictions
    if not all(answer.fit for answer in answers):
        return "it gives no p-values, so it raises no alarm"
    return _against_alpha(
        [answer.fit[int(np.searchsorted(inputs.values, answer.recorded))] for answer in answers], policy
    )


def _false_alarms_with_products(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    """Of records with products; against ``alpha`` alone where the champion has not judged the same records."""
    fits = [fit for answer in inputs.challenger.predictions for fit in answer.record_fits.get(RIGHT, ())]
    if not fits or not inputs.challenger.evaluation.records:
        return _NO_RECORDS.format("challenger")
    pairs = _pair_records(inputs)
    if isinstance(pairs, str):
        return _against_alpha(fits, policy)
    right = pairs.kinds == RIGHT
    return _against_champion(pairs.fit[:, right], pairs.bins[right], policy)


def _caught_records(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    """The share of wrong records with products that raise the alarm; the mean over the kinds of error.

    One of the two may judge them by the photo and the quantity alone: it catches fewer, and that is what counts.
    """
    pairs = _pair_records(inputs)
    if isinstance(pairs, str):
        return pairs
    if not any(side and side.evaluation.records for side in (inputs.challenger, inputs.champion)):
        return "neither reads the products of records"
    kinds = sorted(set(pairs.kinds.tolist()) - {RIGHT})
    parts = pairs.alarms_by_bin(kinds, policy.alpha)
    records = np.array([(pairs.kinds == kind).sum() for kind in kinds])

    def missed(sums: Floats) -> Floats:
        return np.asarray(1 - (sums / records).mean(axis=-1))

    challenger, champion = (1 - missed(parts.sum(axis=1))).tolist()
    text = (
        f"{challenger:.1%} of wrong records with products raise the alarm, the champion's {champion:.1%}; that "
        f"may fall by {_points(policy.max_record_loss)}"
    )
    return _Loss(champion - challenger, permutation_p(parts, missed), text)


def _pair_records(inputs: GuardInputs) -> RecordPairs | str:
    """The records that both have judged; or why there are none."""
    challenger, champion = inputs.challenger, inputs.champion
    if champion is None:
        return _NO_CHAMPION
    for role, side in (("challenger", challenger), ("champion", champion)):
        if not any(answer.record_fits for answer in side.predictions):
            return _NO_RECORDS.format(role)
    if not have_same_records(challenger, champion):
        return "the two have not judged the same records"
    return RecordPairs.match(challenger.predictions, champion.predictions)


def _against_champion(fit: Floats, bins: NDArray[np.int64], policy: GatePolicy) -> _Loss:
    """False alarms against ``alpha`` or the champion's share, whichever is more.

    ``fit``: p-values of right records by challenger and champion, ``(2, N)``.
    """
    challenger, champion = fit <= policy.alpha
    champion_share = float(champion.mean())
    accepted = max(policy.alpha, champion_share)
    p_value = exact_p(challenger.astype(int) - champion, bins)
    return _alarm_loss(float(challenger.mean()), accepted, p_value, f", the champion's {champion_share:.1%}", policy)


def _against_alpha(fits: Sequence[float], policy: GatePolicy) -> _Loss:
    """False alarms against ``alpha`` alone, by an exact binomial test. ``fits``: p-values of right records."""
    alarms = sum(fit <= policy.alpha for fit in fits)
    p_value = float(bdtrc(alarms - 1, len(fits), policy.alpha))
    return _alarm_loss(alarms / len(fits), policy.alpha, p_value, "", policy)


def _alarm_loss(share: float, accepted: float, p_value: float, champion: str, policy: GatePolicy) -> _Loss:
    text = (
        f"{share:.1%} of right records raise the alarm{champion}; {accepted:.1%} are accepted, and "
        f"{_points(policy.max_false_alarm_rise)} more"
    )
    return _Loss(share - accepted, p_value, text)


def _latency(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    """A factor, without a p-value: the limit must allow for the noise of other work on the machine."""
    if inputs.champion is None:
        return _NO_CHAMPION
    challenger, champion = inputs.challenger.latency_ms, inputs.champion.latency_ms
    if challenger is None or not champion:
        return "the two were not timed in the same run"
    text = (
        f"{challenger:.1f} ms per photo, the champion's {champion:.1f}; at most {policy.max_latency_factor:g} times "
        "as long is allowed"
    )
    return _Loss(challenger / champion, None, text)


def _size(inputs: GuardInputs, policy: GatePolicy) -> _Loss | str:
    if inputs.challenger.archive_bytes is None:
        return "the archive's size is not known"
    megabytes = inputs.challenger.archive_bytes / 1e6
    return _Loss(megabytes, None, f"{megabytes:.1f} MB; at most {policy.max_archive_mb:g} MB are allowed")


def _points(share: float | None) -> str:
    return f"{100 * (share or 0.0):.1f} points"


_NO_CHAMPION = "there is no champion to compare with"
_NO_RECORDS = "the {} judges no records with products"
_GUARDS: dict[str, tuple[str, _Measure]] = {
    "class loss": ("max_class_loss", _class_loss),
    "calibration": ("max_calibration_rise", _calibration),
    "RMSE": ("max_rmse_rise", _rmse),
    "false alarms": ("max_false_alarm_rise", _false_alarms),
    "false alarms with products": ("max_false_alarm_rise", _false_alarms_with_products),
    "caught records": ("max_record_loss", _caught_records),
    "latency": ("max_latency_factor", _latency),
    "archive size": ("max_archive_mb", _size),
}
