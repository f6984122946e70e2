"""The benchmark of the gate: how often each policy promotes a challenger that is not better, and one that is.

A simulation without models. Correct predictions are drawn at random with the accuracies of the project's own models on
real photos: 42 %, and 47 % where the challenger is truly better. ``gate.apply_rule`` decides, without guards.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.results import Result, Server, machine, rounded
from trainer.evaluation.gate import apply_rule
from trainer.evaluation.policy import GREATER, SIGNIFICANT, GatePolicy, Rule

PAIRS = 100_000
"""Simulated pairs per cell; with 2,000, every third share of 5 % would be off by half a point or more."""
PHOTOS = (500, 1000, 2000, 5000)
CHAMPION, GAIN = 0.42, 0.05
SHARED = {"errors independent": 0.0, "errors half shared": 0.5}
MAX_FALSE_PROMOTIONS, MIN_POWER, POWER_PHOTOS = 0.05, 0.8, 2000


@dataclass(frozen=True)
class Setting:
    """One cell of the table. ``gain``: of true accuracy (0-1); ``shared``: share of the photos with common errors."""

    photos: int
    gain: float
    shared: float


def outcomes(setting: Setting) -> NDArray[np.float64]:
    """The probabilities that only the challenger, only the champion, or both or neither count a photo correctly.

    The difficulty of a photo is a uniform random number; a model counts it correctly when its accuracy is higher. With
    shared errors the difficulty is the same for both models, otherwise each draws its own.
    """
    challenger, champion = CHAMPION + setting.gain, CHAMPION
    independent = np.array([challenger * (1 - champion), champion * (1 - challenger)])
    shared = np.array([challenger - champion, 0.0])
    discordant = (1 - setting.shared) * independent + setting.shared * shared
    return np.array([*discordant, 1 - discordant.sum()])


def promoted(setting: Setting, rule: Rule, pairs: int = PAIRS, seed: int = 0) -> float:
    """The share of simulated pairs that a policy promotes. Every photo is a bin of its own.

    The decision then depends only on the numbers of discordant photos, so it is made once for each pair of numbers.
    """
    rng = np.random.default_rng([seed, setting.photos, round(1000 * setting.gain), round(1000 * setting.shared)])
    discordant = rng.multinomial(setting.photos, outcomes(setting), pairs)[:, :2]
    cases, frequencies = np.unique(discordant, axis=0, return_counts=True)
    bins, policy = np.arange(setting.photos), GatePolicy(rule=rule).without_guards()
    better = [
        apply_rule(_right(challenger, champion, setting.photos), bins, policy).better
        for challenger, champion in cases.tolist()
    ]
    return float(frequencies[better].sum() / pairs)


def _right(challenger: int, champion: int, photos: int) -> NDArray[np.bool_]:
    """Correctness of challenger and champion, ``(2, N)``, with so many photos that only one counts correctly."""
    right = np.zeros((2, photos), dtype=bool)
    right[0, :challenger] = right[1, challenger : challenger + champion] = True
    return right


def table(pairs: int = PAIRS, seed: int = 0) -> dict[str, list[float]]:
    """The shares that are promoted, one for each of PHOTOS, by policy, true difference and kind of errors."""
    return {
        f"{rule}, {truth}, {name}": [promoted(Setting(photos, gain, shared), rule, pairs, seed) for photos in PHOTOS]
        for truth, gain in (("no true difference", 0.0), ("5 points better", GAIN))
        for name, shared in SHARED.items()
        for rule in (GREATER, SIGNIFICANT)
    }


def bench_gate(_data: Path, _server: Server) -> Result:
    """How many times fewer false promotions ``significant`` makes than ``greater``, the report's condition.

    It holds when the factor is at least ten, no cell of ``significant`` is above 5 %, ``greater`` promotes about half
    of the time, and ``significant`` detects a true gain of 5 points on 2,000 photos in at least 80 % of the cases.
    """
    start = time.perf_counter()
    runs = table()
    false = {
        rule: [share for name, shares in runs.items() if name.startswith(f"{rule}, no") for share in shares]
        for rule in (GREATER, SIGNIFICANT)
    }
    column = PHOTOS.index(POWER_PHOTOS)
    power = [shares[column] for name, shares in runs.items() if name.startswith(f"{SIGNIFICANT}, 5")]
    ratio = sum(false[GREATER]) / sum(false[SIGNIFICANT])
    holds = (
        ratio >= 10
        and max(false[SIGNIFICANT]) <= MAX_FALSE_PROMOTIONS
        and min(power) >= MIN_POWER
        and min(false[GREATER]) >= 0.45
        and max(false[GREATER]) <= 0.52
    )
    runs["seconds"] = [round(time.perf_counter() - start, 1)]
    return Result(
        name="gate",
        ratio=rounded(ratio),
        target=10.0,
        holds=holds,
        peers={str(GREATER): rounded(ratio)},
        runs=runs,
        machine=machine(),
        compared="times fewer false promotions than",
    )
