"""Benchmark of the gate: how often each policy promotes a challenger that is not better, and one that is.

No model takes part. Right answers are drawn by lot with the accuracies of the project's own models on real photos,
42 % and, where the challenger is truly better, 47 %; what is judged is what ``gate.judge`` judges, guards off.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.benches import Result, Server, machine, rounded
from trainer.evaluation.gate import judge
from trainer.evaluation.policy import GREATER, SIGNIFICANT, GatePolicy

PAIRS = 100_000
"""Simulated pairs a cell; of 2,000, every third share of 5 % would be off by half a point or more."""
PHOTOS = (500, 1000, 2000, 5000)
CHAMPION, GAIN = 0.42, 0.05
SHARED = {"errors independent": 0.0, "errors half shared": 0.5}
MOST_FALSE, LEAST_FOUND, FOUND_ON = 0.05, 0.8, 2000


@dataclass(frozen=True)
class Setting:
    """One cell of the table. ``gain``: of true accuracy, 0-1; ``shared``: of the photos, in which both fare alike."""

    photos: int
    gain: float
    shared: float


def outcomes(setting: Setting) -> NDArray[np.float64]:
    """The chances of a photo that the challenger alone counts right, the champion alone, or both or neither.

    A photo is as hard as a number from 0 to 1, which a right model's accuracy exceeds. Where errors are shared the
    photo is equally hard for both, else each draws a number of its own.
    """
    ours, theirs = CHAMPION + setting.gain, CHAMPION
    apart = np.array([ours * (1 - theirs), theirs * (1 - ours)])
    alike = np.array([ours - theirs, 0.0])
    alone = (1 - setting.shared) * apart + setting.shared * alike
    return np.array([*alone, 1 - alone.sum()])


def promoted(setting: Setting, rule: str, pairs: int = PAIRS, seed: int = 0) -> float:
    """The share of simulated pairs that a policy promotes. Every photo is a bin of its own.

    What is judged depends on the discordant photos alone then, so pairs that have equally many are judged once.
    """
    rng = np.random.default_rng([seed, setting.photos, round(1000 * setting.gain), round(1000 * setting.shared)])
    drawn = rng.multinomial(setting.photos, outcomes(setting), pairs)[:, :2]
    kinds, times = np.unique(drawn, axis=0, return_counts=True)
    bins, policy = np.arange(setting.photos), GatePolicy(rule).without_guards()
    better = [judge(_right(ours, theirs, setting.photos), bins, policy).better for ours, theirs in kinds.tolist()]
    return float(times[better].sum() / pairs)


def _right(ours: int, theirs: int, photos: int) -> NDArray[np.bool_]:
    """Answers of challenger and champion, ``(2, N)``, with so many that one alone counts right."""
    right = np.zeros((2, photos), dtype=bool)
    right[0, :ours] = right[1, ours : ours + theirs] = True
    return right


def table(pairs: int = PAIRS, seed: int = 0) -> dict[str, list[float]]:
    """Shares that are promoted, one for each of PHOTOS, by what is compared."""
    return {
        f"{rule}, {truth}, {name}": [promoted(Setting(photos, gain, shared), rule, pairs, seed) for photos in PHOTOS]
        for truth, gain in (("no true difference", 0.0), ("5 points better", GAIN))
        for name, shared in SHARED.items()
        for rule in (GREATER, SIGNIFICANT)
    }


def bench_gate(_data: Path, _server: Server) -> Result:
    """How many times fewer false promotions ``significant`` makes than ``greater``, the report's condition.

    It holds where that is at least ten times, no cell of ``significant`` is above 5 %, ``greater`` promotes about half
    the time, and ``significant`` finds a true gain of 5 points on 2,000 photos at least 80 % of the time.
    """
    start = time.perf_counter()
    runs = table()
    false = {
        rule: [share for name, shares in runs.items() if name.startswith(f"{rule}, no") for share in shares]
        for rule in (GREATER, SIGNIFICANT)
    }
    found = [shares[PHOTOS.index(FOUND_ON)] for name, shares in runs.items() if name.startswith(f"{SIGNIFICANT}, 5")]
    ratio = sum(false[GREATER]) / sum(false[SIGNIFICANT])
    holds = (
        ratio >= 10
        and max(false[SIGNIFICANT]) <= MOST_FALSE
        and min(found) >= LEAST_FOUND
        and min(false[GREATER]) >= 0.45
        and max(false[GREATER]) <= 0.52
    )
    runs["seconds"] = [round(time.perf_counter() - start, 1)]
    shown = rounded(ratio)
    return Result("gate", shown, 10.0, holds, {GREATER: shown}, runs, machine(), "times fewer false promotions than")


BENCHES = {"gate": bench_gate}
