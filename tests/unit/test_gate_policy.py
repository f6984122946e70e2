"""The gate's settings, and its words."""

import re

import pytest

from serve.errors import SettingsError
from serve.settings import read, settings_of
from tests.unit.gating import side, votes
from trainer.evaluation import decision_plot
from trainer.evaluation.explain import explain, photos_needed
from trainer.evaluation.gate import decide
from trainer.evaluation.policy import GREATER, GUARDS, GatePolicy, Rule

VARIABLES = {setting.path[-1]: setting.variable for setting in settings_of(GatePolicy)}


def test_nothing_set_is_the_default() -> None:
    assert read(GatePolicy, {}) == read(GatePolicy, dict.fromkeys(VARIABLES.values(), "")) == GatePolicy()


def test_every_number_has_its_variable() -> None:
    numbers = {name: 5.0 if "factor" in name or "mb" in name else 0.25 for name in VARIABLES if name != "rule"}
    environ = {VARIABLES[name]: str(value) for name, value in numbers.items()} | {"BINWATCH_GATE_POLICY": "greater"}
    policy = GatePolicy.model_validate({"rule": GREATER, **numbers})
    assert read(GatePolicy, environ) == policy
    assert read(GatePolicy, environ, {"BINWATCH_GATE_POLICY": "significant"}).rule is Rule.SIGNIFICANT
    assert GatePolicy.model_validate(policy.model_dump()) == policy


def test_each_guard_is_switched_off_by_its_word() -> None:
    assert read(GatePolicy, {VARIABLES[name]: "off" for name in GUARDS}) == GatePolicy().without_guards()


def test_all_problems_are_listed_at_once() -> None:
    texts = {"rule": "best", "level": "0.7", "min_effect": "off", "max_class_loss": "nan", "alpha": "x"}
    with pytest.raises(SettingsError) as caught:
        read(GatePolicy, {}, {VARIABLES[name]: text for name, text in texts.items()})
    message = str(caught.value)
    assert "--policy is 'best'; give greater or significant (" in message
    assert "--level is '0.7'; give a number from 1e-06 to 0.49 (" in message
    assert "--min-effect is 'off'; give a number from 0 to 1 (" in message
    assert "--max-class-loss is 'nan'; give a number from 0 to 1, or off (" in message
    assert "--alpha is 'x'; give a number from 0.0001 to 1 (" in message


CHALLENGER, CHAMPION = votes(60, 30, 20, 90)
"""What each of them counts right."""


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_refusal_is_explained_to_somebody_who_does_not_know_the_test() -> None:
    text = explain(decide(side(CHALLENGER), side(CHAMPION)), "4", "3")
    plain = one_line(text)
    assert "The gate refused version 4 (policy: significant)." in text
    assert "champion, version 3 80 right, 40.0% challenger 90 right, 45.0%" in plain
    assert "60 both right, 90 both wrong" in plain
    assert "50: on 30 the challenger alone is right, on 20 the champion alone" in plain
    assert re.search(r"\b10\.1 % .* more than the 5 %", plain)
    assert "30 bins and the champion 20" in plain
    assert "RMSE: " in plain
    assert all(f"  passed      {name}" in text for name in ("class loss", "calibration", "RMSE", "false alarms"))
    assert re.search(r"\b617 test photos .* 80%", plain)
    assert max(map(len, text.splitlines())) <= 100


def test_the_photos_that_are_said_to_be_needed_are_enough() -> None:
    decision = decide(side(CHALLENGER), side(CHAMPION), GatePolicy().without_guards())
    assert photos_needed(decision) == 617
    challenger, champion = votes(185, 93, 62, 277)  # as large a gain on 617 photos
    larger = decide(side(challenger), side(champion))
    assert larger.p_value is not None
    assert larger.p_value <= larger.policy.level
    assert photos_needed(decide(side(CHAMPION), side(CHALLENGER))) is None


@pytest.mark.parametrize(
    ("challenger", "champion", "words"),
    [
        (CHAMPION, CHALLENGER, "What to do: a better recipe"),
        ([True] * 200, CHAMPION, "The gate approved version 4"),
        (CHALLENGER, None, "an accuracy of 10%. The challenger counted 90 of 200"),
    ],
)
def test_every_kind_of_decision_is_told_and_drawn(
    challenger: list[bool], champion: list[bool] | None, words: str
) -> None:
    confidence = 0.99 if all(challenger) else 0.6
    decision = decide(side(challenger, confidence=confidence), side(champion) if champion else None)
    text = one_line(explain(decision, "4", "3"))
    assert words in text
    assert ("What to do" in text) is not decision.promote
    panels = decision_plot.draw(decision).axes
    assert [panel.axison for panel in panels] == [True, champion is not None, True]


def test_a_guard_s_refusal_and_what_became_of_a_version_are_told() -> None:
    tripped = explain(decide(side(CHALLENGER, latency_ms=90), side(CHAMPION)), "4", "3")
    assert "tripped     latency" in tripped
    assert "switch it off" in tripped
    assert "more test photos" in tripped
    better = decide(side([True] * 200, confidence=0.99), side(CHAMPION))
    assert explain(better, "4", "3", "rolled-back", "it was slow").endswith("rolled-back. it was slow")
    assert explain(better, "4", "3", "approved", "better").endswith("It waits for the promoter.")
    different = decide(side(CHALLENGER), side(CHAMPION, fingerprint="others"))
    assert f"could not be compared: {different.reasons[0]}" in one_line(explain(different, "4", "3"))


def test_the_report_s_condition_does_not_ask_for_more_than_luck() -> None:
    text = explain(decide(side(CHALLENGER), side(CHAMPION), GatePolicy(rule=Rule.GREATER)), "4", "3")
    assert "10.1 % of all such comparisons; this policy does not test for luck." in one_line(text)
