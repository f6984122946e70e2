"""The gate: is the challenger better than the champion, and by more than luck? Pure: values in, a Decision out.

Both are compared on the same test photos. The rule ``significant`` demands a higher accuracy that chance alone would
give at most ``level`` of the time, by McNemar's exact one-sided test over bins (``trainer/evaluation/paired.py``), and
a gain of at least ``min_effect``. The rule ``greater`` is that of the report (docs/background.md): any higher accuracy.
Guards can refuse a challenger that is better (``trainer/evaluation/guards.py``). A first challenger is compared with an
accuracy of 0.1, which stands for no champion.

    python scripts/promote.py --explain [VERSION]       explains a decision in plain words
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.special import bdtrc

from trainer.evaluation import guards
from trainer.evaluation.class_results import ClassResult, compare_classes
from trainer.evaluation.evaluate import Evaluated, Prediction, parse_json
from trainer.evaluation.guards import Guard, GuardInputs, GuardVerdict
from trainer.evaluation.paired import Pairs, exact_p
from trainer.evaluation.policy import DEFAULT, SIGNIFICANT, UNDEPLOYED_ACCURACY, GatePolicy
from trainer.evaluation.recalibration import Recalibration
from trainer.evaluation.statistics import bootstrap_interval, rmse_difference_interval


@dataclass(frozen=True)
class Estimate:
    """A difference, challenger minus champion, with its 95 % interval: paired bootstrap over bins."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Votes:
    """How many photos both models count right, one alone, and neither; and how many bins each of them wins.

    Only the discordant photos, ``challenger_alone`` and ``champion_alone``, tell the two models apart.
    """

    both: int
    challenger_alone: int
    champion_alone: int
    neither: int
    challenger_bins: int
    champion_bins: int


@dataclass(frozen=True)
class RuleResult:
    """Whether the rule for accuracy holds, guards aside; ``p_value``: how often chance alone gives such a lead."""

    better: bool
    reason: str
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Challenger and champion, photo by photo.

    ``photo_p_value``: the p-value if photos of one bin were independent: McNemar's test as in textbooks.
    """

    accuracy: Estimate
    rmse: Estimate
    votes: Votes
    photo_p_value: float
    classes: tuple[ClassResult, ...]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to promote, why, and every number that it rests on; accuracies 0-1.

    ``comparison``: None without a champion, or where the two cannot be compared; ``p_value``: None where they cannot be
    compared; ``recalibration``: of a version that differs from the champion in its scores alone, whose ``p_value`` is
    that of its false alarms (``trainer/evaluation/recalibration_gate.py``).
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
    recalibration: Recalibration | None = None

    def to_json(self) -> dict[str, object]:
        """The content of ``decision.json``."""
        return {**asdict(self), "policy": self.policy.model_dump()}

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        values: dict[str, float | None] = {
            "challenger_accuracy": self.challenger_accuracy,
            "champion_accuracy": self.champion_accuracy,
            "p_value": self.p_value,
            "promote": float(self.promote),
            **{f"guard_{guard.name.replace(' ', '_')}": guard.value for guard in self.guards},
        }
        if self.comparison:
            for name, estimate in (("accuracy", self.comparison.accuracy), ("rmse", self.comparison.rmse)):
                values[f"{name}_difference"] = estimate.value
                values[f"{name}_difference_low"] = estimate.low
                values[f"{name}_difference_high"] = estimate.high
        return {name: value for name, value in values.items() if value is not None}


_DECISION = TypeAdapter(Decision)


def decision_from_json(text: str) -> Decision:
    """Read the text of ``decision.json``. Raises DataError."""
    return parse_json(_DECISION, text, "a decision.json of this version")


def decide(challenger: Evaluated, champion: Evaluated | None, policy: GatePolicy = DEFAULT) -> Decision:
    """Whether to promote the challenger.

    Models that answered different photos, or know different counts, are never compared: the challenger is refused.
    """
    evaluation, predictions = challenger.evaluation, challenger.predictions
    problem = _unusable(challenger, "challenger") or (champion and _incomparable(challenger, champion))
    refusal = Decision(
        promote=False,
        reasons=(problem,) if problem else (),
        challenger_accuracy=evaluation.accuracy,
        champion_accuracy=champion.evaluation.accuracy if champion else UNDEPLOYED_ACCURACY,
        photos=evaluation.photos,
        bins=len({answer.bin for answer in predictions}),
        first=champion is None,
        policy=policy,
    )
    if problem:
        return refusal
    values = [int(name.rstrip("+")) for name in evaluation.classes]
    pairs = Pairs.match(predictions, champion.predictions, values) if champion else None
    comparison = _compare(pairs, evaluation.classes, values) if pairs else None
    if pairs:
        result = apply_rule(pairs.right, pairs.bins, policy)
    else:
        result = apply_rule_to_first([answer.count == answer.recorded for answer in predictions], policy)
    classes = comparison.classes if comparison else ()
    inputs = GuardInputs(challenger=challenger, champion=champion, pairs=pairs, classes=classes, values=values)
    checks = guards.check(inputs, policy)
    tripped = tuple(f"{guard.name}: {guard.reason}" for guard in checks if guard.verdict == GuardVerdict.TRIPPED)
    return replace(
        refusal,
        promote=result.better and not tripped,
        reasons=(result.reason, *tripped),
        p_value=result.p_value,
        comparison=comparison,
        guards=checks,
    )


def apply_rule(right: NDArray[np.bool_], bins: NDArray[np.int64], policy: GatePolicy) -> RuleResult:
    """The rule for accuracy. ``right``: of challenger and champion, ``(2, N)``; ``bins``: of each photo, from 0."""
    gain = right[0].astype(int) - right[1]
    p_value, effect = exact_p(gain, bins), gain.sum() / len(gain)
    challenger, champion = right.mean(axis=1)
    return _result(f"{challenger:.1%} on {len(gain)}", f"the champion's {champion:.1%}", float(effect), p_value, policy)


def apply_rule_to_first(right: Sequence[bool], policy: GatePolicy) -> RuleResult:
    """The rule for a first challenger, against 0.1: the exact binomial test, with photos as if independent."""
    accuracy, photos = sum(right) / len(right), len(right)
    p_value = float(bdtrc(sum(right) - 1, photos, UNDEPLOYED_ACCURACY))
    against = f"{UNDEPLOYED_ACCURACY:.0%}, which stands for no champion"
    return _result(f"{accuracy:.1%} on {photos}", against, accuracy - UNDEPLOYED_ACCURACY, p_value, policy)


def _result(accuracy: str, against: str, effect: float, p_value: float, policy: GatePolicy) -> RuleResult:
    head = f"the challenger's accuracy {accuracy} test photos is"
    greater = f"{head} greater than {against}"
    if effect <= 0:
        return RuleResult(False, f"{head} not greater than {against}", p_value)
    if policy.rule != SIGNIFICANT:
        return RuleResult(True, greater, p_value)
    if p_value > policy.level:
        return RuleResult(False, f"{greater}, but that may be luck ({_p(p_value)}, above {policy.level:g})", p_value)
    if effect < policy.min_effect:
        small = f"by {100 * effect:.2f} points, of {100 * policy.min_effect:g} that are required"
        return RuleResult(False, f"{greater}, but only {small} ({_p(p_value)})", p_value)
    return RuleResult(True, f"{greater}, and that is more than luck ({_p(p_value)})", p_value)


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _compare(pairs: Pairs, names: Sequence[str], values: Sequence[int]) -> Comparison:
    challenger, champion = pairs.right
    gain, squared_errors = challenger.astype(int) - champion, np.square(pairs.errors)
    bins = np.bincount(pairs.bins, weights=gain)
    rmse = np.sqrt(squared_errors.mean(axis=1))
    return Comparison(
        accuracy=Estimate(float(gain.mean()), *bootstrap_interval(gain, pairs.bins, 0)),
        rmse=Estimate(float(rmse[0] - rmse[1]), *rmse_difference_interval(squared_errors, pairs.bins, 0)),
        votes=Votes(
            both=int((challenger & champion).sum()),
            challenger_alone=int((challenger & ~champion).sum()),
            champion_alone=int((champion & ~challenger).sum()),
            neither=int((~challenger & ~champion).sum()),
            challenger_bins=int((bins > 0).sum()),
            champion_bins=int((bins < 0).sum()),
        ),
        photo_p_value=exact_p(gain, np.arange(len(gain))),
        classes=compare_classes(pairs, names, values),
    )


def _unusable(evaluated: Evaluated, role: str) -> str | None:
    """Why the answers cannot be those that the evaluation was computed from; None where they can."""
    answers, evaluation = evaluated.predictions, evaluated.evaluation
    repeated = [photo for photo, times in Counter(answer.id for answer in answers).items() if times > 1]
    if repeated:
        return f"the {role}'s answers contain photo {repeated[0]} more than once; evaluate it again"
    right = sum(answer.count == answer.recorded for answer in answers)
    if not answers or len(answers) != evaluation.photos or abs(right / len(answers) - evaluation.accuracy) > 1e-6:
        return (
            f"the {role}'s answers, {right} of {len(answers)} right, do not belong to its evaluation, "
            f"{evaluation.accuracy:.1%} of {evaluation.photos} photos; evaluate it again"
        )
    return None


def _incomparable(challenger: Evaluated, champion: Evaluated) -> str | None:
    """Why the two cannot be compared; None where they can."""
    first, second = challenger.evaluation, champion.evaluation
    if first.fingerprint != second.fingerprint:
        return (
            f"challenger and champion were evaluated on different photos ({first.fingerprint[:12]} and "
            f"{second.fingerprint[:12]}); run the pipeline, which evaluates both on the same ones"
        )
    if first.classes != second.classes:
        return f"the challenger knows the counts {first.classes}, the champion {second.classes}"
    return _unusable(champion, "champion") or _different_photos(challenger.predictions, champion.predictions)


def _different_photos(challenger: Sequence[Prediction], champion: Sequence[Prediction]) -> str | None:
    recorded, recorded_before = (
        {answer.id: answer.recorded for answer in answers} for answers in (challenger, champion)
    )
    unpaired = sorted(recorded.keys() ^ recorded_before.keys())
    if unpaired:
        return (
            f"only one of challenger and champion was evaluated on {len(unpaired)} of the test photos, such as "
            f"{unpaired[0]}; run the pipeline, which evaluates both on the same ones"
        )
    changed = [photo for photo, count in recorded.items() if recorded_before[photo] != count]
    if changed:
        return (
            f"the recorded counts of {len(changed)} test photos have changed between the two evaluations, such as "
            f"{changed[0]} from {recorded_before[changed[0]]} to {recorded[changed[0]]}; run the pipeline"
        )
    return None
