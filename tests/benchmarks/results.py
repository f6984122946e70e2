"""The result of a benchmark: how many times faster this project is than a named peer in the same run."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from serve.runtime import processor
from trainer.data.counts import Counts

ROOT = Path(__file__).parents[2]
"""The project's folder, in which the child processes of a benchmark run."""
COUNTS = Counts()
T = TypeVar("T")

Server = Callable[[Path], AbstractContextManager[str]]
"""Starts an S3 server that stores its files in a folder, and yields its address."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one benchmark.

    ``ratio``: the seconds of the first peer divided by this project's, or the rates the other way round; ``peers``: the
    same per peer. ``holds``: whether the target is reached. ``runs``: the measurements. ``compared``: the words between
    a ratio and its peer. ``checks``: whether each target holds, where there are several.
    """

    name: str
    ratio: float
    target: float
    holds: bool
    peers: dict[str, float]
    runs: dict[str, list[float]]
    machine: str
    compared: str = "times as fast as"
    checks: dict[str, bool] = field(default_factory=dict)

    def __str__(self) -> str:
        peers = "; ".join(f"{ratio} {self.compared} {peer}" for peer, ratio in self.peers.items())
        verdict = "holds" if self.holds else "does not hold"
        missed = "".join(f"; missed: {check}" for check, reached in self.checks.items() if not reached)
        return f"{self.name}: {peers}; the target {self.target} {verdict}{missed} ({self.machine})"


def compare_seconds(name: str, target: float, runs: Mapping[str, Sequence[float]]) -> Result:
    """The result from seconds per run; this project's are under the key "ours".

    It holds when the ratio to the first peer is at least ``target`` and this project is faster than every other peer.
    """
    own_median = statistics.median(runs["ours"])
    ratios = {peer: statistics.median(seconds) / own_median for peer, seconds in runs.items() if peer != "ours"}
    first, *others = ratios.values()
    return Result(
        name=name,
        ratio=rounded(first),
        target=target,
        holds=first >= target and all(ratio > 1 for ratio in others),
        peers={peer: rounded(ratio) for peer, ratio in ratios.items()},
        runs={side: [round(value, 3) for value in seconds] for side, seconds in runs.items()},
        machine=machine(),
    )


def rounded(ratio: float) -> float:
    """A ratio as it is shown. Compare targets with the exact one: 1.1494 is less than 1.15."""
    return round(ratio, 3)


def machine() -> str:
    """The machine that a benchmark ran on, with the kind of its processor."""
    return f"{os.cpu_count()} cores, {processor()}, Python {platform.python_version()}"


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """The duration of ``work`` in seconds, and its return value."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value
