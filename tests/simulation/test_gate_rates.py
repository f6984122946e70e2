"""How often the gate is fooled by luck, on drawn pairs of models whose truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from tests.benchmarks.bench_gate import Setting, outcomes, promoted
from tests.conftest import rounds
from tests.unit.gating import ALARM, COUNTS, NO_ALARM, random_answers, side
from trainer.data.counts import Counts
from trainer.evaluation.class_results import compare_classes
from trainer.evaluation.evaluate import (
    REPORT_MIX,
    Evaluated,
    Prediction,
    summarise,
)
from trainer.evaluation.guards import GuardInputs, GuardVerdict, check
from trainer.evaluation.paired import Pairs, exact_p
from trainer.evaluation.policy import GREATER, GUARDS, SIGNIFICANT, GatePolicy
from trainer.evaluation.record_alarms import RIGHT
from trainer.evaluation.statistics import rmse_difference_interval


def as_good_as(rng: np.random.Generator, photos: int) -> list[Prediction]:
    """Answers of one of many equally good models: about 45 % right, confidence as believable, 5 % false alarms.

    Of six wrong records of each photo they catch all or none, 30 % on average.
    """
    recorded = np.arange(photos) % 5
    rows = rng.dirichlet([1.0] * 5, photos)
    answers = np.array([rng.choice(5, p=row) for row in rows])
    right = rng.random(photos) < 0.3
    rows[right, recorded[right]], rows[right, answers[right]] = (
        rows[right, answers[right]],
        rows[right, recorded[right]],
    )
    fits, caught = rng.random(photos), rng.random(photos) < 0.3
    return [
        Prediction(
            id=str(number),
            bin=str(number // 2),
            recorded=int(recorded[number]) + 1,
            count=int(row.argmax()) + 1,
            expected_count=float(row @ np.arange(1, 6)),
            probabilities=tuple(row.tolist()),
            fit=(float(fits[number]),) * 5,
            record_fits={
                RIGHT: (float(fits[number]),),
                "one_more": (ALARM if caught[number] else NO_ALARM,) * 3,
                "exchanged": (ALARM if caught[number] else NO_ALARM,) * 3,
            },
        )
        for number, row in enumerate(rows)
    ]


def equally_good_pair(rng: np.random.Generator, photos: int) -> GuardInputs:
    """Two equally good models side by side."""
    challenger, champion = as_good_as(rng, photos), as_good_as(rng, photos)
    pairs, evaluation = Pairs.match(challenger, champion, COUNTS.values), side([True], caught=[True]).evaluation
    return GuardInputs(
        challenger=Evaluated(evaluation, challenger),
        champion=Evaluated(evaluation, champion),
        pairs=pairs,
        classes=compare_classes(pairs, COUNTS.names, COUNTS.values),
        values=COUNTS.values,
    )


@pytest.mark.parametrize("photos", [50, 150, 500])
def test_luck_alone_seldom_trips_a_guard_however_small_its_limit(photos: int) -> None:
    """With limits of next to nothing, only the p-values hold the guards back; each may trip once in a hundred."""
    rng, tries = np.random.default_rng(photos), rounds(25, 600)
    policy = GatePolicy().model_copy(update=dict.fromkeys(GUARDS, 1e-9))
    pairs = [equally_good_pair(rng, photos) for _ in range(tries)]
    verdicts = [{guard.name: guard.verdict for guard in check(inputs, policy)} for inputs in pairs]
    tripped = {name: sum(row[name] == GuardVerdict.TRIPPED for row in verdicts) for name in verdicts[0]}
    blunt = np.mean([any(result.loss > 0.05 for result in inputs.classes) for inputs in pairs])
    print(f"{photos} photos, {tries} equally good pairs: tripped {tripped}; a plain limit of 5 points: {blunt:.0%}")
    for name in ("class loss", "calibration", "RMSE", "false alarms", "false alarms with products", "caught records"):
        assert tripped[name] <= binom.ppf(0.9995, tries, policy.guard_level), name
    assert blunt > 0.5


def equally_good_bins(rng: np.random.Generator, bins: int, photos: int) -> NDArray[np.bool_]:
    """Two equally good models, each of which counts all photos of a bin right or none."""
    return np.repeat(rng.random((2, bins)) < 0.45, photos, axis=1)


def test_photos_of_one_bin_do_not_make_luck_significant() -> None:
    rng, index = np.random.default_rng(0), np.repeat(np.arange(150), 4)
    pairs = [equally_good_bins(rng, 150, 4) for _ in range(rounds(400, 5000))]
    gains = [right[0].astype(int) - right[1] for right in pairs]
    by_bin = np.mean([exact_p(gain, index) <= 0.05 for gain in gains])
    by_photo = np.mean([exact_p(gain, np.arange(600)) <= 0.05 for gain in gains])
    print(f"equally good, 4 photos a bin: significant {by_bin:.1%} by bin, {by_photo:.1%} by photo")
    assert by_bin <= binom.ppf(0.999, len(pairs), 0.05) / len(pairs)
    assert by_photo > 0.12


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("photos", [500, 1000, 2000, 5000])
def test_equally_good_is_promoted_half_the_time_by_one_policy_and_seldom_by_the_other(
    photos: int, shared: float
) -> None:
    pairs = rounds(500, 100_000)
    setting = Setting(photos, 0.0, shared)
    greater, significant = (promoted(setting, rule, pairs, seed=3) for rule in (GREATER, SIGNIFICANT))
    print(f"{setting}: greater {greater:.1%}, significant {significant:.1%}")
    assert 0.4 < greater < 0.56
    assert 0.02 < significant <= binom.ppf(0.999, pairs, 0.05) / pairs


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_five_points_on_two_thousand_photos_are_found(shared: float) -> None:
    assert promoted(Setting(2000, 0.05, shared), SIGNIFICANT, rounds(300, 20_000), seed=3) > 0.85


@pytest.mark.parametrize(("shared", "gain"), [(0.0, 0.0), (0.5, 0.05), (0.3, 0.1)])
def test_simulated_pairs_are_photos_of_random_hardness(shared: float, gain: float) -> None:
    rng = np.random.default_rng(0)
    hardness = rng.random((2, 200_000))
    alike = rng.random(200_000) < shared
    hardness[1, alike] = hardness[0, alike]
    challenger, champion = hardness < [[0.42 + gain], [0.42]]
    shares = [(challenger & ~champion).mean(), (champion & ~challenger).mean(), (challenger == champion).mean()]
    assert outcomes(Setting(1, gain, shared)) == pytest.approx(shares, abs=0.005)


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_the_interval_of_the_rmse_holds_the_truth(scale: float) -> None:
    rng, covered = np.random.default_rng(0), 0
    tries = rounds(15, 400)
    for number in range(tries):
        squared = np.square(rng.normal(0, [[scale], [1.0]], (2, 300)))
        low, high = rmse_difference_interval(squared, list(range(300)), number)
        covered += low <= scale - 1 <= high
    assert covered >= binom.ppf(0.001, tries, 0.94)


def test_weighs_by_the_report_s_mix_of_counts() -> None:
    uniform = summarise(random_answers((0.2,) * 5), Counts(), "f")
    there = summarise(random_answers(tuple(REPORT_MIX.values())), Counts(), "f")
    weighted = uniform.report_mix
    # a model that is adjusted to the mix does as well as one that was trained on it; one that is not does worse
    assert weighted["accuracy_told"] == pytest.approx(there.accuracy, abs=0.01)
    assert weighted["rmse_told"] == pytest.approx(there.rmse, abs=0.01)
    assert weighted["accuracy"] < weighted["accuracy_told"] - 0.005
    assert weighted["rmse"] > weighted["rmse_told"]
    assert there.report_mix["accuracy"] == pytest.approx(there.accuracy, abs=0.005)
    assert uniform.metrics()["test_accuracy_told_of_report_mix"] == weighted["accuracy_told"]
