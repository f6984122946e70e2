"""Paired tests: two models' answers to the same photos, and how often chance alone would separate them so far. Pure.

All of them are exchange tests: if the two models were equally good, swapping their answers would change nothing. Photos
of one bin show the same things in nearly the same light, so their answers are swapped together: a bin is one coin toss,
however many photos it has. Where every bin has one photo, ``exact_p`` is McNemar's exact test.

Q. McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages";
R. A. Fisher 1935, "The Design of Experiments", section 21, for the exchange.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from trainer.evaluation.calibration import STEPS
from trainer.evaluation.evaluate import Evaluated, Prediction

PERMUTATIONS = 1999
"""Random exchanges of the answers, where their distribution cannot be computed exactly."""
BATCH = 250

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The answers to the same N photos; row 0 is the challenger's, row 1 the champion's.

    ``bins``: ``(N,)``, from 0; ``recorded``: counts ``(N,)``; ``predicted``: the counts answered, ``(2, N)``;
    ``right``: ``(2, N)``; ``errors``: expected minus recorded count, ``(2, N)``, in objects; ``confidence``:
    ``(2, N)``, 0-1; ``fit``: the recorded count's p-value ``(2, N)``, 0-1, None where one of the models gives none.
    """

    bins: NDArray[np.int64]
    recorded: NDArray[np.int64]
    predicted: NDArray[np.int64]
    right: NDArray[np.bool_]
    errors: Floats
    confidence: Floats
    fit: Floats | None

    @classmethod
    def match(cls, challenger: Sequence[Prediction], champion: Sequence[Prediction], values: Sequence[int]) -> "Pairs":
        """Match by the photo's id; both must have answered the same photos. ``values``: the counts, ascending."""
        by_id = {answer.id: answer for answer in champion}
        sides = [challenger, [by_id[answer.id] for answer in challenger]]
        recorded = np.array([answer.recorded for answer in challenger])
        columns = np.searchsorted(values, recorded)

        def rows(value: Callable[[Prediction], float]) -> Floats:
            return np.array([[value(answer) for answer in side] for side in sides], dtype=np.float64)

        fits = all(answer.fit for side in sides for answer in side)
        return cls(
            bins=np.unique([answer.bin for answer in challenger], return_inverse=True)[1],
            recorded=recorded,
            predicted=np.array([[answer.count for answer in side] for side in sides]),
            right=np.array([[answer.count == answer.recorded for answer in side] for side in sides]),
            errors=rows(lambda answer: answer.expected_count - answer.recorded),
            confidence=rows(lambda answer: max(answer.probabilities)),
            fit=np.array([[answer.fit[column] for answer, column in zip(side, columns, strict=True)] for side in sides])
            if fits
            else None,
        )


def have_same_records(challenger: Evaluated, champion: Evaluated) -> bool:
    """Whether both are known to have judged the same records with products, right and wrong ones."""
    first, second = challenger.evaluation.records_fingerprint, champion.evaluation.records_fingerprint
    if not first or first != second:
        return False
    numbers = [
        {answer.id: {kind: len(fits) for kind, fits in answer.record_fits.items()} for answer in side.predictions}
        for side in (challenger, champion)
    ]
    return numbers[0] == numbers[1]


@dataclass(frozen=True, kw_only=True)
class RecordPairs:
    """The p-values that both models give to the same N records with products; row 0 is the challenger's.

    ``bins``: of the records' photos ``(N,)``, from 0; ``kinds``: the error of each, or ``right``, ``(N,)``; ``fit``:
    ``(2, N)``, 0-1.
    """

    bins: NDArray[np.int64]
    kinds: NDArray[np.str_]
    fit: Floats

    @classmethod
    def match(cls, challenger: Sequence[Prediction], champion: Sequence[Prediction]) -> "RecordPairs":
        """Match by the photo's id; both must have judged the same records (``have_same_records``)."""
        by_id = {answer.id: answer.record_fits for answer in champion}
        records = [
            (answer.bin, kind, first, second)
            for answer in challenger
            for kind, fits in answer.record_fits.items()
            for first, second in zip(fits, by_id[answer.id][kind], strict=True)
        ]
        bins, kinds, *sides = zip(*records, strict=True)
        return cls(bins=np.unique(bins, return_inverse=True)[1], kinds=np.array(kinds), fit=np.array(sides))

    def alarms_by_bin(self, kinds: Sequence[str], alpha: float) -> Floats:
        """How many records of each of ``kinds`` raise the alarm, ``(2, G, K)``: the parts of the shares caught."""
        of_kind = self.kinds[:, None] == np.array(kinds)  # (N, K)
        return np.stack(
            [sum_by_bin((of_kind & (fits <= alpha)[:, None]).astype(float), self.bins) for fits in self.fit]
        )


def exact_p(gain: NDArray[np.int64], bins: NDArray[np.int64]) -> float:
    """How often chance alone gives a sum of ``gain`` as large as this or larger, 0-1.

    ``gain``: whole numbers ``(N,)``, such as 1 where the challenger alone is right and -1 where the champion alone is;
    they are summed by bin, and each bin's sum falls to either side with probability 1/2. The distribution is computed,
    not sampled: bins of equal weight are a binomial, and the binomials of the weights are convolved.
    """
    sums = np.rint(np.bincount(bins, weights=gain)).astype(np.int64)
    won = int(sums[sums > 0].sum())
    weights, multiplicities = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if len(weights) == 1:
        return float(bdtrc(won // weights[0] - 1, multiplicities[0], 0.5))
    from scipy.stats import binom  # a second to import, and most programs decide nothing

    distribution = np.ones(1)
    for weight, bins_of_weight in zip(weights.tolist(), multiplicities.tolist(), strict=True):
        factor = np.zeros(weight * bins_of_weight + 1)
        factor[::weight] = binom.pmf(np.arange(bins_of_weight + 1), bins_of_weight, 0.5)
        distribution = np.convolve(distribution, factor)
    return float(min(distribution[won:].sum(), 1.0))


def sum_by_bin(values: Floats, bins: NDArray[np.int64]) -> Floats:
    """Sums over the photos of each bin: ``(N, K)`` -> ``(G, K)``."""
    return np.stack([np.bincount(bins, weights=column) for column in values.T], axis=1)


def permutation_p(parts: Floats, statistic: Callable[[Floats], Floats], seed: int = 0) -> float:
    """How often chance alone gives the challenger a lead in a statistic as large as this or larger, 0-1.

    ``parts``: each bin's contribution to the sums that the statistic is computed from, ``(2, G, K)``; ``statistic``:
    ``(..., K)`` -> ``(...)``. Each bin's answers are swapped or not at random, PERMUTATIONS times; the observed
    assignment counts too, so that the test keeps its level (Phipson, Smyth 2010, "Permutation p-values should never be
    zero").
    """
    first, second = parts
    both, rng, as_large = (first + second).sum(axis=0), np.random.default_rng(seed), 1
    # the tolerance absorbs rounding, since the permuted sums are added in another order
    observed = statistic(first.sum(axis=0)) - statistic(second.sum(axis=0)) - 1e-12
    for start in range(0, PERMUTATIONS, BATCH):
        size = min(BATCH, PERMUTATIONS - start)
        challenger = rng.integers(0, 2, (size, len(first))).astype(np.float64) @ (second - first) + first.sum(axis=0)
        as_large += int((statistic(challenger) - statistic(both - challenger) >= observed).sum())
    return as_large / (PERMUTATIONS + 1)


def squared_errors_by_bin(pairs: Pairs) -> Floats:
    """Squared errors, ``(2, G, 1)``: the parts of an RMSE."""
    return np.stack([sum_by_bin(np.square(errors)[:, None], pairs.bins) for errors in pairs.errors])


def calibration_gaps_by_bin(pairs: Pairs) -> Floats:
    """Confidence minus correctness, by interval of confidence, ``(2, G, STEPS)``: the parts of a calibration error."""
    sides = []
    for confidence, right in zip(pairs.confidence, pairs.right, strict=True):
        table = np.zeros((len(right), STEPS))
        step = np.minimum((confidence * STEPS).astype(int), STEPS - 1)
        table[np.arange(len(right)), step] = confidence - right
        sides.append(sum_by_bin(table, pairs.bins))
    return np.stack(sides)
