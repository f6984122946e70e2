"""The gate's settings, and its words."""

import argparse
from collections.abc import Mapping
from dataclasses import replace

import pytest

from serve.errors import SettingsError
from tests.unit.gating import side, votes
from trainer.evaluation import decision_plot
from trainer.evaluation.explain import explain, photos_needed
from trainer.evaluation.gate import decide
from trainer.evaluation.policy import (
    GREATER,
    GUARDS,
    RANGES,
    GatePolicy,
    add_options,
    from_dict,
    from_options,
    variable,
)


def asked(*words: str, environ: Mapping[str, str] = {}) -> GatePolicy:
    parser = argparse.ArgumentParser()
    add_options(parser, environ)
    return from_options(vars(parser.parse_args(words)))


def test_nothing_said_is_the_default() -> None:
    assert asked() == from_options({}) == GatePolicy()
    assert asked(environ=dict.fromkeys(map(variable, RANGES), "")) == GatePolicy()


def test_options_and_variables_say_the_same() -> None:
    numbers = {name: 0.25 if high <= 1 else 5.0 for name, (_, high, _) in RANGES.items()}
    wanted = GatePolicy(GREATER, **numbers)  # type: ignore[arg-type]
    words = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    environ = {variable(name): str(value) for name, value in numbers.items()} | {"BINWATCH_GATE_POLICY": GREATER}
    assert asked("--policy", GREATER, *words) == asked(environ=environ) == wanted
    assert asked("--policy", "significant", environ=environ) == replace(wanted, rule="significant")
    assert from_dict({**vars(wanted)}) == wanted


def test_each_guard_is_switched_off_by_its_word() -> None:
    words = [word for name in GUARDS for word in (f"--{name.replace('_', '-')}", "off")]
    assert asked(*words) == GatePolicy().without_guards()


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as found:
        asked("--policy", "best", "--level", "0.7", "--min-effect", "off", "--max-class-loss", "nan", "--alpha", "x")
    told = str(found.value)
    assert "policy is 'best'; choose greater or significant" in told
    assert "level (the share of equally good challengers that luck may promote) is '0.7'; give a number from" in told
    assert "min_effect (the least gain in accuracy, 0-1) is 'off'; give a number from 0 to 1;" in told
    assert (
        "max_class_loss (accuracy and F1 that one count may lose, 0-1) is 'nan'; give a number from 0 to 1, or off"
        in told
    )
    assert "alpha (" in told


OURS, THEIRS = votes(60, 30, 20, 90)


def test_a_refusal_is_explained_to_somebody_who_does_not_know_the_test() -> None:
    told = explain(decide(side(OURS), side(THEIRS)), "4", "3")
    plain = " ".join(told.split())
    assert "The gate refused version 4 (policy: significant)." in told
    assert "champion, version 3 80 right, 40.0% challenger 90 right, 45.0%" in plain
    assert "(60 both right, 90 both wrong)" in plain
    assert "the other 50: on 30 the challenger alone is right, on 20 the champion alone" in plain
    assert "Luck alone gives a lead as large as this or larger in 10.1 % of all such comparisons" in plain
    assert "which is more than the 5 % that are allowed" in plain
    assert "the challenger wins 30 bins and the champion 20" in plain
    assert "RMSE: " in plain
    assert all(f"  passed      {name}" in told for name in ("class loss", "calibration", "RMSE", "false alarms"))
    assert "Were the gain truly as large as it looks, 617 test photos would show it 80% of the time." in plain
    assert max(map(len, told.splitlines())) <= 100


def test_the_photos_that_are_said_to_be_needed_are_enough() -> None:
    decision = decide(side(OURS), side(THEIRS), GatePolicy().without_guards())
    needed = photos_needed(decision)
    assert needed == 617
    ours, theirs = votes(185, 93, 62, 277)
    more = decide(side(ours), side(theirs))  # as large a gain on so many photos
    assert "and that is more than luck" in more.reasons[0]
    assert photos_needed(decide(side(THEIRS), side(OURS))) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (THEIRS, OURS, "What to do: a better recipe"),
        ([True] * 200, THEIRS, "The gate let through version 4"),
        (OURS, None, "Nothing was deployed, which counts as an accuracy of 10%. The challenger counted 90 of 200"),
    ],
)
def test_every_kind_of_decision_is_told_and_drawn(ours: list[bool], theirs: list[bool] | None, words: str) -> None:
    decision = decide(side(ours, confidence=0.99 if all(ours) else 0.6), side(theirs) if theirs else None)
    told = " ".join(explain(decision, "4", "3").split())
    assert words in told
    assert ("What to do" in told) is not decision.promote
    panels = decision_plot.decision(decision).axes
    assert [panel.axison for panel in panels] == [True, theirs is not None, True]


def test_a_guard_s_refusal_and_what_became_of_a_version_are_told() -> None:
    tripped = decide(side(OURS, latency_ms=90), side(THEIRS))
    assert "tripped     latency" in explain(tripped, "4", "3")
    assert "look at what got worse" in explain(tripped, "4", "3")
    assert "more test photos make a small gain visible" in explain(tripped, "4", "3")
    good = decide(side([True] * 200, confidence=0.99), side(THEIRS))
    assert explain(good, "4", "3", "rolled-back", "it was slow").endswith("Since then: rolled-back. it was slow")
    assert explain(good, "4", "3", "approved", "better").endswith("It waits for the promoter.")
    apart = explain(decide(side(OURS), side(THEIRS, fingerprint="others")), "4", "3")
    assert "could not be compared: challenger and champion were evaluated on different photos" in " ".join(
        apart.split()
    )


def test_the_report_s_condition_does_not_ask_for_more_than_luck() -> None:
    told = explain(decide(side(OURS), side(THEIRS), GatePolicy(GREATER)), "4", "3")
    assert "10.1 % of all such comparisons; this policy does not ask." in " ".join(told.split())
