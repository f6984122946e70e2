"""The probation after a switch: does the new version do well on live traffic, too? Pure functions.

For a while the old version stays loaded. The version's handler counts the photos that its model answered and those at
which it failed; these are compared with the old version's before the switch, and golden photos are sent to the default
version like live traffic. A fault triggers a rollback; if there is none until the end, the old version is unloaded.

Only the model speaks against a version: neither requests that TorchServe or the handler refuses, nor photos that cannot
be read, nor a store that is away, nor a queue that somebody fills. Anybody who reaches the port could cause those.

``Rollout.switch`` moves all traffic at once; with several servers their measurements are summed. A trial before the
switch (``trainer/promotion/trials.py``) moves it in shares.
"""

from dataclasses import dataclass, replace

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from serve.settings import Settings

HANG_S = 60.0
"""``default_response_timeout`` in serve/torchserve/config.properties. Photos that are slow to download and decode
keep a worker busy for less time (``PATIENCE_S`` in serve/answers.py)."""


class ProbationPolicy(Settings):
    """How long a new version is watched, and what counts as a fault. ``duration_s`` 0: no probation."""

    model_config = SettingsConfigDict(env_prefix="BINWATCH_WATCH_")

    duration_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        validation_alias="BINWATCH_WATCH_S",
        description="seconds that a new champion is watched while the old one stays loaded; 0: not at all",
    )
    error_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="by how much the share of photos at which the model fails may rise above the share before",
    )
    latency_ms: float = Field(
        default=250.0,
        ge=1,
        le=60_000,
        description="mean milliseconds of the model per photo up to this are never a fault",
    )
    latency_times: float = Field(
        default=3.0, ge=1, le=100, description="above that, how many times the milliseconds before are allowed"
    )
    least_requests: int = Field(
        default=20,
        ge=1,
        le=1_000_000,
        validation_alias="BINWATCH_WATCH_MIN_REQUESTS",
        description="errors and latency count only after this many photos",
    )
    failed_probes: int = Field(
        default=3, ge=1, le=1000, description="how many golden photos without the promised answer are a fault"
    )


@dataclass(frozen=True)
class Traffic:
    """What a version's model did: the photos that it answered, those at which it failed, and the seconds that it took
    for both. Since TorchServe started or, as a difference, within a span of time."""

    answered: float = 0.0
    failed: float = 0.0
    seconds: float = 0.0

    @property
    def photos(self) -> float:
        """All photos that the model got."""
        return self.answered + self.failed

    def since(self, before: "Traffic") -> "Traffic | None":
        """The traffic since ``before``; None where TorchServe was restarted, so that its counters began again."""
        if self.answered < before.answered or self.failed < before.failed:
            return None
        return Traffic(self.answered - before.answered, self.failed - before.failed, self.seconds - before.seconds)

    @property
    def failed_share(self) -> float:
        """The share of photos at which the model failed, 0-1."""
        return self.failed / self.photos if self.photos else 0.0

    @property
    def mean_ms(self) -> float:
        """The model's mean time per photo."""
        return 1000 * self.seconds / self.photos if self.photos else 0.0

    def __str__(self) -> str:
        return f"{self.photos:.0f} photos, {self.failed_share:.1%} failed, {self.mean_ms:.0f} ms on average"


@dataclass(frozen=True)
class Silence:
    """A time in which no golden photo is answered: its start, and how many batches the workers had answered by then."""

    start_s: float
    batches: float

    def is_fault(self, now_s: float, batches: float) -> bool:
        """Whether the workers hang: they answered nothing at all for longer than any batch may take."""
        return batches == self.batches and now_s - self.start_s >= HANG_S


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is known of a version on probation. ``before``, ``now``: the traffic before and since the switch, None where
    it is not known; ``failures``: the reason of each golden photo that did not get the promised answer; ``answered``:
    whether the latest one did."""

    elapsed_s: float
    before: Traffic | None = None
    now: Traffic | None = None
    failures: tuple[str, ...] = ()
    answered: bool = True

    def plus(self, measurement: "Measurement") -> "Measurement":
        """Both together, for a version on several servers: it has been watched as long as on the latest of them."""
        return Measurement(
            elapsed_s=min(self.elapsed_s, measurement.elapsed_s),
            before=_sum(self.before, measurement.before),
            now=_sum(self.now, measurement.now),
            failures=self.failures + measurement.failures,
            answered=self.answered and measurement.answered,
        )

    def assessed(self, policy: ProbationPolicy) -> "Observation":
        """What ``policy`` says of it: the probation ends with a golden photo that gets the promised answer."""
        observation = assess(policy, self.elapsed_s, self.before, self.now, self.failures)
        return replace(observation, over=observation.over and self.answered)


@dataclass(frozen=True)
class Observation:
    """The state of a probation. ``over``: whether it has lasted long enough; ``fault``: the reason for a rollback,
    empty for none; ``summary``: duration and traffic, for the log."""

    over: bool
    fault: str
    summary: str


def assess(
    policy: ProbationPolicy,
    elapsed_s: float,
    before: Traffic | None,
    now: Traffic | None,
    failed_probes: tuple[str, ...],
) -> Observation:
    """Assess a version on probation.

    ``before``, ``now``: the traffic before and since the switch, None where it is not known; ``failed_probes``: the
    reason of each golden photo that did not get the promised answer.
    """
    known = before if before and before.photos >= policy.least_requests else None
    summary = (
        f"{elapsed_s:.0f} s of {policy.duration_s:.0f} s: {now or 'no counted photos'} (before: {known or 'unknown'})"
    )
    faults = [] if now is None or now.photos < policy.least_requests else _traffic_faults(policy, known, now)
    if len(failed_probes) >= policy.failed_probes:
        faults.append(f"{len(failed_probes)} golden photos did not get the promised answer: {failed_probes[-1]}")
    return Observation(elapsed_s >= policy.duration_s, "; ".join(faults), summary)


def _sum(first: Traffic | None, second: Traffic | None) -> Traffic | None:
    """The traffic of both; where one is not known, that of the other."""
    if first is None or second is None:
        return first or second
    return Traffic(first.answered + second.answered, first.failed + second.failed, first.seconds + second.seconds)


def _traffic_faults(policy: ProbationPolicy, before: Traffic | None, now: Traffic) -> list[str]:
    faults = []
    allowed = policy.error_share + (before.failed_share if before else 0.0)
    if now.failed_share > allowed:
        faults.append(
            f"the model failed at {now.failed_share:.1%} of {now.photos:.0f} photos, at most {allowed:.1%} may"
        )
    allowed_ms = max(policy.latency_ms, policy.latency_times * before.mean_ms if before else 0.0)
    if now.mean_ms > allowed_ms:
        faults.append(
            f"a photo takes the model {now.mean_ms:.0f} ms on average, at most {allowed_ms:.0f} ms are allowed"
        )
    return faults
