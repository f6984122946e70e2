import json
from dataclasses import replace

import numpy as np
import pytest

from trainer.counts import Counts
from trainer.evaluate import REPORT_MIX, Evaluation, Prediction, from_json, summarise
from trainer.gate import decide
from trainer.intervals import bootstrap_interval


def evaluation(accuracy: float) -> Evaluation:
    return Evaluation(("1", "2"), 100, "photos", accuracy, (0.0, 1.0), 1.0, 1.0, {}, ((1, 0), (0, 1)))


def test_promotes_a_challenger_that_is_better() -> None:
    decision = decide(evaluation(0.51), evaluation(0.50))
    assert decision.promote
    assert "51.0% on 100 test photos is greater than the champion's 50.0%" in decision.reasons[0]


@pytest.mark.parametrize("accuracy", [0.50, 0.49])
def test_refuses_a_challenger_that_is_not_better(accuracy: float) -> None:
    decision = decide(evaluation(accuracy), evaluation(0.50))
    assert not decision.promote
    assert "not greater" in decision.reasons[0]


@pytest.mark.parametrize(("accuracy", "promote"), [(0.11, True), (0.1, False), (0.05, False)])
def test_the_first_challenger_must_beat_a_tenth(accuracy: float, promote: bool) -> None:
    assert decide(evaluation(accuracy), None).promote is promote


def test_never_compares_accuracies_on_different_photos() -> None:
    decision = decide(evaluation(0.9), replace(evaluation(0.5), fingerprint="others"))
    assert not decision.promote
    assert "different photos" in decision.reasons[0]


def test_never_compares_models_of_different_counts() -> None:
    decision = decide(replace(evaluation(0.9), classes=("1", "2", "3")), evaluation(0.5))
    assert not decision.promote
    assert "('1', '2', '3')" in decision.reasons[0]


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
    found = summarise([replace(each, fit=(0.5, 0.01)) for each in (prediction(1, 1, 1.2), prediction(2, 1, 1.2))],
                      Counts((1, 2)), "f")  # fmt: skip
    assert found.alarms
    text = json.dumps(found.to_sagemaker())
    assert json.loads(text)["multiclass_classification_metrics"]["accuracy"]["value"] == 0.5
    assert json.loads(text)["regression_metrics"]["rmse"]["value"] == found.rmse
    assert from_json(text) == found
