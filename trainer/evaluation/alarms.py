"""The verdict's error rates on the test split: how often right records raise the alarm, and wrong ones do.

The recorded count of each test photo counts as right; the wrong records are made up, one for each of the model's other
counts. Only the p-values that the archive answers with are used (``serve/verdict.py``). This measures the promise about
false alarms; ``serve/verdict.py`` keeps it, with the scores of ``trainer/evaluation/calibration.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.statistics import bootstrap_interval

ALPHAS = (0.01, 0.05, 0.1, 0.2)
CURVE = tuple(round(0.01 * step, 2) for step in range(1, 31))
"""Values of alpha, the share of right records that may raise the alarm: for the table and for the curve."""
OFF_BY = ("1", "2", "3+")


@dataclass(frozen=True)
class Alarms:
    """Alarm rates at ``alpha``, all shares 0-1.

    ``false_alarms``: of right records, with a 95 % interval (bootstrap over bins); ``caught``: of wrong records,
    by how many objects they are off; None where the split has no such record.
    """

    alpha: float
    false_alarms: float
    false_alarms_interval: tuple[float, float]
    caught: dict[str, float | None]

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        caught = {f"caught_off_by_{name.replace('+', '_or_more')}": share for name, share in self.caught.items()}
        known = {name: share for name, share in caught.items() if share is not None}
        return {"false_alarms": self.false_alarms, **known}


def count_alarms(
    fits: NDArray[np.float64],
    recorded: NDArray[np.int64],
    values: Sequence[int],
    bins: Sequence[str],
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> tuple[Alarms, ...]:
    """The alarms at each of ``alphas``.

    ``fits``: p-values ``(N, C)``, a column for each of ``values``, the counts ascending; ``recorded``:
    counts ``(N,)``; ``bins``: of each photo.
    """
    distance = np.abs(np.array(values)[None, :] - recorded[:, None])  # (N, C)
    groups = dict(zip(OFF_BY, (distance == 1, distance == 2, distance >= 3), strict=True))
    alarms = []
    for alpha in alphas:
        alarm = fits <= alpha
        false = alarm[np.arange(len(recorded)), np.searchsorted(values, recorded)]
        caught = {name: float(alarm[group].mean()) if group.any() else None for name, group in groups.items()}
        alarms.append(Alarms(alpha, float(false.mean()), bootstrap_interval(false, bins, seed), caught))
    return tuple(alarms)
