"""One server of the fleet: its rollout, its autoscaler, and whether it could be reached in this round."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from serve.rollout.autoscale import MAX_WORKERS, Autoscaler, Decision, ScalingPolicy
from serve.rollout.probation import ProbationPolicy
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from trainer.promotion.fleet.server_addresses import ServerAddress

SILENCE_S = 10.0
"""A server that takes longer to say what it has loaded counts as down."""
NO_DECISION = Decision(0, "nothing was measured yet")


@dataclass(frozen=True, kw_only=True)
class InstancePlan:
    """How the server side of an instance is built. ``archives_url``: where it fetches archives from; empty where it
    shares the model store."""

    store: Path
    workers: int | None = None
    probation: ProbationPolicy = field(default_factory=ProbationPolicy)
    scaling: ScalingPolicy | None = None
    archives_url: str = ""


class Instance:
    """A server. ``reachable``: whether it has answered since the round began; ``decision``: of its autoscaler."""

    def __init__(self, address: ServerAddress, plan: InstancePlan, announce: Callable[[str, str], object]) -> None:
        """``announce``: called with its published address and the version that answers there, while a stand-in does."""
        self.address, self.name = address, address.inference.removeprefix("http://")
        self.reachable, self.decision = True, NO_DECISION
        management, metrics = Management(address.management), Metrics(address.metrics)
        workers = plan.workers or min(MAX_WORKERS, len(os.sched_getaffinity(0)))
        inference = Inference(address.inference)
        self.rollout = Rollout(inference, management, plan.store, workers, metrics, plan.probation, plan.archives_url)
        self._quick_management = Management(address.management, SILENCE_S)
        self._announce = announce
        self._autoscaler = Autoscaler(management, metrics, self, plan.scaling) if plan.scaling else None

    @property
    def workers(self) -> int:
        """How many a version starts with."""
        return self.rollout.workers

    @workers.setter
    def workers(self, workers: int) -> None:
        self.rollout.workers = workers

    def serving(self) -> str | None:
        """The version that it answers with, if it does. Raises ServerError after a short time."""
        self._quick_management.loaded()
        return self.rollout.serving()

    def resize(self, version: str, workers: int) -> None:
        """Set the number of workers of the default version, without dropping a request."""
        self.rollout.resize(version, workers, partial(self._announce, self.address.published))

    def scale(self) -> Decision:
        """One step of the autoscaler, if there is one. Raises ServerError."""
        if self._autoscaler:
            self.decision = self._autoscaler.step()
        return self.decision
