"""How many wrong records the first bins of a list hold: drawn from the posterior of the mixture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy

from serve.recount.mixture import Floats, Group, Ints, Mixture, mass_below, share_grid

DRAWS = 500
INTERVAL = (0.05, 0.95)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the first ``bins`` of a list are expected to hold: wrong records in the mean, and a 90 % interval."""

    bins: int
    wrong: float
    interval: tuple[int, int]


def expect(mixture: Mixture, groups: Sequence[Group], listed: Ints, seed: int = 0) -> Expectation:
    """What the bins in the rows ``listed`` hold. Of a group these must be the bins with the lowest p-values.

    Bins with the same p-value count as equal, although the list puts first those that the model doubts more.
    """
    rng = np.random.default_rng(seed)
    rates, shapes = mixture.draw(DRAWS, rng)
    wrong = np.zeros(DRAWS, dtype=np.int64)
    for group in groups:
        number = int(np.isin(group.rows, listed).sum())
        if number:
            wrong += _draw_wrong(group, number, rates, shapes, rng)
    low, high = np.quantile(wrong, INTERVAL, method="inverted_cdf")
    return Expectation(bins=len(listed), wrong=float(wrong.mean()), interval=(int(low), int(high)))


def _draw_wrong(
    group: Group, number: int, rates: Floats, shapes: Floats, rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many of the ``number`` lowest bins of a group are wrong, in each draw."""
    cell = int(group.cells[number - 1])
    below = group.below(cell)
    within, before = int((group.cells <= cell).sum()), int((group.cells <= below).sum())
    everything = np.ones(len(rates))
    right = _draw_share(cell, group.photos + 1, len(group.cells), within, (rates, shapes), everything, rng)
    earlier = right * _draw_share(below, cell, within, before, (rates, shapes), right, rng)
    wrong_before = rng.binomial(before, _share_wrong(rates, earlier, earlier**shapes))
    tied = rng.binomial(within - before, _share_wrong(rates, right - earlier, right**shapes - earlier**shapes))
    return np.asarray(wrong_before + rng.hypergeometric(tied, within - before - tied, number - before))


def _draw_share(
    cell: int, cells: int, bins: int, number: int, mixture: tuple[Floats, Floats], top: Floats, rng: np.random.Generator
) -> Floats:
    """The share of right records in the lowest ``cell`` of ``cells``, in each draw.

    It is Beta(cell, cells - cell), weighted by the likelihood that of so many ``bins`` this ``number`` is there.
    ``mixture``: rates and shapes; ``top``: the share of right records in all ``cells``.
    """
    if cell in (0, cells):
        return np.full(len(top), float(cell > 0))
    shares, prior = share_grid(cell, cells)
    expected = mass_below(mixture[0][:, None], mixture[1][:, None], shares, top[:, None])
    log = prior + xlogy(number, expected) + xlog1py(bins - number, -expected)
    weights = np.exp(log - log.max(axis=1, keepdims=True)).cumsum(axis=1)
    places = (weights < rng.random((len(weights), 1)) * weights[:, -1:]).sum(axis=1)
    return np.asarray(shares[places])


def _share_wrong(rates: Floats, right: Floats, wrong: Floats) -> Floats:
    """The share of wrong records where the shares ``right`` of right ones and ``wrong`` of wrong ones are."""
    mass = rates * wrong
    return np.asarray(np.divide(mass, mass + (1 - rates) * right, out=np.zeros_like(mass), where=mass > 0))
