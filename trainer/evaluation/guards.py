"""The gate's guards: what must not get worse while accuracy gets better. Pure.

Two figures of a small test split always differ, so a guard trips only where both hold: the loss is larger than its
limit, and luck alone would give such a loss in at most ``guard_level`` of the cases (``trainer/paired.py``). A plain
"no count may lose 5 points" would refuse most of all equally good challengers where a count has 30 photos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.paired import Floats, Pairs, exact_p, exchange_p, gaps, squares
from trainer.evaluation.policy import GatePolicy

PASSED, TRIPPED, SWITCHED_OFF, NOT_JUDGED = "passed", "tripped", "off", "not judged"


@dataclass(frozen=True)
class Guard:
    """One guard. ``value``: how much worse the challenger is, in the unit of ``limit``; below 0 it is better.

    ``p_value``: how often luck alone gives such a loss, None where no luck is in it.
    """

    name: str
    verdict: str
    reason: str
    value: float | None = None
    limit: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class OfClass:
    """One count: its test photos, the accuracies on them and the F1 scores (0-1).

    ``p_value``: how often luck alone gives such a loss of accuracy of this count.
    """

    name: str
    photos: int
    challenger: float
    champion: float
    challenger_f1: float
    champion_f1: float
    p_value: float

    @property
    def loss(self) -> float:
        """Accuracy that the challenger has lost, -1 to 1."""
        return self.champion - self.challenger

    @property
    def lost(self) -> float:
        """The loss of accuracy or of F1, whichever is less.

        A model that answers 3 whatever it sees is always right on 3; who learns to tell 3 from 4 loses accuracy there
        and gains F1.
        """
        return min(self.loss, self.champion_f1 - self.challenger_f1)


@dataclass(frozen=True)
class Sides:
    """What is compared. ``pairs`` and ``classes`` are of both; without a champion there are none."""

    challenger: Evaluated
    champion: Evaluated | None
    pairs: Pairs | None
    classes: Sequence[OfClass]
    values: Sequence[int]


@dataclass(frozen=True)
class _Loss:
    value: float
    p_value: float | None
    text: str


def by_class(pairs: Pairs, names: Sequence[str], values: Sequence[int]) -> tuple[OfClass, ...]:
    """The counts that have test photos."""
    found = []
    for name, value in zip(names, values, strict=True):
        its = pairs.recorded == value
        if its.any():
            hits, named = pairs.right[:, its].sum(axis=1), (pairs.said == value).sum(axis=1)
            lost = pairs.right[1, its].astype(int) - pairs.right[0, its]
            (ours, theirs), (our_f1, their_f1) = hits / its.sum(), 2 * hits / (named + its.sum())
            found.append(
                OfClass(
                    name,
                    int(its.sum()),
                    float(ours),
                    float(theirs),
                    float(our_f1),
                    float(their_f1),
                    exact_p(lost, pairs.bins[its]),
                )
            )
    return tuple(found)


def check(sides: Sides, policy: GatePolicy) -> tuple[Guard, ...]:
    """The verdict of every guard."""
    return tuple(
        _verdict(name, getattr(policy, limit), measure, sides, policy) for name, (limit, measure) in _GUARDS.items()
    )


def _verdict(
    name: str,
    limit: float | None,
    measure: Callable[[Sides, GatePolicy], "_Loss | str"],
    sides: Sides,
    policy: GatePolicy,
) -> Guard:
    if limit is None:
        return Guard(name, SWITCHED_OFF, "switched off")
    loss = measure(sides, policy)
    if isinstance(loss, str):
        return Guard(name, NOT_JUDGED, loss, limit=limit)
    too_much, p_value = loss.value > limit, loss.p_value
    luck = p_value is not None and p_value > policy.guard_level
    text = loss.text + (f", which may be luck (p = {p_value:.3f})" if too_much and luck else "")
    verdict = TRIPPED if too_much and not luck else PASSED
    return Guard(name, verdict, text, loss.value, limit, p_value)


def _class_loss(sides: Sides, policy: GatePolicy) -> _Loss | str:
    """The count that lost most; of several above the limit, the one that luck explains least.

    One of C counts is looked at because it looks worst, so its p-value is multiplied by C (Bonferroni).
    """
    if not sides.classes:
        return _NOBODY
    limit = policy.max_class_loss or 0.0
    worst = min(sides.classes, key=lambda each: (each.lost <= limit, each.p_value if each.lost > limit else -each.lost))
    text = (
        f"count {worst.name} went from {worst.champion:.1%} to {worst.challenger:.1%} right on {worst.photos} "
        f"photos, and its F1 from {worst.champion_f1:.1%} to {worst.challenger_f1:.1%}; both may fall by "
        f"{_points(limit)}"
    )
    return _Loss(worst.lost, min(1.0, worst.p_value * len(sides.classes)), text)


def _calibration(sides: Sides, policy: GatePolicy) -> _Loss | str:
    if sides.pairs is None:
        return _NOBODY
    parts, photos = gaps(sides.pairs), len(sides.pairs.bins)

    def error(sums: Floats) -> Floats:
        return np.asarray(np.abs(sums).sum(axis=-1) / photos)

    ours, theirs = error(parts.sum(axis=1))
    text = (
        f"confidence and accuracy are {_points(ours)} apart, the champion's {_points(theirs)}; it may be "
        f"{_points(policy.max_calibration_rise)} more"
    )
    return _Loss(float(ours - theirs), exchange_p(parts, error), text)


def _rmse(sides: Sides, policy: GatePolicy) -> _Loss | str:
    if sides.pairs is None:
        return _NOBODY
    parts, photos = squares(sides.pairs), len(sides.pairs.bins)

    def rmse(sums: Floats) -> Floats:
        return np.asarray(np.sqrt(np.maximum(sums[..., 0], 0) / photos))  # a difference of sums may round below 0

    ours, theirs = rmse(parts.sum(axis=1))
    text = f"{ours:.3f} objects, the champion's {theirs:.3f}; it may be {policy.max_rmse_rise:g} more"
    return _Loss(float(ours - theirs), exchange_p(parts, rmse), text)


def _false_alarms(sides: Sides, policy: GatePolicy) -> _Loss | str:
    """Above what was promised, or above what the champion does, whichever is more."""
    if sides.pairs is None:
        return _first_s_false_alarms(sides, policy)
    if sides.pairs.fit is None:
        return "one of the two gives no p-values, so that it raises no alarm"
    ours, theirs = alarms = sides.pairs.fit <= policy.alpha
    accepted = max(policy.alpha, float(theirs.mean()))
    p_value = exact_p(ours.astype(int) - theirs, sides.pairs.bins)
    return _alarm_loss(float(ours.mean()), accepted, p_value, f", the champion's {alarms[1].mean():.1%}", policy)


def _first_s_false_alarms(sides: Sides, policy: GatePolicy) -> _Loss | str:
    """Against the promise alone: an exact binomial test."""
    answers = sides.challenger.predictions
    if not all(each.fit for each in answers):
        return "it gives no p-values, so that it raises no alarm"
    own = [each.fit[int(np.searchsorted(sides.values, each.recorded))] for each in answers]
    alarms = sum(fit <= policy.alpha for fit in own)
    p_value = float(binom.sf(alarms - 1, len(own), policy.alpha))
    return _alarm_loss(alarms / len(own), policy.alpha, p_value, "", policy)


def _alarm_loss(share: float, accepted: float, p_value: float, champion: str, policy: GatePolicy) -> _Loss:
    text = (
        f"{share:.1%} of right records raise the alarm{champion}; {accepted:.1%} are accepted, and "
        f"{_points(policy.max_false_alarm_rise)} more"
    )
    return _Loss(share - accepted, p_value, text)


def _latency(sides: Sides, policy: GatePolicy) -> _Loss | str:
    """A factor. It has no p-value: what noise it has, from the machine's other work, the limit has to allow for."""
    if sides.champion is None:
        return _NOBODY
    ours, theirs = sides.challenger.latency_ms, sides.champion.latency_ms
    if ours is None or not theirs:
        return "the two were not timed in the same run"
    text = (
        f"{ours:.1f} ms a photo, the champion's {theirs:.1f}; it may take {policy.max_latency_factor:g} times as long"
    )
    return _Loss(ours / theirs, None, text)


def _size(sides: Sides, policy: GatePolicy) -> _Loss | str:
    if sides.challenger.archive_bytes is None:
        return "the archive's size is not known"
    megabytes = sides.challenger.archive_bytes / 1e6
    return _Loss(megabytes, None, f"{megabytes:.1f} MB; it may have {policy.max_archive_mb:g}")


def _points(share: float | None) -> str:
    return f"{100 * (share or 0.0):.1f} points"


_NOBODY = "there is no champion to compare with"
_GUARDS: dict[str, tuple[str, Callable[[Sides, GatePolicy], _Loss | str]]] = {
    "class loss": ("max_class_loss", _class_loss),
    "calibration": ("max_calibration_rise", _calibration),
    "RMSE": ("max_rmse_rise", _rmse),
    "false alarms": ("max_false_alarm_rise", _false_alarms),
    "latency": ("max_latency_factor", _latency),
    "archive size": ("max_archive_mb", _size),
}
