"""A decision of the gate in plain words, for an engineer who has never heard of McNemar. Pure."""

from collections.abc import Iterator
from textwrap import fill

import numpy as np
from scipy.stats import norm

from trainer.evaluation import guards
from trainer.evaluation.gate import Comparison, Decision
from trainer.evaluation.policy import SIGNIFICANT, UNDEPLOYED_ACCURACY

WIDTH = 100
POWER = 0.8
"""How often the advised number of test photos would show the gain."""


def explain(made: Decision, challenger: str, champion: str, status: str = "", reason: str = "") -> str:
    """What was decided of version ``challenger`` against version ``champion``, "" for none, and why.

    ``status`` and ``reason``: what became of the version since, as the registry has it.
    """
    word = "let through" if made.promote else "refused"
    parts = [f"The gate {word} version {challenger} (policy: {made.policy.rule}).", *_body(made, champion)]
    if status and (made.promote or status not in ("refused", "approved")):
        parts.append(f"Since then: {status}. {reason}" if status != "approved" else "It waits for the promoter.")
    return "\n\n".join(
        "\n".join(fill(line, WIDTH, subsequent_indent=_indent(line)) for line in part.splitlines()) for part in parts
    )


def _indent(line: str) -> str:
    """Text that goes on below a line stands where its last column begins."""
    return " " * (line.rfind("  ") + 2) if line.startswith("  ") else ""


def _body(made: Decision, champion: str) -> Iterator[str]:
    if made.p_value is None:
        yield "The two could not be compared: " + "; ".join(made.reasons) + "."
        return
    if made.comparison is None:
        yield _first(made)
    else:
        yield _counted(made, made.comparison, champion)
        yield _luck(made, made.comparison)
        yield _size_of_it(made, made.comparison)
    yield "Guards, which refuse what is more accurate but worse elsewhere:\n" + "\n".join(_guards(made))
    yield "So: " + "; ".join(made.reasons) + "."
    advice = _advice(made)
    if advice:
        yield advice


def _first(made: Decision) -> str:
    right = round(made.challenger_accuracy * made.photos)
    return (
        f"Nothing was deployed, which counts as an accuracy of {UNDEPLOYED_ACCURACY:.0%}. The challenger counted "
        f"{right:,} of {made.photos:,} test photos right, {made.challenger_accuracy:.1%}. "
        f"{_chance(made, 'so many right answers or more')}"
    )


def _counted(made: Decision, compared: Comparison, champion: str) -> str:
    votes = compared.votes
    ours, theirs = votes.challenger_alone, votes.champion_alone
    return (
        f"Both models counted the same {made.photos:,} test photos, of {made.bins:,} bins:\n"
        f"  champion, version {champion}  {votes.both + theirs:,} right, {made.champion_accuracy:.1%}\n"
        f"  challenger  {votes.both + ours:,} right, {made.challenger_accuracy:.1%}\n"
        f"On {votes.both + votes.neither:,} photos they do equally well ({votes.both:,} both right, {votes.neither:,} "
        f"both wrong), and those say nothing about which is better. What tells them apart are the other "
        f"{ours + theirs:,}: on {ours:,} the challenger alone is right, on {theirs:,} the champion alone."
    )


def _luck(made: Decision, compared: Comparison) -> str:
    votes = compared.votes
    return (
        "Were the two equally good, each of those could have gone either way, like the toss of a coin. "
        f"{_chance(made, 'a lead as large as this or larger')} Photos of one bin show the same things, so a bin is "
        f"one toss: the challenger wins {votes.challenger_bins:,} bins and the champion {votes.champion_bins:,}. "
        "(This is McNemar's exact one-sided test, with bins for pairs; with photos for pairs it would give "
        f"{_share(compared.photo_p_value)}.)"
    )


def _chance(made: Decision, what: str) -> str:
    assert made.p_value is not None
    text = f"Luck alone gives {what} in {_share(made.p_value)} of all such comparisons"
    if made.policy.rule != SIGNIFICANT:
        return f"{text}; this policy does not ask."
    held = "no more than" if made.p_value <= made.policy.level else "more than"
    return f"{text}, which is {held} the {_share(made.policy.level)} that are allowed."


def _share(value: float) -> str:
    return "less than 0.01 %" if value < 1e-4 else f"{100 * value:.3g} %"


def _size_of_it(made: Decision, compared: Comparison) -> str:
    gain, rmse = compared.accuracy, compared.rmse
    asked = f" At least {100 * made.policy.min_effect:g} are asked for." if made.policy.rule == SIGNIFICANT else ""
    return (
        f"How much: {100 * gain.value:+.1f} points of accuracy; the true difference lies between {100 * gain.low:+.1f} "
        f"and {100 * gain.high:+.1f} with 95 % confidence.{asked} RMSE: {rmse.value:+.3f} objects (less is better), "
        f"between {rmse.low:+.3f} and {rmse.high:+.3f}."
    )


def _guards(made: Decision) -> Iterator[str]:
    for each in made.guards:
        yield f"  {each.verdict:<10}  {each.name:<12}  {each.reason}"


def _advice(made: Decision) -> str:
    """What could be done about a refusal."""
    found = []
    if any(each.verdict == guards.TRIPPED for each in made.guards):
        found.append("look at what got worse; a guard that is not meant so can be given another limit or switched off.")
    assert made.p_value is not None
    if made.challenger_accuracy <= made.champion_accuracy:
        found.append("a better recipe, more or cleaner training photos.")
    elif made.policy.rule == SIGNIFICANT and made.p_value > made.policy.level:
        found.append("more test photos make a small gain visible, better training makes it larger.")
        needed = photos_needed(made)
        found += (
            [f"Were the gain truly as large as it looks, {needed:,} test photos would show it {POWER:.0%} of the time."]
            if needed
            else []
        )
    return "What to do:\n  " + "\n  ".join(found) if found and not made.promote else ""


def photos_needed(made: Decision) -> int | None:
    """Test photos with which McNemar's test shows the gain as it looks now with probability POWER; None without a gain.

    Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", one-sided; with as
    many photos a bin as now.
    """
    if made.comparison is None or made.comparison.accuracy.value <= 0:
        return None
    votes, gain = made.comparison.votes, made.comparison.accuracy.value
    differ = (votes.challenger_alone + votes.champion_alone) / made.photos
    quantiles = norm.isf(made.policy.level) * np.sqrt(differ) + norm.ppf(POWER) * np.sqrt(differ - gain**2)
    return int(np.ceil((quantiles / gain) ** 2))
