"""Target tracking: as many workers as keep the busy share of their time near a target, as the report's policy does.

    python scripts/promote.py --watch --autoscale      the promoter does it, between two rounds
    python scripts/promote.py --watch --dry-run        only say what would be decided

The busy share of the workers over a window is

    (seconds that workers held a batch) / (seconds of the window * workers)

TorchServe counts, for each request, the time from leaving the queue to its answer, and a batch of b requests
counts b times: hence (sum of that time) * batches / requests. It comes to 1 where no worker ever waits.

How many: https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
Out at once to ceil(workers * busy share / target); in more conservatively, one worker at a time and only where the
others stay clearly below the target. A cool-down after scaling out holds up the next step either way; one after
scaling in holds up the next step in, but never one out.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

from serve.environment import Numbers
from serve.errors import ServerError
from serve.rollout.torchserve_client import Loaded, Work

log = logging.getLogger(__name__)

MOST_WORKERS = 3
IN_MARGIN = 0.9
"""A worker goes only if the others then stay below this share of the target: a load on the edge does not flap."""


@dataclass(frozen=True)
class ScalingPolicy:
    """The report's policy. ``least``, ``most``: workers; ``target``: busy share, 0-1; times in seconds."""

    least: int = 1
    most: int = MOST_WORKERS
    target: float = 0.7
    window_s: float = 30.0
    out_cooldown_s: float = 30.0
    in_cooldown_s: float = 30.0


@dataclass(frozen=True)
class Sample:
    """One look at the server: the default version, its ready workers, and what was done since the server started."""

    at_s: float
    version: str
    workers: int
    work: Work


@dataclass(frozen=True)
class Change:
    """The last time that the number of workers was changed, and whether it grew."""

    at_s: float
    out: bool


@dataclass(frozen=True)
class Decision:
    """How many workers there shall be, and why; ``busy``: their busy share, 0-1, where it is known."""

    workers: int
    reason: str
    busy: float | None = None


def decide(samples: Sequence[Sample], now_s: float, last: Change | None, policy: ScalingPolicy) -> Decision:
    """How many workers the default version shall have; ``samples`` oldest first, the newest one is about now."""
    if not samples or now_s - samples[-1].at_s > policy.window_s:
        return Decision(samples[-1].workers if samples else 0, "there is no fresh measurement")
    workers = samples[-1].workers
    if workers < policy.least:
        return Decision(policy.least, f"{workers} workers are fewer than the least, {policy.least}")
    measured = comparable(samples, now_s, policy.window_s)
    span_s = measured[-1].at_s - measured[0].at_s
    if span_s < policy.window_s:
        return Decision(workers, f"{span_s:.0f} s of {policy.window_s:.0f} s are measured since the last change")
    busy = busy_share(measured[0], measured[-1])
    return replace(_tracked(workers, busy, now_s, last, policy), busy=busy)


def _tracked(workers: int, busy: float, now_s: float, last: Change | None, policy: ScalingPolicy) -> Decision:
    said = f"workers are busy {busy:.0%} of the time, target {policy.target:.0%}"
    wanted = max(policy.least, min(policy.most, math.ceil(workers * busy / policy.target - 1e-9)))
    if wanted > workers:
        if last and last.out and now_s - last.at_s < policy.out_cooldown_s:
            return Decision(workers, f"{said}; cooling down after scaling out")
        return Decision(wanted, said)
    fits = workers > policy.most or workers * busy <= IN_MARGIN * policy.target * (workers - 1)
    if wanted == workers or not fits:
        return Decision(workers, said)
    if last and now_s - last.at_s < (policy.out_cooldown_s if last.out else policy.in_cooldown_s):
        return Decision(workers, f"{said}; cooling down")
    return Decision(workers - 1, said)


def comparable(samples: Sequence[Sample], now_s: float, window_s: float) -> Sequence[Sample]:
    """The newest samples that can be compared: one version, one number of workers, counters that only grow.

    The first one is the last that is a window old, so that a whole window is covered; none is two windows old.
    """
    start = len(samples) - 1
    while start > 0 and now_s - samples[start].at_s < window_s and _continues(samples[start - 1], samples[start]):
        start -= 1
    return [each for each in samples[start:] if now_s - each.at_s < 2 * window_s]


def _continues(before: Sample, after: Sample) -> bool:
    same = (before.version, before.workers) == (after.version, after.workers)
    return same and before.work.answered <= after.work.answered and before.work.batches <= after.work.batches


def busy_share(before: Sample, after: Sample) -> float:
    """The share of their time, 0-1, that the workers held a batch between two samples."""
    answered = after.work.answered - before.work.answered
    batches = after.work.batches - before.work.batches
    held_s = max(0.0, after.work.held_s - before.work.held_s)
    share = min(1.0, batches / answered) if answered and batches else 1.0
    return min(1.0, held_s * share / ((after.at_s - before.at_s) * after.workers))


class Loads(Protocol):
    """What is asked about the versions; ``serve.torchserve.Management`` is the real one."""

    def loaded(self) -> list[Loaded]:
        """Every loaded version."""


class Counts(Protocol):
    """What is asked about the work done; ``serve.torchserve.Metrics`` is the real one."""

    def work(self) -> Work:
        """What was done so far."""


class Server(Protocol):
    """Where workers come and go; ``serve.rollout.Rollout`` is the real one."""

    workers: int

    def resize(self, version: str, workers: int) -> None:
        """Give the default version so many workers without dropping a request."""


class Autoscaler:
    """Keeps the measurements of one server and carries out what is decided. ``dry_run``: only says it."""

    def __init__(
        self,
        management: Loads,
        metrics: Counts,
        server: Server,
        policy: ScalingPolicy,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._management, self._metrics, self._server = management, metrics, server
        self._policy, self._dry_run, self._clock = policy, dry_run, clock
        self._samples: list[Sample] = []
        self._last: Change | None = None

    def step(self) -> Decision:
        """Measure, decide, act. Raises ServerError, after which the next step goes on.

        Only the default version is touched, and only where no other one is loaded: what a promotion has in
        hand is left to it. Versions that are loaded later start with as many workers.
        """
        versions = self._management.loaded()
        if len(versions) != 1 or not versions[0].ready:
            self._samples.clear()
            return Decision(0, f"{len(versions)} versions are loaded; only one that answers, alone, is scaled")
        now_s, version = self._clock(), versions[0]
        self._samples.append(Sample(now_s, version.version, version.workers, self._metrics.work()))
        self._samples = [each for each in self._samples if now_s - each.at_s < 2 * self._policy.window_s]
        decision = decide(self._samples, now_s, self._last, self._policy)
        if decision.workers != version.workers:
            self._change(version, decision)
        if not self._dry_run:
            self._server.workers = decision.workers
        return decision

    def _change(self, version: Loaded, decision: Decision) -> None:
        words = (version.version, version.workers, decision.workers, decision.reason)
        if self._dry_run:
            log.info("version %s would be scaled from %d to %d workers: %s", *words)
            return
        try:
            self._server.resize(version.version, decision.workers)
            log.info("version %s was scaled from %d to %d workers: %s", *words)
        finally:  # a step that failed is not tried again before the cool-down either
            self._last = Change(self._clock(), decision.workers > version.workers)
            self._samples.clear()


def watch(scaler: Autoscaler, interval_s: float, stop: Event) -> None:
    """Take a step every ``interval_s`` seconds until ``stop``, and say what was decided where it differs."""
    said = ""
    while not stop.is_set():
        try:
            decision = scaler.step()
            text = f"{decision.workers} workers: {decision.reason}"
        except ServerError as error:
            text = f"{error}; trying again in {interval_s:.0f} s"
        if text != said:
            log.info(text)
        said = text
        stop.wait(interval_s)


def policy_from(environ: Mapping[str, str], cores: int | None = None) -> ScalingPolicy:
    """The policy that the environment sets. Raises SettingsError with all problems.

    Without BINWATCH_MAX_WORKERS there are at most as many workers as ``cores``, and at most three.
    """
    most = min(MOST_WORKERS, cores or os.cpu_count() or 1)
    read = Numbers(environ)
    least = read("BINWATCH_MIN_WORKERS", 1, 1, 64)
    most = read("BINWATCH_MAX_WORKERS", max(most, least), 1, 64)
    if most < least:
        read.problems.append(f"BINWATCH_MAX_WORKERS is {most}, less than BINWATCH_MIN_WORKERS, {least}")
    target = read("BINWATCH_TARGET_UTILISATION", 0.7, 0.05, 0.95)
    window_s = read("BINWATCH_SCALE_WINDOW_S", 30.0, 5, 3600)
    cooldowns = [read(f"BINWATCH_SCALE_{way}_COOLDOWN_S", 30.0, 0, 3600) for way in ("OUT", "IN")]
    read.check()
    return ScalingPolicy(least, most, target, window_s, *cooldowns)
