"""The gate for a version that differs from the champion in its conformal scores alone. Pure.

It has the champion's network, so it counts as the champion does, and more accuracy cannot be demanded. It is approved
if nothing but scores differs, if held-out right records raise no more alarms than ``alpha`` allows, luck aside, and if
they raise no more than with the champion's scores.
"""

from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.gate import Decision
from trainer.evaluation.guards import Guard, GuardVerdict
from trainer.evaluation.policy import GatePolicy
from trainer.evaluation.recalibration import CountScores, FalseAlarms, Recalibration

MIN_HELD_OUT = 20
"""With fewer held-out right records, nothing is said about their alarms."""


def decide_recalibration(recalibration: Recalibration, champion: Evaluated | None, policy: GatePolicy) -> Decision:
    """Whether to promote the recalibrated version. ``champion``: its evaluation, None where it is not known."""
    guards = (
        _same_network(recalibration),
        _false_alarms("false alarms", recalibration.alarms, recalibration.photo, policy),
        _false_alarms("false alarms with products", recalibration.product_alarms, recalibration.products, policy),
    )
    tripped = tuple(f"{guard.name}: {guard.reason}" for guard in guards if guard.verdict == GuardVerdict.TRIPPED)
    passed = any(guard.verdict == GuardVerdict.PASSED for guard in guards[1:])
    accuracy = champion.evaluation.accuracy if champion else 0.0
    alarms = recalibration.alarms or recalibration.product_alarms
    return Decision(
        promote=passed and not tripped,
        reasons=(
            _summary(recalibration),
            *(tripped or tuple(guard.reason for guard in guards[1:] if guard.value is not None)),
        ),
        challenger_accuracy=accuracy,
        champion_accuracy=accuracy,
        photos=champion.evaluation.photos if champion else 0,
        bins=len({answer.bin for answer in champion.predictions}) if champion else 0,
        first=False,
        policy=policy,
        p_value=alarms.p_value if alarms else None,
        guards=guards,
        recalibration=recalibration,
    )


def _summary(recalibration: Recalibration) -> str:
    kinds = [("by the photo", recalibration.photo)]
    if recalibration.products:
        kinds.append(("with products", recalibration.products))
    parts = [f"{sum(count.replaced for count in counts)} of {len(counts)} counts {kind}" for kind, counts in kinds]
    return (
        f"version {recalibration.version} with scores from {recalibration.recounts} recounts for {' and '.join(parts)}"
    )


def _same_network(recalibration: Recalibration) -> Guard:
    differences = recalibration.differences
    if differences:
        listed = ", ".join(differences[:5])
        return Guard(name="same network", verdict=GuardVerdict.TRIPPED, reason=f"more than scores differs: {listed}")
    reason = "its files and everything but the scores are the champion's, bit by bit"
    return Guard(name="same network", verdict=GuardVerdict.PASSED, reason=reason)


def _false_alarms(name: str, alarms: FalseAlarms | None, counts: tuple[CountScores, ...], policy: GatePolicy) -> Guard:
    """Trips where the new scores break the promise by more than luck, or raise more alarms than the old ones."""
    if alarms is None:
        reason = "no count has enough recounts" if counts else "the champion judges no records with products"
        return Guard(name=name, verdict=GuardVerdict.NOT_JUDGED, reason=reason)
    if alarms.records < MIN_HELD_OUT:
        reason = f"{alarms.records} held-out right records are too few, it takes {MIN_HELD_OUT}"
        return Guard(name=name, verdict=GuardVerdict.TRIPPED, reason=reason)
    text = (
        f"{alarms.new_share:.1%} of {alarms.records} held-out right records raise the alarm, with the scores before "
        f"{alarms.old_share:.1%}; {policy.alpha:.1%} are promised (p = {alarms.p_value:.2g})"
    )
    broken = alarms.p_value <= policy.guard_level
    more = alarms.new > alarms.old
    return Guard(
        name=name,
        verdict=GuardVerdict.TRIPPED if broken or more else GuardVerdict.PASSED,
        reason=text + (", which are more than before" if more else ""),
        value=alarms.new_share - policy.alpha,
        p_value=alarms.p_value,
    )
