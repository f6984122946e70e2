import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from serve.errors import DataError
from tests.conftest import rounds
from tests.unit.gating import side, votes
from trainer.data.counts import Counts
from trainer.evaluation import evaluate
from trainer.evaluation.evaluate import REPORT_MIX, Evaluated, Prediction, predictions_from_json, summarise
from trainer.evaluation.gate import Decision, Votes, decide, from_json, judge
from trainer.evaluation.policy import GatePolicy
from trainer.evaluation.statistics import bootstrap_interval

BARE = GatePolicy().without_guards()
GREATER = replace(BARE, rule="greater")


def compared(both: int, challenger: int, champion: int, neither: int, policy: GatePolicy = BARE) -> Decision:
    ours, theirs = votes(both, challenger, champion, neither)
    return decide(side(ours), side(theirs), policy)


def test_promotes_a_challenger_that_is_better_by_more_than_luck() -> None:
    decision = compared(60, 40, 20, 80)
    assert decision.promote
    assert "50.0% on 200 test photos is greater than the champion's 40.0%, and that is more than luck" in str(decision)
    assert decision.p_value == pytest.approx(binomtest(40, 60, alternative="greater").pvalue)


def test_refuses_a_lead_that_may_be_luck_where_the_report_s_condition_promotes_it() -> None:
    decision = compared(60, 24, 20, 96)
    assert not decision.promote
    assert "42.0% on 200 test photos is greater than the champion's 40.0%, but that may be luck (p = 0.33" in str(
        decision
    )
    assert compared(60, 24, 20, 96, GREATER).promote


@pytest.mark.parametrize(("challenger", "champion"), [(20, 20), (10, 30)])
@pytest.mark.parametrize("policy", [BARE, GREATER])
def test_refuses_a_challenger_that_is_not_better(challenger: int, champion: int, policy: GatePolicy) -> None:
    decision = compared(50, challenger, champion, 100, policy)
    assert not decision.promote
    assert "not greater than the champion's" in decision.reasons[0]


def test_refuses_a_lead_that_is_certain_and_small() -> None:
    decision = compared(300, 20, 2, 300, replace(BARE, min_effect=0.03))
    assert decision.p_value is not None
    assert decision.p_value < 0.001
    assert not decision.promote
    assert "only by 2.89 points, of 3 that are asked for" in decision.reasons[0]
    assert compared(300, 20, 2, 300, replace(BARE, min_effect=18 / 622)).promote


@settings(deadline=None, max_examples=rounds(50, 1000))
@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0, 0.02]))
def test_what_is_better_is_what_scipy_s_binomial_test_says(
    counts: tuple[int, int, int, int], level: float, effect: float
) -> None:
    right, bins = np.array(votes(*counts)), np.arange(sum(counts))
    _, ours, theirs, _ = counts
    asked = binomtest(ours, ours + theirs, alternative="greater").pvalue if ours + theirs else 1.0
    lead = (ours - theirs) / sum(counts)
    found = judge(right, bins, replace(BARE, level=level, min_effect=effect))
    assert found.better is bool(lead > 0 and asked <= level and lead >= effect)
    assert found.p_value == pytest.approx(asked)
    assert judge(right, bins, GREATER).better is (ours > theirs)


def test_a_bin_is_one_vote_however_many_photos_it_has() -> None:
    ours, theirs = votes(0, 40, 20, 40)
    alone = decide(side(ours), side(theirs), BARE)
    assert alone.promote
    bins = [number // 20 for number in range(100)]
    binned = decide(side(ours, bins), side(theirs, bins), BARE)
    assert not binned.promote
    assert (binned.p_value, binned.bins) == (1 / 2, 5)
    assert binned.comparison is not None
    assert binned.comparison.votes == Votes(0, 40, 20, 40, 2, 1)
    assert binned.comparison.photo_p_value == alone.p_value


@pytest.mark.parametrize(("right", "promote"), [(100, False), (116, False), (117, True), (50, False)])
def test_a_first_challenger_must_beat_a_tenth_by_more_than_luck(right: int, promote: bool) -> None:
    decision = decide(side([True] * right + [False] * (1000 - right)), None, BARE)
    asked = binomtest(right, 1000, 0.1, alternative="greater").pvalue
    assert decision.p_value == pytest.approx(asked)
    assert decision.promote is promote is bool(asked <= 0.05)
    assert "10%, which stands for no champion" in decision.reasons[0]
    assert (decision.first, decision.champion_accuracy, decision.comparison) == (True, 0.1, None)


@pytest.mark.parametrize(("right", "promote"), [(101, True), (100, False)])
def test_the_report_s_condition_promotes_a_first_challenger_above_a_tenth(right: int, promote: bool) -> None:
    assert decide(side([True] * right + [False] * (1000 - right)), None, GREATER).promote is promote


def test_a_first_challenger_must_be_better_by_the_least_effect_too() -> None:
    right, policy = [True] * 130 + [False] * 870, replace(BARE, min_effect=0.05)
    assert "only by 3.00 points, of 5 that are asked for" in decide(side(right), None, policy).reasons[0]


GOOD, WORSE = side([True] * 60 + [False] * 40), side([True] * 20 + [False] * 80)


def with_answers(evaluated: Evaluated, answers: list[Prediction]) -> Evaluated:
    """The same evaluation with other answers, as many of them right."""
    return replace(evaluated, predictions=answers)


def changed(number: int, **what: object) -> list[Prediction]:
    """The answers of WORSE, one of them changed."""
    answers = list(WORSE.predictions)
    answers[number] = replace(answers[number], **what)  # type: ignore[arg-type]
    return answers


@pytest.mark.parametrize(
    ("challenger", "champion", "reason"),
    [
        (GOOD, side([True] * 20 + [False] * 80, fingerprint="others"), "different photos (photos and others); run the"),
        (GOOD, with_answers(WORSE, changed(99, id="else")), "only one of challenger and champion was asked about 2 of"),
        (GOOD, with_answers(WORSE, changed(99, recorded=3)), "recorded counts of 1 test photos have changed"),
        (GOOD, with_answers(WORSE, changed(99, id="00000")), "the champion's answers hold photo 00000 more than once"),
        (
            with_answers(GOOD, changed(0)),
            WORSE,
            "the challenger's answers, 20 of 100 right, do not belong to its evalu",
        ),
        (GOOD, with_answers(WORSE, changed(0)[:50]), "the champion's answers, 20 of 50 right, do not belong"),
        (with_answers(GOOD, []), WORSE, "the challenger's answers, 0 of 0 right"),
        (GOOD, replace(WORSE, evaluation=replace(WORSE.evaluation, classes=("1", "2"))), "the champion ('1', '2')"),
    ],
)
@pytest.mark.parametrize("policy", [GatePolicy(), GREATER])
def test_never_compares_what_has_no_common_ground(
    challenger: Evaluated, champion: Evaluated, reason: str, policy: GatePolicy
) -> None:
    decision = decide(challenger, champion, policy)
    assert not decision.promote
    assert reason in decision.reasons[0]
    assert (decision.p_value, decision.comparison, decision.guards) == (None, None, ())
    assert from_json(json.loads(json.dumps(decision.to_json()))) == decision


def test_photos_are_matched_by_their_id_and_not_by_their_place() -> None:
    ours, theirs = votes(30, 20, 5, 45)
    shuffled = side(theirs)
    shuffled = replace(shuffled, predictions=list(reversed(shuffled.predictions)))
    assert decide(side(ours), shuffled) == decide(side(ours), side(theirs))


@pytest.mark.parametrize("champion", [True, False])
def test_a_decision_comes_back_from_its_json_whole(champion: bool) -> None:
    ours, theirs = votes(30, 20, 5, 45)
    decision = decide(side(ours), side(theirs) if champion else None)
    assert from_json(json.loads(json.dumps(decision.to_json()))) == decision
    assert decision.metrics()["p_value"] == decision.p_value
    assert ("accuracy_difference_low" in decision.metrics()) is champion


def test_every_number_of_a_comparison_is_told() -> None:
    ours, theirs = votes(30, 20, 5, 45)
    decision = decide(side(ours), side(theirs, off=2.0))
    found = decision.comparison
    assert found is not None
    assert found.accuracy.value == pytest.approx(0.15)
    assert found.accuracy.low < 0.15 < found.accuracy.high
    assert found.rmse.value == pytest.approx(0.5**0.5 - (4 * 0.65) ** 0.5)
    assert found.rmse.low < found.rmse.value < found.rmse.high < 0
    assert [each.photos for each in found.classes] == [20] * 5
    assert sum(each.loss for each in found.classes) / 5 == pytest.approx(-0.15)


@pytest.mark.parametrize("found", [{}, {"promote": True, "reasons": ["better"], "challenger_accuracy": 0.5}])
def test_a_decision_of_another_version_is_one_clear_error(found: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"not a decision\.json of this version"):
        from_json(found)


@pytest.mark.parametrize("fit", [(), (0.5, 0.01)])
def test_answers_come_back_from_a_file_and_from_mlflow_s_table(fit: tuple[float, ...]) -> None:
    rows = [Prediction("7", "b", 1, 2, 1.25, (0.5, 0.5), fit), Prediction("8", "b", 2, 2, 1.5, (0.25, 0.75), fit)]
    columns = {key: [asdict(each)[key] for each in rows] for key in asdict(rows[0])}
    table = {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    for content in (columns, table):
        assert predictions_from_json(json.dumps(content)) == rows


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": ["1"]}', '{"id": ["1"], "bin": []}'])
def test_what_are_no_answers_is_one_clear_error(text: str) -> None:
    with pytest.raises(DataError, match=r"not a predictions\.json"):
        predictions_from_json(text)


def prediction(recorded: int, count: int, expected: float, where: str = "a") -> Prediction:
    return Prediction("x", where, recorded, count, expected, (0.5, 0.5))


def test_summarises_what_was_predicted() -> None:
    rows = [prediction(1, 1, 1.5), prediction(1, 2, 1.5), prediction(2, 2, 2.0), prediction(2, 2, 2.0)]
    found = summarise(rows, Counts((1, 2)), "f")
    assert found.accuracy == 0.75
    assert found.rmse == pytest.approx((2 * 0.25 / 4) ** 0.5)
    assert found.rmse_most_probable == 0.5
    assert found.per_class_accuracy == {"1": 0.5, "2": 1.0}
    assert found.confusion == ((1, 1), (0, 2))


def drawn(shares: tuple[float, ...], photos: int = 20000) -> list[Prediction]:
    """Bins mixed by ``shares`` of 1-5, and a model that has learned from such bins what they look like."""
    rng = np.random.default_rng(0)
    recorded = rng.choice(5, photos, p=shares)
    seen = recorded + rng.normal(0, 1, photos)  # what a photo shows, in objects
    likelihood = np.exp(-((seen[:, None] - np.arange(5)) ** 2) / 2) * np.array(shares)
    rows = likelihood / likelihood.sum(axis=1, keepdims=True)
    return [
        Prediction(str(i), str(i), int(right) + 1, int(row.argmax()) + 1, float(row @ np.arange(1, 6)), tuple(row))
        for i, (right, row) in enumerate(zip(recorded, rows, strict=True))
    ]


def test_weighs_by_the_report_s_mix_of_counts() -> None:
    uniform = summarise(drawn((0.2,) * 5), Counts(), "f")
    there = summarise(drawn(tuple(REPORT_MIX.values())), Counts(), "f")
    found = uniform.report_mix
    # a model that is told the mix does what one does that has learned from it; one that is not does worse
    assert found["accuracy_told"] == pytest.approx(there.accuracy, abs=0.01)
    assert found["rmse_told"] == pytest.approx(there.rmse, abs=0.01)
    assert found["accuracy"] < found["accuracy_told"] - 0.005
    assert found["rmse"] > found["rmse_told"]
    assert there.report_mix["accuracy"] == pytest.approx(there.accuracy, abs=0.005)
    assert uniform.metrics()["test_accuracy_told_of_report_mix"] == found["accuracy_told"]


def test_another_mix_needs_the_counts_of_the_report() -> None:
    assert summarise([prediction(1, 1, 1.5), prediction(2, 2, 2.0)], Counts((1, 2)), "f").report_mix == {}
    lacking = [replace(each, recorded=1) for each in drawn((0.2,) * 5, 20)]
    assert summarise(lacking, Counts(), "f").report_mix == {}


def test_the_interval_knows_that_photos_of_one_bin_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    correct = np.repeat(rng.random(50) < 0.5, 10)
    alone = bootstrap_interval(correct, [str(i) for i in range(500)], 0)
    binned = bootstrap_interval(correct, [str(i // 10) for i in range(500)], 0)
    assert alone[0] < correct.mean() < alone[1]
    assert (binned[1] - binned[0]) / (alone[1] - alone[0]) == pytest.approx(10**0.5, rel=0.15)


def test_an_evaluation_has_the_shape_that_sagemaker_reads_and_comes_back() -> None:
    found = summarise(
        [replace(each, fit=(0.5, 0.01)) for each in (prediction(1, 1, 1.2), prediction(2, 1, 1.2))], Counts((1, 2)), "f"
    )
    assert found.alarms
    text = json.dumps(found.to_sagemaker())
    assert json.loads(text)["multiclass_classification_metrics"]["accuracy"]["value"] == 0.5
    assert json.loads(text)["regression_metrics"]["rmse"]["value"] == found.rmse
    assert evaluate.from_json(text) == found
