"""The time after a switch: is the new version as good on live traffic as its canary was? Pure, but for ``policy_from``.

For a while the old version stays loaded. What TorchServe counts of requests without a version is compared with what it
counted before the switch, and golden photos are asked through the same address as everybody's photos. A fault sends
the new version back; where there is none until the end, the old one is unloaded.

Traffic moves whole, by ``Rollout.switch``. With several servers it can move in shares, or as a copy that nobody is
answered with: then each share is a switch with a probation of its own, judged by the same function.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from serve.environment import Numbers


@dataclass(frozen=True)
class ProbationPolicy:
    """How long a new version is watched, and what is a fault.

    ``error_share``: how much larger (0-1) the share of failed requests may be than before; ``latency_ms``: a mean
    latency up to this is never one; ``latency_times``: above that, how many times the latency before it may reach;
    ``least_requests``: fewer say nothing; ``failed_probes``: so many golden photos without the promised answer are one.
    """

    duration_s: float = 0.0
    error_share: float = 0.05
    latency_ms: float = 250.0
    latency_times: float = 3.0
    least_requests: int = 20
    failed_probes: int = 3


@dataclass(frozen=True)
class Traffic:
    """What requests without a version came to: how many, how many failed, how many a worker answered and in how
    many seconds altogether. Since TorchServe started, or, subtracted, in between."""

    requests: float = 0.0
    failed: float = 0.0
    answered: float = 0.0
    seconds: float = 0.0

    def since(self, before: "Traffic") -> "Traffic | None":
        """What was added; None where TorchServe has begun to count again."""
        if self.requests < before.requests or self.answered < before.answered:
            return None
        return Traffic(
            self.requests - before.requests,
            self.failed - before.failed,
            self.answered - before.answered,
            self.seconds - before.seconds,
        )

    @property
    def failed_share(self) -> float:
        """0-1."""
        return min(1.0, self.failed / self.requests) if self.requests else 0.0

    @property
    def mean_ms(self) -> float:
        """From a request's arrival to its answer."""
        return 1000 * self.seconds / self.answered if self.answered else 0.0

    def __str__(self) -> str:
        return f"{self.requests:.0f} requests, {self.failed_share:.1%} failed, {self.mean_ms:.0f} ms on average"


@dataclass(frozen=True)
class Observation:
    """One look at a version on probation: ``over`` when it has lasted long enough; ``fault``: what is wrong with it,
    if something is; ``said``: what was seen."""

    over: bool
    fault: str
    said: str


def assess(
    policy: ProbationPolicy,
    elapsed_s: float,
    before: Traffic | None,
    now: Traffic | None,
    failed_probes: tuple[str, ...],
) -> Observation:
    """``before``, ``now``: the traffic before and since the switch, None where it is not known; ``failed_probes``: what
    was wrong with the answer to a golden photo, each time that something was."""
    known = before if before and before.requests >= policy.least_requests else None
    said = (
        f"{elapsed_s:.0f} s of {policy.duration_s:.0f} s: {now or 'no counted requests'} (before: {known or 'unknown'})"
    )
    faults = [] if now is None or now.requests < policy.least_requests else _traffic_faults(policy, known, now)
    if len(failed_probes) >= policy.failed_probes:
        faults.append(f"{len(failed_probes)} golden photos did not get the promised answer: {failed_probes[-1]}")
    return Observation(elapsed_s >= policy.duration_s, "; ".join(faults), said)


def _traffic_faults(policy: ProbationPolicy, before: Traffic | None, now: Traffic) -> list[str]:
    faults = []
    allowed = policy.error_share + (before.failed_share if before else 0.0)
    if now.failed_share > allowed:
        faults.append(f"{now.failed_share:.1%} of {now.requests:.0f} requests failed, at most {allowed:.1%} may")
    allowed_ms = max(policy.latency_ms, policy.latency_times * before.mean_ms if before else 0.0)
    if now.mean_ms > allowed_ms:
        faults.append(f"requests take {now.mean_ms:.0f} ms on average, at most {allowed_ms:.0f} ms are allowed")
    return faults


def policy_from(environ: Mapping[str, str] = os.environ) -> ProbationPolicy:
    """The policy that the environment sets. Raises SettingsError with all problems."""
    read, name = Numbers(environ), "BINWATCH_WATCH_"
    policy = ProbationPolicy(
        read(name + "S", 30.0, 0, 3600),
        read(name + "ERROR_SHARE", 0.05, 0, 1),
        read(name + "LATENCY_MS", 250.0, 1, 60_000),
        read(name + "LATENCY_TIMES", 3.0, 1, 100),
        read(name + "MIN_REQUESTS", 20, 1, 1_000_000),
        read(name + "FAILED_PROBES", 3, 1, 1000),
    )
    read.check()
    return policy
