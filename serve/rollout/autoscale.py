"""Autoscaling by target tracking: the number of workers that keeps their busy share near a target.

    python scripts/promote.py --watch --autoscale      the promoter does it, between two reconciliations
    python scripts/promote.py --watch --dry-run        only log the decisions

The busy share of the workers over a window is

    (seconds that workers held a batch) / (seconds of the window * workers)

TorchServe counts, for each request, the time from leaving the queue to its answer, so a batch of b requests counts b
times: the numerator is (sum of that time) * batches / requests. The busy share is 1 if no worker is ever idle.

Method: https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
Scaling out goes to ceil(workers * busy share / target) at once. Scaling in removes one worker at a time, and only if
the others then stay clearly below the target. The cool-down after scaling out delays the next step in both directions;
the one after scaling in delays only the next step in.

The default policy is that of the report (docs/background.md).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

from pydantic import Field, ValidationInfo, field_validator

from serve.errors import ServerError
from serve.rollout.torchserve_client import LoadedVersion, Work
from serve.settings import Settings

log = logging.getLogger(__name__)

MAX_WORKERS = 3
IN_MARGIN = 0.9
"""A worker is removed only if the others then stay below this share of the target, so that workers do not flap."""


class ScalingPolicy(Settings):
    """How the number of workers follows the load; the defaults are the report's (docs/background.md)."""

    least: int = Field(
        default=1,
        ge=1,
        le=64,
        validation_alias="BINWATCH_MIN_WORKERS",
        description="the smallest number of workers that autoscaling leaves",
    )
    most: int = Field(
        default=MAX_WORKERS,
        ge=1,
        le=64,
        validation_alias="BINWATCH_MAX_WORKERS",
        description="the largest number of workers; unless set, no more than the machine has cores",
    )
    target: float = Field(
        default=0.7,
        ge=0.05,
        le=0.95,
        validation_alias="BINWATCH_TARGET_UTILISATION",
        description="the share of their time that workers shall be busy",
    )
    window_s: float = Field(
        default=30.0,
        ge=5,
        le=3600,
        validation_alias="BINWATCH_SCALE_WINDOW_S",
        description="seconds over which the busy share is measured",
    )
    out_cooldown_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        validation_alias="BINWATCH_SCALE_OUT_COOLDOWN_S",
        description="seconds without a change after workers were added",
    )
    in_cooldown_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        validation_alias="BINWATCH_SCALE_IN_COOLDOWN_S",
        description="seconds without a removal after a worker was removed",
    )

    @field_validator("most")
    @classmethod
    def _at_least_the_least(cls, most: int, info: ValidationInfo) -> int:
        least = info.data.get("least", most)
        if most < least:
            raise ValueError(f"give BINWATCH_MIN_WORKERS, {least}, or more")
        return most

    def fitted_to(self, cores: int) -> "ScalingPolicy":
        """With a ``most`` that nobody set, as many workers as ``cores`` at most, but no fewer than ``least``."""
        if "most" in self.model_fields_set:
            return self
        return self.model_copy(update={"most": max(self.least, min(self.most, cores))})


@dataclass(frozen=True)
class Sample:
    """A measurement: the default version, its workers, and the work done since TorchServe started."""

    at_s: float
    version: str
    workers: int
    work: Work


@dataclass(frozen=True)
class Change:
    """The last change of the number of workers, and whether it was scaled out."""

    at_s: float
    out: bool


@dataclass(frozen=True)
class Decision:
    """The number of workers to have, and the reason; ``busy``: the busy share (0-1), if it is known."""

    workers: int
    reason: str
    busy: float | None = None


def decide(samples: Sequence[Sample], now_s: float, last: Change | None, policy: ScalingPolicy) -> Decision:
    """The number of workers for the default version. ``samples``: oldest first."""
    if not samples or now_s - samples[-1].at_s > policy.window_s:
        return Decision(samples[-1].workers if samples else 0, "there is no fresh measurement")
    workers = samples[-1].workers
    if workers < policy.least:
        return Decision(policy.least, f"{workers} workers are fewer than the minimum, {policy.least}")
    measured = comparable(samples, now_s, policy.window_s)
    span_s = measured[-1].at_s - measured[0].at_s
    if span_s < policy.window_s:
        return Decision(workers, f"{span_s:.0f} s of {policy.window_s:.0f} s are measured since the last change")
    busy = busy_share(measured[0], measured[-1])
    return replace(_tracked(workers, busy, now_s, last, policy), busy=busy)


def _tracked(workers: int, busy: float, now_s: float, last: Change | None, policy: ScalingPolicy) -> Decision:
    reason = f"workers are busy {busy:.0%} of the time, target {policy.target:.0%}"
    target_workers = max(policy.least, min(policy.most, math.ceil(workers * busy / policy.target - 1e-9)))
    if target_workers > workers:
        if last and last.out and now_s - last.at_s < policy.out_cooldown_s:
            return Decision(workers, f"{reason}; cooling down after scaling out")
        return Decision(target_workers, reason)
    can_lose_one = workers > policy.most or workers * busy <= IN_MARGIN * policy.target * (workers - 1)
    if target_workers == workers or not can_lose_one:
        return Decision(workers, reason)
    if last and now_s - last.at_s < (policy.out_cooldown_s if last.out else policy.in_cooldown_s):
        return Decision(workers, f"{reason}; cooling down")
    return Decision(workers - 1, reason)


def comparable(samples: Sequence[Sample], now_s: float, window_s: float) -> Sequence[Sample]:
    """The newest samples that can be compared: of the same version and number of workers, with counters that only grow.

    They cover at least one window if there are enough of them, and are less than two windows old.
    """
    start = len(samples) - 1
    while start > 0 and now_s - samples[start].at_s < window_s and _continues(samples[start - 1], samples[start]):
        start -= 1
    return [sample for sample in samples[start:] if now_s - sample.at_s < 2 * window_s]


def _continues(before: Sample, after: Sample) -> bool:
    same = (before.version, before.workers) == (after.version, after.workers)
    return same and before.work.answered <= after.work.answered and before.work.batches <= after.work.batches


def busy_share(before: Sample, after: Sample) -> float:
    """The share of the time between two samples (0-1) that the workers held a batch."""
    answered = after.work.answered - before.work.answered
    batches = after.work.batches - before.work.batches
    held_s = max(0.0, after.work.held_s - before.work.held_s)
    share = min(1.0, batches / answered) if answered and batches else 1.0
    return min(1.0, held_s * share / ((after.at_s - before.at_s) * after.workers))


class VersionSource(Protocol):
    """Lists the loaded versions, as ``torchserve_client.Management`` does."""

    def loaded(self) -> list[LoadedVersion]:
        """All loaded versions."""


class WorkSource(Protocol):
    """Counts the work done, as ``torchserve_client.Metrics`` does."""

    def work(self) -> Work:
        """The work done so far."""


class WorkerPool(Protocol):
    """Changes the number of workers, as ``rollout.Rollout`` does. ``workers``: how many a new version starts with."""

    workers: int

    def resize(self, version: str, workers: int) -> None:
        """Set the number of workers of the default version, without dropping a request."""


class Autoscaler:
    """Measures one server and carries out the decisions. ``dry_run``: only logs them."""

    def __init__(
        self,
        management: VersionSource,
        metrics: WorkSource,
        server: WorkerPool,
        policy: ScalingPolicy,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._management, self._metrics, self._server = management, metrics, server
        self._policy, self._dry_run, self._clock = policy, dry_run, clock
        self._samples: list[Sample] = []
        self._last: Change | None = None

    def step(self) -> Decision:
        """Measure, decide, act. Raises ServerError; the next step can retry.

        The default version is scaled only while no other version is loaded, so as not to interfere with a promotion.
        Versions that are loaded later start with the same number of workers.
        """
        versions = self._management.loaded()
        if len(versions) != 1 or not versions[0].ready:
            self._samples.clear()
            return Decision(0, f"{len(versions)} versions are loaded; only a single, ready version is scaled")
        now_s, version = self._clock(), versions[0]
        self._samples.append(Sample(now_s, version.version, version.workers, self._metrics.work()))
        self._samples = [sample for sample in self._samples if now_s - sample.at_s < 2 * self._policy.window_s]
        decision = decide(self._samples, now_s, self._last, self._policy)
        if decision.workers != version.workers:
            self._change(version, decision)
        if not self._dry_run:
            self._server.workers = decision.workers
        return decision

    def _change(self, version: LoadedVersion, decision: Decision) -> None:
        change = (version.version, version.workers, decision.workers, decision.reason)
        if self._dry_run:
            log.info("version %s would be scaled from %d to %d workers: %s", *change)
            return
        try:
            self._server.resize(version.version, decision.workers)
            log.info("version %s was scaled from %d to %d workers: %s", *change)
        finally:  # a failed step waits for the cool-down, too
            self._last = Change(self._clock(), decision.workers > version.workers)
            self._samples.clear()


def watch(scaler: Autoscaler, interval_s: float, stop: Event) -> None:
    """Run a step every ``interval_s`` seconds until ``stop``, and log a decision when it differs from the last one."""
    last = ""
    while not stop.is_set():
        try:
            decision = scaler.step()
            text = f"{decision.workers} workers: {decision.reason}"
        except ServerError as error:
            text = f"{error}; retrying in {interval_s:.0f} s"
        if text != last:
            log.info(text)
        last = text
        stop.wait(interval_s)
