"""The promises of the recount list, on drawn batches whose truth is known.

The drawn bins have five recorded counts, each with its own calibration photos, which all bins of a count share. Right
records are like those photos; of wrong ones the share u**shape fits as badly as the worst share u of right ones.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.recount.base_rate import PRIOR_MEAN, PRIOR_WEIGHT, BaseRate
from serve.recount.ranking import Judged, rank
from serve.recount.selection import select
from tests.conftest import rounds

COUNTS, CALIBRATION, BINS, SHAPE = 5, 170, 2000, 0.4
BUDGETS = (20, 100)
RATES = (0.005, 0.02, 0.1)
RECOUNTS = 5000
"""Of the random share: without any, the prior stands for the rate of wrong records."""


def draw_p_values(
    rng: np.random.Generator, rate: float, shape: float = SHAPE, photos: int = CALIBRATION
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The p-values of a batch, ``(COUNTS, BINS / COUNTS)``, and which records are wrong."""
    wrong = rng.random((COUNTS, BINS // COUNTS)) < rate
    shares = np.where(wrong, rng.random(wrong.shape) ** (1 / shape), rng.random(wrong.shape))
    calibration = np.sort(rng.random((COUNTS, photos)))
    cells = [1 + np.searchsorted(scores, row) for scores, row in zip(calibration, shares, strict=True)]
    return np.array(cells) / (photos + 1), wrong


def draw(rng: np.random.Generator, rate: float) -> tuple[list[Judged], NDArray[np.bool_]]:
    """A batch, and which of its records are wrong."""
    p_values, wrong = draw_p_values(rng, rate)
    bins = [
        Judged(p_value=value, calibration_photos=CALIBRATION, scores=str(count), probability=float(rng.random()))
        for count, row in enumerate(p_values.tolist())
        for value in row
    ]
    return bins, wrong.ravel()


@dataclass
class Outcomes:
    """Of each simulation: the wrong records in the first bins, those expected, and whether the interval has them."""

    found: list[int]
    expected: list[float]
    covered: list[bool]

    def check(self, name: str) -> None:
        differences = np.subtract(self.found, self.expected)
        error, coverage = differences.std() / np.sqrt(len(differences)), np.mean(self.covered)
        print(
            f"{name}: {np.mean(self.found):.2f} found, {np.mean(self.expected):.2f} expected, difference "
            f"{differences.mean():+.2f} ± {error:.2f}; {coverage:.3f} of the intervals hold it"
        )
        assert coverage >= 0.88 - 3 * np.sqrt(0.9 * 0.1 / len(differences))
        assert abs(differences.mean()) <= 3 * error + 0.05 * np.mean(self.expected)


@pytest.mark.parametrize("rate", RATES)
def test_as_many_wrong_records_are_found_as_expected(rate: float) -> None:
    outcomes = {budget: Outcomes([], [], []) for budget in BUDGETS}
    for seed in range(rounds(20, 300)):
        rng = np.random.default_rng(seed)
        recounted = int(rng.binomial(RECOUNTS, rate))
        prior = BaseRate(PRIOR_MEAN * PRIOR_WEIGHT + recounted, (1 - PRIOR_MEAN) * PRIOR_WEIGHT + RECOUNTS - recounted)
        bins, wrong = draw(rng, rate)
        ranking = rank(bins, prior)
        for budget, outcome in outcomes.items():
            expectation, found = ranking.budget(budget, seed), int(wrong[ranking.order[:budget]].sum())
            outcome.found.append(found)
            outcome.expected.append(expectation.wrong)
            outcome.covered.append(expectation.interval[0] <= found <= expectation.interval[1])
    for budget, outcome in outcomes.items():
        outcome.check(f"rate {rate}, the first {budget}")


def test_without_recounts_the_promise_holds_for_rates_as_the_prior_has_them() -> None:
    outcome = Outcomes([], [], [])
    for seed in range(rounds(20, 300)):
        rng = np.random.default_rng(seed)
        rate = rng.beta(PRIOR_MEAN * PRIOR_WEIGHT, (1 - PRIOR_MEAN) * PRIOR_WEIGHT)
        bins, wrong = draw(rng, rate)
        ranking = rank(bins)
        expectation, found = ranking.budget(100, seed), int(wrong[ranking.order[:100]].sum())
        outcome.found.append(found)
        outcome.expected.append(expectation.wrong)
        outcome.covered.append(expectation.interval[0] <= found <= expectation.interval[1])
    outcome.check("rates of the prior, the first 100")


@pytest.mark.parametrize("fdr", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("shape", "photos"), [(SHAPE, CALIBRATION), (0.15, 1000)], ids=["usual", "sharp"])
def test_at_most_the_promised_share_of_a_chosen_list_is_right(
    shape: float, photos: int, rate: float, fdr: float
) -> None:
    shares, lengths = [], []
    for seed in range(rounds(30, 500)):
        p_values, wrong = draw_p_values(np.random.default_rng(seed), rate, shape, photos)
        rows = list(select(p_values.ravel().tolist(), [photos] * BINS, fdr).rows)
        shares.append(1 - wrong.ravel()[rows].mean() if rows else 0.0)
        lengths.append(len(rows))
    error = np.std(shares) / np.sqrt(len(shares))
    print(
        f"{photos} calibration photos, shape {shape}, rate {rate}, promise {fdr}: {np.mean(shares):.3f} ± {error:.3f} "
        f"right, {np.mean(lengths):.1f} bins in the mean, none in {np.mean(np.array(lengths) == 0):.0%}"
    )
    assert np.mean(shares) <= fdr + 3 * error
    assert photos < 1000 or rate < 0.1 or np.mean(lengths) > 50, "a promise that is kept by no list is worth nothing"
