"""The statistical tests of the gate: against scipy and against full enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.conftest import rounds
from trainer.evaluation.paired import exact_p, permutation_p, sum_by_bin
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


def test_the_interval_of_the_rmse_knows_of_bins() -> None:
    rng = np.random.default_rng(0)
    squared = np.repeat(np.square(rng.normal(0, 1, (2, 60))), 9, axis=1)
    (low, high), (binned_low, binned_high) = (
        rmse_difference_interval(squared, bins, 0) for bins in (np.arange(540), np.arange(540) // 9)
    )
    assert (binned_high - binned_low) / (high - low) == pytest.approx(3, rel=0.15)
