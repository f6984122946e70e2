"""How the verdict would do on the test split: how often right records raise the alarm, and wrong ones do.

A record of each photo is right, as far as we know; the wrong ones are made: each other count that the
model knows. Only the p-values that the archive answers with are looked at (``serve/verdict.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.statistics import bootstrap_interval

ALPHAS = (0.01, 0.05, 0.1, 0.2)
CURVE = tuple(round(0.01 * step, 2) for step in range(1, 31))
"""The shares of right records that may raise the alarm, for the table and for the curve."""
OFF_BY = ("1", "2", "3+")


@dataclass(frozen=True)
class Alarms:
    """What alarms at ``alpha`` come to, all shares 0-1.

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
        return {"false_alarms": self.false_alarms, **{name: each for name, each in caught.items() if each is not None}}


def from_dict(found: dict[str, Any]) -> Alarms:
    """Read back what ``asdict`` gave."""
    return Alarms(**{**found, "false_alarms_interval": tuple(found["false_alarms_interval"])})


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
    found = []
    for alpha in alphas:
        alarm = fits <= alpha
        wrong = alarm[np.arange(len(recorded)), np.searchsorted(values, recorded)]
        caught = {name: float(alarm[group].mean()) if group.any() else None for name, group in groups.items()}
        found.append(Alarms(alpha, float(wrong.mean()), bootstrap_interval(wrong, bins, seed), caught))
    return tuple(found)
