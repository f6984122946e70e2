"""Intervals: how far a figure of the test split can be believed.

Photos of one bin are not independent, so whole bins are drawn with replacement: percentile
bootstrap (Field, Welsh 2007, "Bootstrapping clustered data").
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def bootstrap_interval(values: NDArray[Any], bins: Sequence[str], seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values``, one a photo, such as whether it was counted right.

    Of the difference between two models on the same photos it is that of the mean of the differences.
    """
    _, index = np.unique(np.array(bins), return_inverse=True)
    sums, photos = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(photos), (RESAMPLES, len(photos)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / photos[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
