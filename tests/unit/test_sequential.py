"""Tests by betting: how often they raise an alert without a reason, and how soon with one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.monitoring.sequential_test import MAX_E_VALUE, probability_e_value, rate_e_value


def some_bools(*values: int) -> NDArray[np.bool_]:
    return np.array(values, bool)


def test_without_observations_nobody_has_won_anything() -> None:
    assert rate_e_value(some_bools(), 0.05) == pytest.approx(1)
    assert probability_e_value(some_bools(), np.array([])) == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3, 0.9])
def test_whoever_bets_against_a_true_rate_expects_to_win_nothing(rate: float) -> None:
    """Over both results of one more observation, after any past; a lower rate only loses."""
    past = [0, 1, 0, 0, 1]
    after = [rate_e_value(some_bools(*past, result), rate) for result in (0, 1)]
    assert (1 - rate) * after[0] + rate * after[1] == pytest.approx(rate_e_value(some_bools(*past), rate))
    assert 0.5 * rate * (after[1] - after[0]) + after[0] < rate_e_value(some_bools(*past), rate)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.95])
def test_whoever_bets_against_true_probabilities_expects_to_win_nothing(probability: float) -> None:
    past, known = [1, 1, 0], [0.9, 0.3, 0.6]
    after = [probability_e_value(some_bools(*past, result), np.array([*known, probability])) for result in (0, 1)]
    before = probability_e_value(some_bools(*past), np.array(known))
    assert (1 - probability) * after[0] + probability * after[1] == pytest.approx(before)


def test_a_rate_without_events_is_no_evidence_and_one_of_events_alone_is_overwhelming() -> None:
    assert rate_e_value(np.zeros(1000, bool), 0.05) < 1
    assert rate_e_value(np.ones(1000, bool), 0.05) == MAX_E_VALUE
    assert rate_e_value(np.ones(1000, bool), 1.0) == 1
    assert probability_e_value(np.ones(100_000, bool), np.full(100_000, 0.5)) == MAX_E_VALUE


def test_a_change_after_a_long_time_without_one_is_noticed_as_soon() -> None:
    """Money that was bet all the time would be lost by then: two thousand observations at the promised rate."""
    steady = np.tile(some_bools(1, *[0] * 19), 100)
    changed = np.tile(some_bools(1, *[0] * 4), 40)
    assert rate_e_value(steady, 0.05) < 1
    assert rate_e_value(np.concatenate([steady, changed]), 0.05) > 100
