"""The gate: is the challenger better than the champion, and is that more than luck? Pure: values in, a Decision out.

Both are judged on the same test photos. ``significant`` asks for a greater accuracy that chance alone would give at
most ``level`` of the time, by McNemar's exact one-sided test over bins (``trainer/paired.py``), and that is at least
``min_effect``; ``greater``, as the report does, only for a greater accuracy. Guards can refuse what is better
(``trainer/guards.py``). A first challenger is compared with 0.1, which stands for no champion.

    python scripts/promote.py --explain [VERSION]       tells a decision in plain words
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from serve.errors import DataError
from trainer.evaluation import guards
from trainer.evaluation.evaluate import Evaluated, Prediction
from trainer.evaluation.guards import Guard, OfClass, Sides
from trainer.evaluation.paired import Pairs, exact_p
from trainer.evaluation.policy import DEFAULT, SIGNIFICANT, UNDEPLOYED_ACCURACY, GatePolicy, from_dict
from trainer.evaluation.statistics import bootstrap_interval, rmse_difference_interval


@dataclass(frozen=True)
class Estimate:
    """A difference, challenger minus champion, with its 95 % interval: paired bootstrap over bins."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Votes:
    """How many photos both count right, one alone, and neither; and bins in which one has more right than the other.

    What tells the two apart are the discordant ones, ``challenger_alone`` and ``champion_alone``.
    """

    both: int
    challenger_alone: int
    champion_alone: int
    neither: int
    challenger_bins: int
    champion_bins: int


@dataclass(frozen=True)
class Verdict:
    """What the rule for accuracy says, guards aside; ``p_value``: how often luck alone gives such a lead."""

    better: bool
    reason: str
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion, photo by photo.

    ``photo_p_value``: the p-value if photos of one bin were independent, which is McNemar's test as books have it.
    """

    accuracy: Estimate
    rmse: Estimate
    votes: Votes
    photo_p_value: float
    classes: tuple[OfClass, ...]


@dataclass(frozen=True)
class Decision:
    """Whether to promote, why, and every number that it rests on; accuracies 0-1.

    ``comparison``: None without a champion, or where the two have no common ground; ``p_value``: None there too.
    """

    promote: bool
    reasons: tuple[str, ...]
    challenger_accuracy: float
    champion_accuracy: float
    photos: int
    bins: int
    first: bool
    policy: GatePolicy
    p_value: float | None = None
    comparison: Comparison | None = None
    guards: tuple[Guard, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For MLflow and ``--json``."""
        return asdict(self)

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        found: dict[str, float | None] = {
            "challenger_accuracy": self.challenger_accuracy,
            "champion_accuracy": self.champion_accuracy,
            "p_value": self.p_value,
            "promote": float(self.promote),
            **{f"guard_{each.name.replace(' ', '_')}": each.value for each in self.guards},
        }
        if self.comparison:
            for name, each in (("accuracy", self.comparison.accuracy), ("rmse", self.comparison.rmse)):
                found[f"{name}_difference"] = each.value
                found[f"{name}_difference_low"], found[f"{name}_difference_high"] = each.low, each.high
        return {name: value for name, value in found.items() if value is not None}


def from_json(found: Mapping[str, Any]) -> Decision:
    """Read a Decision back from what ``decision.json`` holds. Raises DataError."""
    try:
        compared = found["comparison"] and _comparison(found["comparison"])
        checked = tuple(Guard(**each) for each in found["guards"])
        read = {"policy": from_dict(found["policy"]), "reasons": tuple(found["reasons"])}
        return Decision(**{**found, **read, "comparison": compared, "guards": checked})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"this is not a decision.json of this version of binwatch: {error!r}") from error


def _comparison(found: Mapping[str, Any]) -> Comparison:
    return Comparison(
        Estimate(**found["accuracy"]),
        Estimate(**found["rmse"]),
        Votes(**found["votes"]),
        found["photo_p_value"],
        tuple(OfClass(**each) for each in found["classes"]),
    )


def decide(challenger: Evaluated, champion: Evaluated | None, policy: GatePolicy = DEFAULT) -> Decision:
    """Whether to promote the challenger. Answers to different photos, or of other counts, are never compared."""
    about, predictions = challenger.evaluation, challenger.predictions
    deployed = champion.evaluation.accuracy if champion else UNDEPLOYED_ACCURACY
    bins = len({each.bin for each in predictions})
    facts = (about.accuracy, deployed, about.photos, bins, champion is None, policy)
    problem = _unusable(challenger, "challenger") or (champion and _incomparable(challenger, champion))
    if problem:
        return Decision(False, (problem,), *facts)
    values = [int(name.rstrip("+")) for name in about.classes]
    if champion:
        pairs = Pairs.of(predictions, champion.predictions, values)
        compared = _compare(pairs, about.classes, values)
        verdict, sides = (
            judge(pairs.right, pairs.bins, policy),
            Sides(challenger, champion, pairs, compared.classes, values),
        )
    else:
        compared, sides = None, Sides(challenger, None, None, (), values)
        verdict = judge_first([each.count == each.recorded for each in predictions], policy)
    checked = guards.check(sides, policy)
    tripped = tuple(f"{each.name}: {each.reason}" for each in checked if each.verdict == guards.TRIPPED)
    promote, reasons = verdict.better and not tripped, (verdict.reason, *tripped)
    return Decision(promote, reasons, *facts, verdict.p_value, compared, checked)


def judge(right: NDArray[np.bool_], bins: NDArray[np.int64], policy: GatePolicy) -> Verdict:
    """The rule for accuracy. ``right``: of challenger and champion, ``(2, N)``; ``bins``: of each photo, from 0."""
    gain = right[0].astype(int) - right[1]
    p_value, effect = exact_p(gain, bins), gain.sum() / len(gain)
    ours, theirs = right.mean(axis=1)
    head = f"the challenger's accuracy {ours:.1%} on {len(gain)} test photos is"
    if effect <= 0:
        return Verdict(False, f"{head} not greater than the champion's {theirs:.1%}", p_value)
    if policy.rule != SIGNIFICANT:
        return Verdict(True, f"{head} greater than the champion's {theirs:.1%}", p_value)
    return _significant(f"{head} greater than the champion's {theirs:.1%}", float(effect), p_value, policy)


def judge_first(right: Sequence[bool], policy: GatePolicy) -> Verdict:
    """A first challenger against 0.1: the exact binomial test. Photos of one bin count as independent here."""
    accuracy, photos = sum(right) / len(right), len(right)
    p_value = float(binom.sf(sum(right) - 1, photos, UNDEPLOYED_ACCURACY))
    against = f"{UNDEPLOYED_ACCURACY:.0%}, which stands for no champion"
    head = f"the challenger's accuracy {accuracy:.1%} on {photos} test photos is"
    if accuracy <= UNDEPLOYED_ACCURACY:
        return Verdict(False, f"{head} not greater than {against}", p_value)
    if policy.rule != SIGNIFICANT:
        return Verdict(True, f"{head} greater than {against}", p_value)
    return _significant(f"{head} greater than {against}", accuracy - UNDEPLOYED_ACCURACY, p_value, policy)


def _significant(greater: str, effect: float, p_value: float, policy: GatePolicy) -> Verdict:
    if p_value > policy.level:
        return Verdict(False, f"{greater}, but that may be luck ({_p(p_value)}, above {policy.level:g})", p_value)
    if effect < policy.min_effect:
        small = f"by {100 * effect:.2f} points, of {100 * policy.min_effect:g} that are asked for"
        return Verdict(False, f"{greater}, but only {small} ({_p(p_value)})", p_value)
    return Verdict(True, f"{greater}, and that is more than luck ({_p(p_value)})", p_value)


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _compare(pairs: Pairs, names: Sequence[str], values: Sequence[int]) -> Comparison:
    ours, theirs = pairs.right
    gain, squared = ours.astype(int) - theirs, np.square(pairs.off)
    bins = np.bincount(pairs.bins, weights=gain)
    rmse = np.sqrt(squared.mean(axis=1))
    votes = (ours & theirs, ours & ~theirs, theirs & ~ours, ~ours & ~theirs, bins > 0, bins < 0)
    return Comparison(
        accuracy=Estimate(float(gain.mean()), *bootstrap_interval(gain, pairs.bins, 0)),
        rmse=Estimate(float(rmse[0] - rmse[1]), *rmse_difference_interval(squared, pairs.bins, 0)),
        votes=Votes(*(int(each.sum()) for each in votes)),
        photo_p_value=exact_p(gain, np.arange(len(gain))),
        classes=guards.by_class(pairs, names, values),
    )


def _unusable(side: Evaluated, name: str) -> str | None:
    """Why the answers of one side cannot be judged."""
    answers, about = side.predictions, side.evaluation
    repeated = [photo for photo, times in Counter(each.id for each in answers).items() if times > 1]
    if repeated:
        return f"the {name}'s answers hold photo {repeated[0]} more than once; evaluate it again"
    right = sum(each.count == each.recorded for each in answers)
    if not answers or len(answers) != about.photos or abs(right / len(answers) - about.accuracy) > 1e-6:
        return (
            f"the {name}'s answers, {right} of {len(answers)} right, do not belong to its evaluation, "
            f"{about.accuracy:.1%} of {about.photos} photos; evaluate it again"
        )
    return None


def _incomparable(challenger: Evaluated, champion: Evaluated) -> str | None:
    ours, theirs = challenger.evaluation, champion.evaluation
    if ours.fingerprint != theirs.fingerprint:
        return (
            f"challenger and champion were evaluated on different photos ({ours.fingerprint[:12]} and "
            f"{theirs.fingerprint[:12]}); run the pipeline, which evaluates both on the same ones"
        )
    if ours.classes != theirs.classes:
        return f"the challenger tells {ours.classes} apart, the champion {theirs.classes}"
    return _unusable(champion, "champion") or _differing(challenger.predictions, champion.predictions)


def _differing(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> str | None:
    recorded, other = ({each.id: each.recorded for each in side} for side in (ours, theirs))
    lonely = sorted(recorded.keys() ^ other.keys())
    if lonely:
        return (
            f"only one of challenger and champion was asked about {len(lonely)} of the test photos, such as "
            f"{lonely[0]}; run the pipeline, which evaluates both on the same ones"
        )
    changed = [photo for photo, count in recorded.items() if other[photo] != count]
    if changed:
        return (
            f"the recorded counts of {len(changed)} test photos have changed between the two evaluations, such as "
            f"{changed[0]} from {other[changed[0]]} to {recorded[changed[0]]}; run the pipeline"
        )
    return None
