"""A batch of p-values as a mixture of right and wrong records (S. Pounds and S. Morris, "Estimating the occurrence of
false positives and false negatives in microarray studies", Bioinformatics 2003).

Where a share u of right records fits as badly or worse, so does the share u**a of wrong ones, with a shape 0 < a < 1.
u is not known: bins with the same recorded count are ranked among the same n calibration photos, so that the share of
right records in the lowest k of the n + 1 cells is Beta(k, n + 1 - k). All bins of that count share this error, which
is as large as the share itself in the lowest cell. Everything here takes it into account.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln, logsumexp, xlog1py, xlogy
from scipy.stats import beta

from serve.recount.base_rate import BaseRate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHAPES = np.linspace(0.05, 0.95, 19)
"""The shapes of wrong records' p-values in the grid of the posterior."""
_RATES, _TAIL, _MIN_RATE = 48, 1e-8, 1e-4
"""Rates in the grid of the posterior: so many, between the prior's quantiles that leave out these tails."""
SHAPE_PRIOR = (3.0, 4.0)
"""A Beta distribution: a shape of 0.43 in the mean, which puts 28 % of the wrong records at p-values up to 0.05."""
_EDGES = (0.01, 0.03, 0.1, 0.3)
"""Where the p-values of a group are divided to fit the mixture; more cells would say no more about it."""
_POINTS = 48
"""Of the grid of the share of right records up to a cell."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The bins that are ranked among the same calibration photos.

    ``photos``: the number of those; ``cells``: of each bin, ascending, 1 to photos + 1, the p-value times photos + 1;
    ``rows``: where the bins are in the batch.
    """

    photos: int
    cells: Ints
    rows: Ints

    @property
    def below_top(self) -> int:
        """The highest cell below the last. A bin whose record is the most probable count has the p-value 1: there may
        be many, since all of them tie, and then the cells between are empty for right records, too."""
        inner = self.cells[self.cells <= self.photos]
        return int(inner[-1]) if len(inner) else 0

    def below(self, cell: int) -> int:
        """The cell that ends where ``cell`` begins."""
        return self.below_top if cell > self.photos else cell - 1


def mean_power(cell: NDArray[np.generic] | float, photos: int, shape: Floats) -> Floats:
    """``base_rate.mean_power`` of arrays: the expected share of wrong records up to ``cell``, at each ``shape``."""
    cells, shapes = np.broadcast_arrays(np.asarray(cell, float), shape)
    exponent = gammaln(np.maximum(cells, 1) + shapes) - gammaln(np.maximum(cells, 1))
    power = np.exp(exponent + gammaln(photos + 1) - gammaln(photos + 1 + shapes))
    return np.asarray(np.where(cells > 0, power, 0.0))


@dataclass(frozen=True)
class Mixture:
    """The posterior of the share of wrong records and of the shape.

    ``rates``: those of the grid, ``(R,)``; ``weights``: of each rate and each of SHAPES, ``(R, S)``; the sum is 1.
    """

    rates: Floats
    weights: Floats

    @classmethod
    def fit(cls, groups: Sequence[Group], rate: BaseRate) -> "Mixture":
        """The posterior after a batch; ``rate``: the prior of the share of wrong records."""
        low, high = betaincinv(rate.wrong, rate.right, (_TAIL, 1 - _TAIL))
        rates = np.geomspace(max(low, _MIN_RATE), high, _RATES)
        log = _log_prior(rates, rate) + sum((_log_likelihood(group, rates) for group in groups), np.zeros(()))
        weights = np.exp(log - log.max())
        return cls(rates, weights / weights.sum())

    @property
    def rate(self) -> float:
        """The expected share of wrong records (0-1)."""
        return float(self.weights.sum(axis=1) @ self.rates)

    def draw(self, number: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Rates and shapes, ``(number,)`` each."""
        places = rng.choice(self.weights.size, number, p=self.weights.ravel())
        return self.rates[places // len(SHAPES)], SHAPES[places % len(SHAPES)]

    def probabilities(self, group: Group) -> Floats:
        """The probability of each bin of a group that its record is wrong, ``(N,)``, descending."""
        cells, inverse = np.unique(group.cells, return_inverse=True)
        below = np.array([group.below(cell) for cell in cells.tolist()])
        wrong = mean_power(cells[:, None], group.photos, SHAPES) - mean_power(below[:, None], group.photos, SHAPES)
        right = ((cells - below) / (group.photos + 1))[:, None]  # (K, 1); wrong is (K, S)
        by_cell = np.zeros(len(cells))
        for rate, weights in zip(self.rates.tolist(), self.weights, strict=True):
            by_cell += (rate * wrong / (rate * wrong + (1 - rate) * right)) @ weights
        return np.minimum.accumulate(by_cell)[inverse]


def _log_prior(rates: Floats, rate: BaseRate) -> Floats:
    of_rate = beta.logpdf(rates, rate.wrong, rate.right) + np.log(rates)  # the grid is even in the logarithm
    return np.asarray(of_rate[:, None] + beta.logpdf(SHAPES, *SHAPE_PRIOR))


def _log_likelihood(group: Group, rates: Floats) -> Floats:
    """Of the number of bins in a few wide cells, ``(R, S)``.

    From the top: of the bins up to an edge, the number up to the next lower one.
    """
    inner = {round(share * (group.photos + 1)) for share in _EDGES}
    edges = [*sorted(edge for edge in inner if 0 < edge <= group.below_top), group.photos + 1]
    log = np.zeros((len(rates), len(SHAPES)))
    for cell, above in pairwise(edges):
        shares, prior = share_grid(cell, above)
        expected = mass_below(rates[:, None, None], SHAPES[None, :, None], shares, above / (group.photos + 1))
        number, total = (int((group.cells <= edge).sum()) for edge in (cell, above))
        log += logsumexp(prior + xlogy(number, expected) + xlog1py(total - number, -expected), axis=2)
    return log


def share_grid(cell: int, cells: int) -> tuple[Floats, Floats]:
    """Points for the share of right records in the lowest ``cell`` of ``cells``, which is Beta(cell, cells - cell), and
    the logarithms of their weights, but for a constant."""
    low, high = betaincinv(cell, cells - cell, (1e-4, 1 - 1e-4))
    shares = np.geomspace(low, high, _POINTS)  # even in the logarithm, hence one power more than in the density
    return shares, np.asarray(xlogy(cell, shares) + xlog1py(cells - cell - 1, -shares))


def mass_below(rates: Floats, shapes: Floats, share: Floats, top: Floats | float) -> Floats:
    """Of the bins up to the point where the share of right records is ``top``, those up to ``share`` times that."""
    return np.asarray(
        ((1 - rates) * share * top + rates * (share * top) ** shapes) / ((1 - rates) * top + rates * top**shapes)
    )
