"""The statistical tests of the gate: against scipy, against full enumeration, and on equally good models."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from tests.benchmarks.bench_gate import Setting, outcomes, promoted
from tests.conftest import rounds
from trainer.evaluation.paired import exact_p, permutation_p, sum_by_bin
from trainer.evaluation.policy import GREATER, SIGNIFICANT
from trainer.evaluation.statistics import rmse_difference_interval

GAINS = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=300)
FEW = st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 7)), min_size=1, max_size=40)
examples = settings(deadline=None, max_examples=rounds(60, 1000))


@examples
@given(GAINS)
def test_with_a_photo_a_bin_it_is_mcnemar_s_exact_test(gains: list[int]) -> None:
    won, discordant = gains.count(1), gains.count(1) + gains.count(-1)
    p_value = binomtest(won, discordant, 0.5, alternative="greater").pvalue if discordant else 1.0
    assert exact_p(np.array(gains), np.arange(len(gains))) == pytest.approx(p_value, rel=1e-9)


@examples
@given(FEW)
def test_with_more_photos_a_bin_it_counts_every_way_in_which_the_bins_can_fall(rows: list[tuple[int, int]]) -> None:
    gains, bins = (np.array(column) for column in zip(*rows, strict=True))
    sums = np.bincount(bins, weights=gains, minlength=8)
    ways = [np.dot(signs, np.abs(sums)) >= sums.sum() for signs in product((-1, 1), repeat=8)]
    assert exact_p(gains, bins) == pytest.approx(np.mean(ways), rel=1e-9)


@examples
@given(FEW)
def test_the_names_of_bins_and_the_order_of_photos_do_not_matter(rows: list[tuple[int, int]]) -> None:
    gains, bins = (np.array(column) for column in zip(*rows, strict=True))
    assert exact_p(gains[::-1], 7 - bins[::-1]) == pytest.approx(exact_p(gains, bins), rel=1e-9)


@examples
@given(FEW)
def test_the_same_photos_once_more_in_the_same_bins_prove_nothing(rows: list[tuple[int, int]]) -> None:
    gains, bins = (np.array(column) for column in zip(*rows, strict=True))
    assert exact_p(np.repeat(gains, 3), np.repeat(bins, 3)) == pytest.approx(exact_p(gains, bins), rel=1e-9)


@examples
@given(FEW)
def test_one_model_s_luck_is_the_other_s_bad_luck(rows: list[tuple[int, int]]) -> None:
    gains, bins = (np.array(column) for column in zip(*rows, strict=True))
    both = exact_p(gains, bins) + exact_p(-gains, bins)  # what happened counts on both sides
    assert both > 1 - 1e-9
    sums = np.bincount(bins, weights=gains, minlength=8)
    same = np.mean([np.dot(signs, np.abs(sums)) == sums.sum() for signs in product((-1, 1), repeat=8)])
    assert both == pytest.approx(1 + same, rel=1e-9)


def test_exchanging_at_random_comes_to_what_is_counted() -> None:
    rng = np.random.default_rng(1)
    right, bins = rng.random((2, 200)) < [[0.55], [0.45]], rng.integers(0, 80, 200)
    parts = np.stack([sum_by_bin(row[:, None].astype(np.float64), bins) for row in right])
    counted = exact_p(right[0].astype(int) - right[1], bins)
    sampled = permutation_p(parts, lambda sums: np.asarray(sums[..., 0]))
    assert 0.001 < counted < 0.5
    assert sampled == pytest.approx(counted, abs=4 * (counted / 2000) ** 0.5)


def test_a_random_exchange_is_never_certain() -> None:
    parts = np.stack([np.ones((100, 1)), np.zeros((100, 1))])
    assert permutation_p(parts, lambda sums: np.asarray(sums[..., 0])) == 1 / 2000
    assert permutation_p(parts[::-1], lambda sums: np.asarray(sums[..., 0])) == 1


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


def test_the_interval_of_the_rmse_knows_of_bins() -> None:
    rng = np.random.default_rng(0)
    squared = np.repeat(np.square(rng.normal(0, 1, (2, 60))), 9, axis=1)
    (low, high), (binned_low, binned_high) = (
        rmse_difference_interval(squared, bins, 0) for bins in (np.arange(540), np.arange(540) // 9)
    )
    assert (binned_high - binned_low) / (high - low) == pytest.approx(3, rel=0.15)
