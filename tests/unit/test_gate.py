import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from serve.errors import DataError
from tests.conftest import rounds
from tests.unit.gating import random_answers, side, votes
from trainer.data.counts import Counts
from trainer.evaluation.evaluate import (
    Evaluated,
    Prediction,
    evaluation_from_json,
    predictions_from_json,
    summarise,
)
from trainer.evaluation.gate import Decision, Votes, apply_rule, decide, decision_from_json
from trainer.evaluation.policy import GatePolicy, Rule
from trainer.evaluation.statistics import bootstrap_interval

BARE = GatePolicy().without_guards()
GREATER = BARE.model_copy(update={"rule": Rule.GREATER})


def compared(both: int, challenger: int, champion: int, neither: int, policy: GatePolicy = BARE) -> Decision:
    challenger_right, champion_right = votes(both, challenger, champion, neither)
    return decide(side(challenger_right), side(champion_right), policy)


def test_promotes_a_challenger_that_is_better_by_more_than_luck() -> None:
    decision = compared(60, 40, 20, 80)
    assert decision.promote
    assert (decision.challenger_accuracy, decision.champion_accuracy, decision.photos) == (0.5, 0.4, 200)
    assert re.search(r"50\.0% on 200 .* 40\.0%", decision.reasons[0])
    assert decision.p_value == pytest.approx(binomtest(40, 60, alternative="greater").pvalue)


def test_refuses_a_lead_that_may_be_luck_where_the_report_s_condition_promotes_it() -> None:
    decision = compared(60, 24, 20, 96)
    assert not decision.promote
    assert re.search(r"42\.0% on 200 .* 40\.0%, .*p = 0\.33", decision.reasons[0])
    assert compared(60, 24, 20, 96, GREATER).promote


@pytest.mark.parametrize(("challenger", "champion"), [(20, 20), (10, 30)])
@pytest.mark.parametrize("policy", [BARE, GREATER])
def test_refuses_a_challenger_that_is_not_better(challenger: int, champion: int, policy: GatePolicy) -> None:
    decision = compared(50, challenger, champion, 100, policy)
    assert not decision.promote
    assert decision.challenger_accuracy <= decision.champion_accuracy
    assert re.search(
        rf"{decision.challenger_accuracy:.1%} .* not .*{decision.champion_accuracy:.1%}", decision.reasons[0]
    )


def test_refuses_a_lead_that_is_certain_and_small() -> None:
    decision = compared(300, 20, 2, 300, BARE.model_copy(update={"min_effect": 0.03}))
    assert decision.p_value is not None
    assert decision.p_value < 0.001
    assert not decision.promote
    assert re.search(r"2\.89 points, of 3\b", decision.reasons[0])
    assert compared(300, 20, 2, 300, BARE.model_copy(update={"min_effect": 18 / 622})).promote


@settings(deadline=None, max_examples=rounds(50, 1000))
@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0, 0.02]))
def test_what_is_better_is_what_scipy_s_binomial_test_says(
    counts: tuple[int, int, int, int], level: float, effect: float
) -> None:
    right, bins = np.array(votes(*counts)), np.arange(sum(counts))
    _, challenger, champion, _ = counts
    discordant = challenger + champion
    p_value = binomtest(challenger, discordant, alternative="greater").pvalue if discordant else 1.0
    lead = (challenger - champion) / sum(counts)
    result = apply_rule(right, bins, BARE.model_copy(update={"level": level, "min_effect": effect}))
    assert result.better is bool(lead > 0 and p_value <= level and lead >= effect)
    assert result.p_value == pytest.approx(p_value)
    assert apply_rule(right, bins, GREATER).better is (challenger > champion)


def test_a_bin_is_one_vote_however_many_photos_it_has() -> None:
    challenger, champion = votes(0, 40, 20, 40)
    alone = decide(side(challenger), side(champion), BARE)
    assert alone.promote
    bins = [number // 20 for number in range(100)]
    binned = decide(side(challenger, bins), side(champion, bins), BARE)
    assert not binned.promote
    assert (binned.p_value, binned.bins) == (1 / 2, 5)
    assert binned.comparison is not None
    assert binned.comparison.votes == Votes(
        both=0, challenger_alone=40, champion_alone=20, neither=40, challenger_bins=2, champion_bins=1
    )
    assert binned.comparison.photo_p_value == alone.p_value


@pytest.mark.parametrize(("right", "promote"), [(100, False), (116, False), (117, True), (50, False)])
def test_a_first_challenger_must_beat_a_tenth_by_more_than_luck(right: int, promote: bool) -> None:
    decision = decide(side([True] * right + [False] * (1000 - right)), None, BARE)
    p_value = binomtest(right, 1000, 0.1, alternative="greater").pvalue
    assert decision.p_value == pytest.approx(p_value)
    assert decision.promote is promote is bool(p_value <= 0.05)
    assert "10%" in decision.reasons[0]
    assert (decision.first, decision.champion_accuracy, decision.comparison) == (True, 0.1, None)


@pytest.mark.parametrize(("right", "promote"), [(101, True), (100, False)])
def test_the_report_s_condition_promotes_a_first_challenger_above_a_tenth(right: int, promote: bool) -> None:
    assert decide(side([True] * right + [False] * (1000 - right)), None, GREATER).promote is promote


def test_a_first_challenger_must_be_better_by_the_least_effect_too() -> None:
    right, policy = [True] * 130 + [False] * 870, BARE.model_copy(update={"min_effect": 0.05})
    decision = decide(side(right), None, policy)
    assert not decision.promote
    assert re.search(r"3\.00 points, of 5\b", decision.reasons[0])


GOOD, WORSE = side([True] * 60 + [False] * 40), side([True] * 20 + [False] * 80)


def with_answers(evaluated: Evaluated, answers: list[Prediction]) -> Evaluated:
    """The same evaluation with other answers, as many of them right."""
    return replace(evaluated, predictions=answers)


def changed(number: int, **fields: object) -> list[Prediction]:
    """The answers of WORSE, one of them changed."""
    answers = list(WORSE.predictions)
    answers[number] = replace(answers[number], **fields)  # type: ignore[arg-type]
    return answers


@pytest.mark.parametrize(
    ("challenger", "champion", "reason"),
    [
        (GOOD, side([True] * 20 + [False] * 80, fingerprint="others"), r"different photos \(photos and others\)"),
        (GOOD, with_answers(WORSE, changed(99, id="else")), r"\b2 of the test photos, such as 00099\b"),
        (GOOD, with_answers(WORSE, changed(99, recorded=3)), r"\b1 test photos .* 00099 from 3 to 5\b"),
        (GOOD, with_answers(WORSE, changed(99, id="00000")), "champion.* photo 00000 more than once"),
        (with_answers(GOOD, changed(0)), WORSE, r"challenger.* 20 of 100 right, .* 60\.0% of 100"),
        (GOOD, with_answers(WORSE, changed(0)[:50]), "champion.* 20 of 50 right"),
        (with_answers(GOOD, []), WORSE, "challenger.* 0 of 0 right"),
        (
            GOOD,
            replace(WORSE, evaluation=replace(WORSE.evaluation, classes=("1", "2"))),
            r"\('1', '2', '3', '4', '5'\).* \('1', '2'\)",
        ),
    ],
)
@pytest.mark.parametrize("policy", [GatePolicy(), GREATER])
def test_never_compares_what_has_no_common_ground(
    challenger: Evaluated, champion: Evaluated, reason: str, policy: GatePolicy
) -> None:
    decision = decide(challenger, champion, policy)
    assert not decision.promote
    assert re.search(reason, decision.reasons[0])
    assert (decision.p_value, decision.comparison, decision.guards) == (None, None, ())
    assert decision_from_json(json.dumps(decision.to_json())) == decision


def test_photos_are_matched_by_their_id_and_not_by_their_place() -> None:
    challenger, champion = (side(right) for right in votes(30, 20, 5, 45))
    shuffled = replace(champion, predictions=list(reversed(champion.predictions)))
    assert decide(challenger, shuffled) == decide(challenger, champion)


@pytest.mark.parametrize("deployed", [True, False])
def test_a_decision_comes_back_from_its_json_whole(deployed: bool) -> None:
    challenger, champion = (side(right) for right in votes(30, 20, 5, 45))
    decision = decide(challenger, champion if deployed else None)
    assert decision_from_json(json.dumps(decision.to_json())) == decision
    assert decision.metrics()["p_value"] == decision.p_value
    assert ("accuracy_difference_low" in decision.metrics()) is deployed


def test_a_comparison_holds_the_differences_of_all_photos_and_of_each_count() -> None:
    challenger, champion = votes(30, 20, 5, 45)
    comparison = decide(side(challenger), side(champion, off=2.0)).comparison
    assert comparison is not None
    assert comparison.accuracy.value == pytest.approx(0.15)
    assert comparison.accuracy.low < 0.15 < comparison.accuracy.high
    assert comparison.rmse.value == pytest.approx(0.5**0.5 - (4 * 0.65) ** 0.5)
    assert comparison.rmse.low < comparison.rmse.value < comparison.rmse.high < 0
    assert [result.photos for result in comparison.classes] == [20] * 5
    assert sum(result.loss for result in comparison.classes) / 5 == pytest.approx(-0.15)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"promote": true, "reasons": ["better"], "challenger_accuracy": 0.5}']
)
def test_a_decision_of_another_version_is_one_clear_error(text: str) -> None:
    with pytest.raises(DataError, match=r"decision\.json"):
        decision_from_json(text)


def test_the_error_names_the_field_that_is_wrong() -> None:
    content = decide(GOOD, WORSE).to_json() | {"guards": [{"name": "RMSE", "verdict": "maybe", "reason": ""}]}
    with pytest.raises(DataError, match=r"guards\.0\.verdict: .*'not judged'") as error:
        decision_from_json(json.dumps(content))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("fit", [(), (0.5, 0.01)])
def test_answers_come_back_from_a_file_and_from_mlflow_s_table(fit: tuple[float, ...]) -> None:
    row = Prediction(id="7", bin="b", recorded=1, count=2, expected_count=1.25, probabilities=(0.5, 0.5), fit=fit)
    rows = [row, replace(row, id="8", recorded=2, expected_count=1.5, probabilities=(0.25, 0.75))]
    columns = {key: [asdict(prediction)[key] for prediction in rows] for key in asdict(row)}
    table = {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    for content in (columns, table):
        assert predictions_from_json(json.dumps(content)) == rows


def test_answers_of_a_version_without_p_values_are_read() -> None:
    columns = {"id": ["7"], "bin": ["b"], "recorded": [1], "count": [2], "expected_count": [1], "probabilities": [[1]]}
    (without,) = predictions_from_json(json.dumps(columns))
    (null,) = predictions_from_json(json.dumps({**columns, "fit": [None]}))
    assert without == null
    assert (without.fit, without.probabilities, without.expected_count) == ((), (1.0,), 1.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"id": 3}', '{"id": ["1"]}', '{"id": ["1"], "bin": []}'])
def test_what_are_no_answers_is_one_clear_error(text: str) -> None:
    with pytest.raises(DataError, match=r"predictions\.json"):
        predictions_from_json(text)


def prediction(recorded: int, count: int, expected: float) -> Prediction:
    return Prediction(
        id="x", bin="a", recorded=recorded, count=count, expected_count=expected, probabilities=(0.5, 0.5)
    )


def test_summarises_what_was_predicted() -> None:
    rows = [prediction(1, 1, 1.5), prediction(1, 2, 1.5), prediction(2, 2, 2.0), prediction(2, 2, 2.0)]
    evaluation = summarise(rows, Counts((1, 2)), "f")
    assert evaluation.accuracy == 0.75
    assert evaluation.rmse == pytest.approx((2 * 0.25 / 4) ** 0.5)
    assert evaluation.rmse_most_probable == 0.5
    assert evaluation.per_class_accuracy == {"1": 0.5, "2": 1.0}
    assert evaluation.confusion == ((1, 1), (0, 2))


def test_another_mix_needs_the_counts_of_the_report() -> None:
    assert summarise([prediction(1, 1, 1.5), prediction(2, 2, 2.0)], Counts((1, 2)), "f").report_mix == {}
    lacking = [replace(answer, recorded=1) for answer in random_answers((0.2,) * 5, 20)]
    assert summarise(lacking, Counts(), "f").report_mix == {}


def test_the_interval_knows_that_photos_of_one_bin_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    correct = np.repeat(rng.random(50) < 0.5, 10)
    alone = bootstrap_interval(correct, [str(i) for i in range(500)], 0)
    binned = bootstrap_interval(correct, [str(i // 10) for i in range(500)], 0)
    assert alone[0] < correct.mean() < alone[1]
    assert (binned[1] - binned[0]) / (alone[1] - alone[0]) == pytest.approx(10**0.5, rel=0.15)


def test_an_evaluation_has_the_shape_that_sagemaker_reads_and_comes_back() -> None:
    rows = [replace(row, fit=(0.5, 0.01)) for row in (prediction(1, 1, 1.2), prediction(2, 1, 1.2))]
    evaluation = summarise(rows, Counts((1, 2)), "f")
    assert evaluation.alarms
    text = json.dumps(evaluation.to_sagemaker())
    assert json.loads(text)["multiclass_classification_metrics"]["accuracy"]["value"] == 0.5
    assert json.loads(text)["regression_metrics"]["rmse"]["value"] == evaluation.rmse
    assert evaluation_from_json(text) == evaluation


def test_an_evaluation_of_an_older_version_is_read() -> None:
    evaluation = replace(summarise([prediction(1, 1, 1.2)], Counts((1, 2)), "f"), calibration_error=None, report_mix={})
    content = {**asdict(evaluation), "classes": [1, 2], "per_class_rmse": {"1": 0.2}}
    for name in ("calibration_error", "report_mix", "alarms", "records"):
        del content[name]
    assert evaluation_from_json(json.dumps({"binwatch": content})) == evaluation


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"binwatch": {}}', '{"binwatch": {"accuracy": "high"}}'])
def test_what_is_no_evaluation_is_one_clear_error(text: str) -> None:
    with pytest.raises(DataError, match=r"evaluation\.json"):
        evaluation_from_json(text)
