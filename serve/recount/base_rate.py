"""The base rate: the share of records that are wrong, before any photo is looked at.

The prior is a Beta distribution with the mean PRIOR_MEAN and the weight of PRIOR_WEIGHT recounts. Recounts of the
random share update it; those of alarms would not, since they were chosen because their records looked wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, lgamma

from serve.recount.recount_entities import Recount

PRIOR_MEAN, PRIOR_WEIGHT = 0.02, 50.0
TYPICAL_SHAPE = 0.4
"""The shape of wrong records' p-values until a batch says more: 30 % of them are at most 0.05."""


@dataclass(frozen=True)
class BaseRate:
    """The Beta distribution of the share of wrong records; ``wrong`` and ``right``: its parameters, pseudo-counts."""

    wrong: float = PRIOR_MEAN * PRIOR_WEIGHT
    right: float = (1 - PRIOR_MEAN) * PRIOR_WEIGHT

    @property
    def mean(self) -> float:
        """The expected share of wrong records (0-1)."""
        return self.wrong / (self.wrong + self.right)

    @property
    def recounts(self) -> int:
        """How many recounts have updated the prior."""
        return round(self.wrong + self.right - PRIOR_WEIGHT)

    def updated(self, recounts: Iterable[Recount]) -> "BaseRate":
        """The base rate after these recounts, of which those outside the random share or without a count are left out.

        An exchanged product of the same quantity counts as a right record: a count cannot show it.
        """
        outcomes = [recount.record_was_right for recount in recounts if recount.random]
        return BaseRate(self.wrong + outcomes.count(False), self.right + outcomes.count(True))


def mean_power(cell: float, calibration_photos: int, shape: float) -> float:
    """The expected share of wrong records whose p-value is at most ``cell / (calibration_photos + 1)``.

    The share of right records there is Beta(cell, calibration_photos + 1 - cell), since the calibration photos are a
    sample, and a share u of right records goes with the share u**shape of wrong ones. ``shape``: above 0, 1 at most.
    """
    if cell <= 0:
        return 0.0
    return exp(
        lgamma(cell + shape) + lgamma(calibration_photos + 1) - lgamma(cell) - lgamma(calibration_photos + 1 + shape)
    )


def probability_wrong(
    p_value: float, calibration_photos: int, rate: float = PRIOR_MEAN, shape: float = TYPICAL_SHAPE
) -> float:
    """The probability that a single record is wrong, where no batch says more (``serve/recount/ranking.py``).

    ``p_value``: from so many ``calibration_photos``; ``rate``: the share of wrong records (0-1).
    """
    cell = min(max(round(p_value * (calibration_photos + 1)), 1), calibration_photos + 1)
    wrong = rate * (mean_power(cell, calibration_photos, shape) - mean_power(cell - 1, calibration_photos, shape))
    return wrong / (wrong + (1 - rate) / (calibration_photos + 1))
