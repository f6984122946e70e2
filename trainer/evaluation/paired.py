"""Two models on the same photos: what separates them, and whether chance alone would do it. Pure.

Everything rests on one thought: were the two equally good, it would not matter if their answers changed hands.
Photos of one bin show the same things in nearly the same light, so their answers change hands together: a bin is one
toss of a coin, not as many as it has photos. Where every bin has one photo, ``exact_p`` is McNemar's exact test.

Q. McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages";
R. A. Fisher 1935, "The Design of Experiments", section 21, for the exchange.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc
from scipy.stats import binom

from trainer.evaluation.calibration import BINS as STEPS
from trainer.evaluation.evaluate import Prediction

EXCHANGES = 1999
"""How often the answers change hands at random, where not every way can be counted."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """The answers to the same N photos, row 0 the challenger's and row 1 the champion's.

    ``bins``: ``(N,)``, from 0; ``recorded``: counts ``(N,)``; ``said``: the counts answered, ``(2, N)``; ``right``:
    ``(2, N)``; ``off``: expected minus recorded count, ``(2, N)``, in objects; ``confidence``: ``(2, N)``, 0-1;
    ``fit``: the recorded count's p-value ``(2, N)``, 0-1, None where one of the models gives none.
    """

    bins: NDArray[np.int64]
    recorded: NDArray[np.int64]
    said: NDArray[np.int64]
    right: NDArray[np.bool_]
    off: Floats
    confidence: Floats
    fit: Floats | None

    @classmethod
    def of(cls, challenger: Sequence[Prediction], champion: Sequence[Prediction], values: Sequence[int]) -> "Pairs":
        """Match by the photo's id; both must have answered the same ones. ``values``: the counts, ascending."""
        other = {each.id: each for each in champion}
        sides = [challenger, [other[each.id] for each in challenger]]
        recorded = np.array([each.recorded for each in challenger])
        column = np.searchsorted(values, recorded)

        def rows(of: Callable[[Prediction], float]) -> Floats:
            return np.array([[of(each) for each in side] for side in sides], dtype=np.float64)

        fits = all(each.fit for side in sides for each in side)
        return cls(
            bins=np.unique([each.bin for each in challenger], return_inverse=True)[1],
            recorded=recorded,
            said=np.array([[each.count for each in side] for side in sides]),
            right=np.array([[each.count == each.recorded for each in side] for side in sides]),
            off=rows(lambda each: each.expected_count - each.recorded),
            confidence=rows(lambda each: max(each.probabilities)),
            fit=np.array([[each.fit[c] for each, c in zip(side, column, strict=True)] for side in sides])
            if fits
            else None,
        )


def exact_p(gain: NDArray[Any], bins: NDArray[np.int64]) -> float:
    """How often chance alone gives a sum of ``gain`` as large as this or larger, 0-1.

    ``gain``: whole numbers ``(N,)``, such as 1 where the challenger alone is right and -1 where the champion alone is;
    they are summed by bin, and each bin's sum falls to either side with probability 1/2. The distribution is computed,
    not sampled: bins of equal weight are a binomial, and the binomials of the weights are convolved.
    """
    sums = np.rint(np.bincount(bins, weights=gain)).astype(np.int64)
    won = int(sums[sums > 0].sum())
    weights, number = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if len(weights) == 1:
        return float(bdtrc(won // weights[0] - 1, number[0], 0.5))  # what binom.sf gives, eight times as fast
    chances = np.ones(1)
    for weight, of_it in zip(weights.tolist(), number.tolist(), strict=True):
        spread = np.zeros(weight * of_it + 1)
        spread[::weight] = binom.pmf(np.arange(of_it + 1), of_it, 0.5)
        chances = np.convolve(chances, spread)
    return float(min(chances[won:].sum(), 1.0))


def by_bin(values: Floats, bins: NDArray[np.int64]) -> Floats:
    """Sums over the photos of each bin: ``(N, K)`` -> ``(G, K)``."""
    return np.stack([np.bincount(bins, weights=column) for column in values.T], axis=1)


def exchange_p(parts: Floats, statistic: Callable[[Floats], Floats], seed: int = 0) -> float:
    """How often chance alone gives the challenger so much more of a statistic, or still more, 0-1.

    ``parts``: what each bin adds to what the statistic is made of, ``(2, G, K)``; ``statistic``: ``(..., K)`` ->
    ``(...)``. EXCHANGES times each bin's answers change hands or not; the one that happened counts too, so that the
    test keeps its level (Phipson, Smyth 2010, "Permutation p-values should never be zero").
    """
    first, second = parts
    both, rng, as_large = (first + second).sum(axis=0), np.random.default_rng(seed), 1
    happened = statistic(first.sum(axis=0)) - statistic(second.sum(axis=0)) - 1e-12  # sums in another order round so
    for start in range(0, EXCHANGES, 250):
        times = min(250, EXCHANGES - start)
        challenger = rng.integers(0, 2, (times, len(first))).astype(np.float64) @ (second - first) + first.sum(axis=0)
        as_large += int((statistic(challenger) - statistic(both - challenger) >= happened).sum())
    return as_large / (EXCHANGES + 1)


def squares(pairs: Pairs) -> Floats:
    """Squared errors by bin, ``(2, G, 1)``: what an RMSE is made of."""
    return np.stack([by_bin(np.square(off)[:, None], pairs.bins) for off in pairs.off])


def gaps(pairs: Pairs) -> Floats:
    """Confidence minus correctness by bin and step of confidence, ``(2, G, STEPS)``: what a calibration error is."""
    sides = []
    for confidence, right in zip(pairs.confidence, pairs.right, strict=True):
        table = np.zeros((len(right), STEPS))
        step = np.minimum((confidence * STEPS).astype(int), STEPS - 1)
        table[np.arange(len(right)), step] = confidence - right
        sides.append(by_bin(table, pairs.bins))
    return np.stack(sides)
