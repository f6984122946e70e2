"""The runner ``ray``: a job is a placement group of a Ray cluster, with an actor on each of its hosts.

A lost host costs the epoch that was going on: the job starts again where there is room, from its checkpoint.
"""

import json
import logging
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serve.errors import SettingsError, TrainingError
from trainer.experiments.runners.job import EPOCHS, GRACE_S, Job
from trainer.experiments.runners.job_host import HostAddress, JobHost, JobPlace, Progress

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.placement_group import PlacementGroup

STOPPED = 128 + signal.SIGTERM
MAX_LOSSES = 5
"""A job that loses its hosts so often without a new epoch is the likely cause."""
log = logging.getLogger(__name__)
_connecting = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class RayRunner:
    """Where jobs run. ``cpus``, ``gpus``: of each of a job's ``hosts``; ``address``: of the cluster's head."""

    address: str
    cpus: float = 1.0
    gpus: float = 0.0
    hosts: int = 1
    place: JobPlace = field(default_factory=JobPlace)

    def connect(self) -> None:
        """Join the cluster. Raises SettingsError if Ray is not installed, or no cluster answers."""
        if not self.address:
            raise SettingsError(
                "the runner ray needs a cluster; give its head as --ray-address or RAY_ADDRESS, HOST:PORT"
            )
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SettingsError("the runner ray needs Ray: pip install -r requirements/ray.txt") from error
        with _connecting:
            if not ray.is_initialized():
                self._init()

    def _init(self) -> None:
        import ray

        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address, namespace="binwatch", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SettingsError(
                f"no Ray cluster answers at {self.address} ({error}); start one with `ray start --head`, and join this "
                "machine to it with `ray start --address=HOST:PORT`"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
        self._warn_if_too_small()

    def __call__(self, job: Job) -> "RayJob":
        """Start ``job`` as soon as the cluster has room for it."""
        self.connect()
        return RayJob(job, self)

    def bundles(self) -> list[dict[str, float]]:
        """What each host of a job takes, in Ray's terms."""
        return [{"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})} for _ in range(self.hosts)]

    def _warn_if_too_small(self) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        fitting = [node for node in nodes if all(node.get(key, 0) >= value for key, value in self.bundles()[0].items())]
        if len(fitting) < self.hosts:
            log.warning(
                "a job takes %d hosts with %s; the cluster has %d such, so jobs wait for more",
                self.hosts,
                json.dumps(self.bundles()[0]),
                len(fitting),
            )


class RayJob:
    """A job on a cluster."""

    def __init__(self, job: Job, runner: RayRunner) -> None:
        self._job, self._runner = job, runner
        self._code: int | None = None
        self._losses, self._ended, self._epochs = 0, 0, ""
        self._start()

    def _start(self) -> None:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._group: PlacementGroup = placement_group(self._runner.bundles(), strategy="STRICT_SPREAD")
        self._hosts: list[Any] = [
            ray.remote(JobHost)
            .options(
                num_cpus=self._runner.cpus,
                num_gpus=self._runner.gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number),
            )
            .remote(self._job, self._runner.place)
            for number in range(self._runner.hosts)
        ]
        self._addresses: list[ObjectRef[HostAddress]] | None = [host.address.remote() for host in self._hosts]
        self._polls: list[ObjectRef[Progress]] = []

    def poll(self) -> int | None:
        """The exit code; None while the job waits or runs. Raises TrainingError when it loses hosts again and again."""
        from ray.exceptions import ActorUnavailableError, RayActorError

        try:
            self._code = self._poll() if self._code is None else self._code
            return self._code
        except ActorUnavailableError:
            self._polls = []  # the network may come back, and Ray says when it has given the host up
            return None
        except RayActorError as error:
            self._restart(error)
            return None

    def _poll(self) -> int | None:
        import ray

        if self._addresses is not None:
            if ray.wait(self._addresses, num_returns=len(self._hosts), timeout=0)[1]:
                return None
            self._join(ray.get(self._addresses))
        if not self._polls:
            self._polls = [host.poll.remote() for host in self._hosts]
        if ray.wait(self._polls, num_returns=len(self._hosts), timeout=0)[1]:
            return None
        reports, self._polls = ray.get(self._polls), []
        self._record(reports)
        codes = [report.code for report in reports]
        if None in codes and not any(codes):
            return None
        self._end()
        return next(filter(None, codes), 0)

    def _join(self, addresses: list[HostAddress]) -> None:
        """Start the job's program on all hosts; torchrun's ranks are in the order of their names."""
        ranked = sorted(zip(addresses, self._hosts, strict=True), key=lambda pair: pair[0].host)
        hosts = [address for address, _ in ranked]
        if len({address.host for address in hosts}) < len(hosts):
            raise TrainingError(f"two hosts of the cluster have the address {hosts[0].host}; start each with its own")
        self._hosts, self._addresses = [actor for _, actor in ranked], None
        for rank, actor in enumerate(self._hosts):
            actor.start.remote(hosts, rank)

    def _record(self, reports: list[Progress]) -> None:
        """Write what the first host has reported where the driver reads it, if the hosts share no folder with it."""
        first = reports[0]
        failure = next((report.failure for report in reports if report.failure), "")
        output = self._job.base / "output"
        if failure and not (output / "failure").is_file():
            (output / "failure").write_text(failure)
        if self._runner.place.results and first.epochs != self._epochs:
            (output / EPOCHS).write_text(first.epochs)
        self._epochs, ended = first.epochs, first.epochs.count("\n")
        if ended > self._ended:
            self._ended, self._losses = ended, 0

    def _restart(self, error: Exception) -> None:
        self._losses += 1
        self._release()
        reason = str(error).splitlines()[0]
        if self._losses > MAX_LOSSES:
            raise TrainingError(
                f"the job in {self._job.base} lost a host {self._losses} times without a new epoch; see why: {reason}"
            )
        log.warning("%s lost a host and starts again from its checkpoint: %s", self._job.base.name, reason)
        self._start()

    def stop(self) -> None:
        """Send SIGTERM, and after GRACE_S SIGKILL."""
        from ray.exceptions import RayActorError

        if self._code is not None:
            return
        self._code = STOPPED
        try:
            self._end()
        except RayActorError as error:
            log.warning("%s lost a host while it stopped: %s", self._job.base.name, error)

    def _end(self) -> None:
        """Stop what still runs, and give the hosts back. Raises RayActorError if one of them is lost.

        A program that fails because another host is lost fails before Ray knows of the loss, which this waits for.
        """
        import ray

        try:
            if self._addresses is None:
                ray.get([host.stop.remote() for host in self._hosts], timeout=2 * GRACE_S)
                ray.get([host.close.remote() for host in self._hosts])
        finally:
            self._release()

    def _release(self) -> None:
        import ray
        from ray.util.placement_group import remove_placement_group

        for host in self._hosts:
            ray.kill(host)
        remove_placement_group(self._group)
