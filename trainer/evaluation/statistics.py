"""Intervals: how far a figure of the test split can be believed.

Photos of one bin are not independent, so whole bins are drawn with replacement: percentile
bootstrap (Field, Welsh 2007, "Bootstrapping clustered data").
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def bootstrap_interval(values: NDArray[Any], bins: Sequence[Any] | NDArray[Any], seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values``, one a photo, such as whether it was counted right.

    Of the difference between two models on the same photos it is that of the mean of the differences.
    """
    _, index = np.unique(np.array(bins), return_inverse=True)
    sums, photos = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(photos), (RESAMPLES, len(photos)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / photos[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def rmse_difference_interval(
    squared: NDArray[Any], bins: Sequence[Any] | NDArray[Any], seed: int
) -> tuple[float, float]:
    """The 95 % interval of the first model's RMSE minus the second's. ``squared``: errors squared, ``(2, N)``."""
    _, index = np.unique(np.array(bins), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=row) for row in squared])  # (2, G)
    photos, rng, found = np.bincount(index), np.random.default_rng(seed), []
    for _ in range(RESAMPLES // 100):  # in parts: all at once is a table of RESAMPLES times the bins
        drawn = rng.integers(0, len(photos), (100, len(photos)))
        first, second = np.sqrt(sums[:, drawn].sum(axis=2) / photos[drawn].sum(axis=1))
        found.append(first - second)
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
