"""A decision of the gate in plain words, for an engineer who does not know McNemar's test. Pure."""

from collections.abc import Iterator
from textwrap import fill

import numpy as np
from scipy.special import ndtri

from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.gate import Comparison, Decision
from trainer.evaluation.guards import GuardVerdict
from trainer.evaluation.policy import SIGNIFICANT, UNDEPLOYED_ACCURACY
from trainer.evaluation.recalibration import Recalibration

WIDTH = 100
POWER = 0.8
"""The probability with which the recommended number of test photos shows the gain."""


def explain(decision: Decision, challenger: str, champion: str, status: str = "", reason: str = "") -> str:
    """The decision on version ``challenger`` against version ``champion``, "" for none, and its reasons.

    ``status`` and ``reason``: of the version now, as the registry has them.
    """
    verb = "approved" if decision.promote else "refused"
    parts = [f"The gate {verb} version {challenger} (policy: {decision.policy.rule}).", *_body(decision, champion)]
    if status and (decision.promote or status not in ("refused", "approved")):
        parts.append(f"Since then: {status}. {reason}" if status != "approved" else "It waits for the promoter.")
    return "\n\n".join(
        "\n".join(fill(line, WIDTH, subsequent_indent=_indent(line)) for line in part.splitlines()) for part in parts
    )


def _indent(line: str) -> str:
    """A wrapped line continues below the start of the last column."""
    return " " * (line.rfind("  ") + 2) if line.startswith("  ") else ""


def _body(decision: Decision, champion: str) -> Iterator[str]:
    if decision.recalibration is not None:
        yield from _recalibration(decision, decision.recalibration)
        return
    if decision.p_value is None:
        yield "The two could not be compared: " + "; ".join(decision.reasons) + "."
        return
    if decision.comparison is None:
        yield _first_challenger(decision, decision.p_value)
    else:
        yield _discordant_photos(decision, decision.comparison, champion)
        yield _luck(decision, decision.comparison, decision.p_value)
        yield _gain(decision, decision.comparison)
    yield "Guards, which refuse a challenger that is more accurate but worse elsewhere:\n" + _guards(decision)
    yield "So: " + "; ".join(decision.reasons) + "."
    if not decision.promote and (advice := list(_advice(decision, decision.p_value))):
        yield "What to do:\n  " + "\n  ".join(advice)


def _guards(decision: Decision) -> str:
    """The guards, a line each."""
    width = max((len(guard.name) for guard in decision.guards), default=0)
    return "\n".join(f"  {guard.verdict:<10}  {guard.name:<{width}}  {guard.reason}" for guard in decision.guards)


def _recalibration(decision: Decision, recalibration: Recalibration) -> Iterator[str]:
    yield (
        f"It has the network of version {recalibration.version}, so it counts as that one does, and no higher accuracy "
        f"is demanded. Only the scores differ, which say when a record fits too badly: they come from "
        f"{recalibration.recounts} recounts of the random share, for each count that has enough of them."
    )
    kinds = {"by the photo": recalibration.photo, "with products": recalibration.products}
    lines = [
        f"  {count.name:<4}  {kind:<13}  {count.recounts} recounts, {count.old} scores before: "
        + ("replaced" if count.replaced else "too few, the old ones stay")
        for kind, counts in kinds.items()
        for count in counts
    ]
    yield "\n".join(["Scores of each count:", *lines])
    yield "Guards, on recounts of other bins than those that calibrated:\n" + _guards(decision)
    yield "So: " + "; ".join(decision.reasons) + "."


def _first_challenger(decision: Decision, p_value: float) -> str:
    right = round(decision.challenger_accuracy * decision.photos)
    return (
        f"Nothing was deployed, which counts as an accuracy of {UNDEPLOYED_ACCURACY:.0%}. The challenger counted "
        f"{right:,} of {decision.photos:,} test photos right, {decision.challenger_accuracy:.1%}. "
        f"{_chance(decision, p_value, 'so many right answers or more')}"
    )


def _discordant_photos(decision: Decision, comparison: Comparison, champion: str) -> str:
    votes = comparison.votes
    challenger_right, champion_right = votes.both + votes.challenger_alone, votes.both + votes.champion_alone
    return (
        f"Both models counted the same {decision.photos:,} test photos, of {decision.bins:,} bins:\n"
        f"  champion, version {champion}  {champion_right:,} right, {decision.champion_accuracy:.1%}\n"
        f"  challenger  {challenger_right:,} right, {decision.challenger_accuracy:.1%}\n"
        f"On {votes.both + votes.neither:,} photos they do equally well ({votes.both:,} both right, {votes.neither:,} "
        f"both wrong), and those say nothing about which is better. What tells them apart are the other "
        f"{votes.challenger_alone + votes.champion_alone:,}: on {votes.challenger_alone:,} the challenger alone is "
        f"right, on {votes.champion_alone:,} the champion alone."
    )


def _luck(decision: Decision, comparison: Comparison, p_value: float) -> str:
    votes = comparison.votes
    return (
        "If the two were equally good, each of those could have gone either way, like the toss of a coin. "
        f"{_chance(decision, p_value, 'a lead as large as this or larger')} Photos of one bin show the same things, so "
        f"a bin is one toss: the challenger wins {votes.challenger_bins:,} bins and the champion "
        f"{votes.champion_bins:,}. (This is McNemar's exact one-sided test, with bins as pairs; with photos as pairs "
        f"it would give {_percent(comparison.photo_p_value)}.)"
    )


def _chance(decision: Decision, p_value: float, lead: str) -> str:
    text = f"Luck alone gives {lead} in {_percent(p_value)} of all such comparisons"
    if decision.policy.rule != SIGNIFICANT:
        return f"{text}; this policy does not test for luck."
    relation = "no more than" if p_value <= decision.policy.level else "more than"
    return f"{text}, which is {relation} the {_percent(decision.policy.level)} that are allowed."


def _percent(share: float) -> str:
    return "less than 0.01 %" if share < 1e-4 else f"{100 * share:.3g} %"


def _gain(decision: Decision, comparison: Comparison) -> str:
    gain, rmse, policy = comparison.accuracy, comparison.rmse, decision.policy
    required = f" At least {100 * policy.min_effect:g} are required." if policy.rule == SIGNIFICANT else ""
    return (
        f"How much: {100 * gain.value:+.1f} points of accuracy; the true difference lies between {100 * gain.low:+.1f} "
        f"and {100 * gain.high:+.1f} with 95 % confidence.{required} RMSE: {rmse.value:+.3f} objects (less is better), "
        f"between {rmse.low:+.3f} and {rmse.high:+.3f}."
    )


def _advice(decision: Decision, p_value: float) -> Iterator[str]:
    """What can be done about a refusal."""
    if any(guard.verdict == GuardVerdict.TRIPPED for guard in decision.guards):
        yield "look at what got worse; if the guard is too strict, change its limit or switch it off."
    if decision.challenger_accuracy <= decision.champion_accuracy:
        yield "a better recipe, more or cleaner training photos."
    elif decision.policy.rule == SIGNIFICANT and p_value > decision.policy.level:
        yield "more test photos make a small gain visible, better training makes it larger."
        if photos := photos_needed(decision):
            yield (f"If the gain is truly this large, {photos:,} test photos would show it {POWER:.0%} of the time.")


def photos_needed(decision: Decision) -> int | None:
    """Test photos with which McNemar's test shows the present gain with probability POWER; None without a gain.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", one-sided; with as
    many photos per bin as now.
    """
    if decision.comparison is None or decision.comparison.accuracy.value <= 0:
        return None
    votes, gain = decision.comparison.votes, decision.comparison.accuracy.value
    discordant = (votes.challenger_alone + votes.champion_alone) / decision.photos
    level = -ndtri(decision.policy.level) * np.sqrt(discordant)
    power = ndtri(POWER) * np.sqrt(discordant - gain**2)
    return int(np.ceil(((level + power) / gain) ** 2))


def accuracy_in_words(evaluation: Evaluation) -> tuple[str, str]:
    """Accuracy and RMSE on the test photos, and with the report's mix of counts; that is empty without all counts."""
    low, high = evaluation.accuracy_interval
    own = (
        f"accuracy {evaluation.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"RMSE {evaluation.rmse:.3f} on {evaluation.photos} test photos"
    )
    mix = evaluation.report_mix
    if not mix:
        return own, ""
    return own, (
        f"weighted to the report's mix of counts: accuracy {mix['accuracy']:.1%}, RMSE {mix['rmse']:.3f}, "
        f"for a model that is told the mix {mix['accuracy_told']:.1%} and {mix['rmse_told']:.3f}"
    )
