"""95 % intervals of the figures on the test split: percentile bootstrap over bins.

Photos of one bin are not independent, so whole bins are resampled with replacement (Field, Welsh 2007, "Bootstrapping
clustered data").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
BATCH = 100
"""Resamples that are drawn at once where a table of all of them would not fit into memory."""

Bins = Sequence[str] | Sequence[int] | NDArray[np.int64]
"""The bin of each photo."""


def bootstrap_interval(
    values: NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64], bins: Bins, seed: int
) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values``, ``(N,)``, one per photo, such as whether it was counted right.

    For two models, pass the differences per photo: the interval is that of the mean difference.
    """
    _, index = np.unique(np.array(bins), return_inverse=True)
    sums, photos = np.bincount(index, weights=values), np.bincount(index)
    resamples = np.random.default_rng(seed).integers(0, len(photos), (RESAMPLES, len(photos)))
    low, high = np.quantile(sums[resamples].sum(axis=1) / photos[resamples].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def rmse_difference_interval(squared_errors: NDArray[np.float64], bins: Bins, seed: int) -> tuple[float, float]:
    """The 95 % interval of the first model's RMSE minus the second's. ``squared_errors``: ``(2, N)``."""
    _, index = np.unique(np.array(bins), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=row) for row in squared_errors])  # (2, G)
    photos, rng, differences = np.bincount(index), np.random.default_rng(seed), []
    for _ in range(RESAMPLES // BATCH):
        resamples = rng.integers(0, len(photos), (BATCH, len(photos)))
        first, second = np.sqrt(sums[:, resamples].sum(axis=2) / photos[resamples].sum(axis=1))
        differences.append(first - second)
    low, high = np.quantile(np.concatenate(differences), [0.025, 0.975])
    return float(low), float(high)
