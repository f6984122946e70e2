"""How many servers are wanted, above the autoscaling of workers within each: a pure function.

A server is full when it has all the workers that it may have. As many are wanted as keep the busy share of all these
workers near the target: ceil(busy workers / (target * workers of a full server)), as for the workers of one server.
Fewer are wanted only where the rest then stays clearly below the target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, ValidationInfo, field_validator

from serve.rollout.autoscale import IN_MARGIN, Decision, ScalingPolicy
from serve.settings import Settings


class InstancePolicy(Settings):
    """How many servers there may be; the defaults are the report's (docs/background.md)."""

    fewest: int = Field(
        default=1,
        ge=1,
        le=100,
        validation_alias="BINWATCH_MIN_INSTANCES",
        description="the smallest number of servers that is asked for",
    )
    most: int = Field(
        default=3,
        ge=1,
        le=100,
        validation_alias="BINWATCH_MAX_INSTANCES",
        description="the largest number of servers that is asked for",
    )

    @field_validator("most")
    @classmethod
    def _at_least_the_fewest(cls, most: int, info: ValidationInfo) -> int:
        fewest = info.data.get("fewest", most)
        if most < fewest:
            raise ValueError(f"give BINWATCH_MIN_INSTANCES, {fewest}, or more")
        return most


@dataclass(frozen=True, kw_only=True)
class InstanceDecision:
    """How many servers to have, and the reason."""

    serving: int
    instances: int
    reason: str

    def __str__(self) -> str:
        return f"servers that serve: {self.serving}, wanted: {self.instances}; {self.reason}"


def decide_instances(decisions: Sequence[Decision], scaling: ScalingPolicy, policy: InstancePolicy) -> InstanceDecision:
    """How many servers are wanted. ``decisions``: what the autoscaler of each serving one last decided."""
    serving = len(decisions)
    within = max(policy.fewest, min(policy.most, serving))
    if not decisions or any(decision.busy is None for decision in decisions):
        return InstanceDecision(serving=serving, instances=within, reason="not all servers are measured yet")
    busy = sum((decision.busy or 0.0) * decision.workers for decision in decisions)
    full = scaling.target * scaling.most
    instances = max(1, math.ceil(busy / full - 1e-9))
    if instances < serving and busy > IN_MARGIN * full * (serving - 1):
        instances = serving
    reason = f"{busy:.1f} workers are busy, a server has up to {scaling.most}, target {scaling.target:.0%}"
    return InstanceDecision(serving=serving, instances=max(policy.fewest, min(policy.most, instances)), reason=reason)
