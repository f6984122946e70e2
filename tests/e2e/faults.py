"""Faults in a running stack: a process is killed or a network is lost at a named moment of an execution.

A moment is seen, never guessed: MLflow says which step runs, TorchServe which versions it has loaded, the promoter's
log what it waits for. A service's main process is killed from this machine, as ``docker kill`` would count as stopped
by hand, after which the restart policy does nothing. That needs root, and an engine on this machine.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from serve.errors import ServerError, TrackingError
from serve.rollout.torchserve_client import LoadedVersion, Management
from tests.e2e.stack import Stack
from trainer.registry.entities import CHAMPION, RunInfo, Status, Version
from trainer.registry.mlflow_registry import Registry

POLL_S = 0.05
OUTAGE_S = 8.0
"""How long a network is lost."""
EVERY_S = 0.25
"""Between two requests of the background client."""
SERVICES = ("postgres", "mlflow", "serve", "gateway", "trainer", "promoter")


@dataclass(frozen=True)
class Case:
    """One fault. ``network``: the one that ``victim`` loses for OUTAGE_S; without, its process is killed."""

    moment: str
    victim: str
    network: str = ""

    def __str__(self) -> str:
        return f"{self.moment}-{self.victim}-{f'loses-{self.network}' if self.network else 'killed'}"


@dataclass(frozen=True)
class Asked:
    """One request of the background client; times are of the monotonic clock, ``failure`` is empty where it got its
    answer."""

    from_s: float
    to_s: float
    failure: str


@dataclass
class Client:
    """Asks about one photo again and again until it is stopped."""

    stack: Stack
    photo: bytes
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            start = time.monotonic()
            try:
                response = self.stack.ask(self.photo)
                failure = "" if response.ok else f"HTTP {response.status_code}: {response.text[:200]}"
            except requests.RequestException as error:
                failure = repr(error)
            self.asked.append(Asked(start, time.monotonic(), failure))
            self._stop.wait(EVERY_S)

    def failures(self, down: tuple[float, float] | None) -> list[str]:
        """What failed and did not touch the time in which the server itself was down."""
        outside = [each for each in self.asked if not down or each.to_s < down[0] or each.from_s > down[1]]
        return [each.failure for each in outside if each.failure]


class Scene:
    """What can be seen of the stack while an execution goes on. ``before``: the newest version when it began."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.registry = Registry(f"http://127.0.0.1:{stack.mlflow_port}")
        found = ["docker", "volume", "inspect", "--format", "{{.Mountpoint}}", name_of(stack, "management")]
        volume = subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip()
        self._management_url = f"unix:{volume}/management.sock"
        self.base = self.champion()
        self.before = int(self.registry.versions()[0].number)
        self.executions = {each.id for each in self._executions()}
        self.since = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout.strip()

    def _executions(self) -> list[RunInfo]:
        return self.registry.runs("tags.`binwatch.kind` = 'execution'")

    def execution(self) -> RunInfo | None:
        """The run of the execution."""
        return next((each for each in self._executions() if each.id not in self.executions), None)

    def runs(self, step: str) -> bool:
        """Whether a step runs."""
        execution = self.execution()
        steps = self.registry.nested(execution.id) if execution else []
        return any((each.name, each.status) == (step, "RUNNING") for each in steps)

    def champion(self) -> str:
        """The version that the alias names."""
        found = self.registry.alias(CHAMPION)
        return found.number if found else ""

    def new(self) -> Version | None:
        """The version that the execution has registered."""
        newest = self.registry.versions()[0]
        return newest if int(newest.number) > self.before else None

    def loaded(self) -> dict[str, LoadedVersion]:
        """What TorchServe has loaded; nothing while it is down. Each time over a connection of its own: TorchServe may
        have bound one that is kept to the thread that loads a model for seconds."""
        try:
            return {each.version: each for each in Management(self._management_url, timeout_s=10).loaded()}
        except ServerError:
            return {}

    def newcomer(self) -> LoadedVersion | None:
        """The loaded version that was not there before."""
        return next((each for each in self.loaded().values() if int(each.version) > self.before), None)

    def answering(self) -> str:
        """The version that answers requests without a version."""
        return next((each.version for each in self.loaded().values() if each.default and each.ready), "")

    def rests(self, champion: str) -> bool:
        """Whether nothing goes on and ``champion`` alone is loaded; the registry knows it as promoted."""
        known = self.registry.alias(CHAMPION)
        settled = known is not None and (known.number, known.status) == (champion, Status.PROMOTED)
        ended = all(each.status != "RUNNING" for each in self._executions())
        return settled and ended and set(self.loaded()) == {self.answering()} == {champion}

    def said(self, service: str) -> str:
        """What a service has logged since the scene began."""
        words = ["docker", "logs", "--since", self.since, container(self.stack, service)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


def _loading(scene: Scene) -> bool:
    found = scene.newcomer()
    return found is not None and not found.ready


def _tried(scene: Scene) -> bool:
    found = scene.newcomer()
    return found is not None and found.ready > 0 and not found.default


def _crowned(scene: Scene) -> bool:
    return scene.champion() != scene.base and scene.answering() == scene.base


def _watched(scene: Scene) -> bool:
    found = scene.newcomer()
    return found is not None and found.default and scene.base in scene.loaded()


def _retiring(scene: Scene) -> bool:
    return "was watched for" in scene.said("promoter") and scene.base in scene.loaded()


def _registered(scene: Scene) -> bool:
    return scene.new() is not None


MOMENTS: dict[str, Callable[[Scene], bool]] = {
    "train": lambda scene: scene.runs("train"),
    "evaluate": lambda scene: scene.runs("evaluate"),
    "gate": lambda scene: scene.runs("gate"),
    "register": _registered,
    "load": _loading,
    "canary": _tried,
    "alias": _crowned,
    "watch": _watched,
    "retire": _retiring,
}
"""The steps of an execution and of its promotion, and how each is seen."""


def wait_for(what: str, seen: Callable[[], bool], timeout_s: float) -> float:
    """Wait until ``seen``; returns when, by the monotonic clock. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if seen():
                return time.monotonic()
        except TrackingError:
            pass  # MLflow is down at the moment
        time.sleep(POLL_S)
    raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")


def container(stack: Stack, service: str) -> str:
    """The id of a service's container."""
    return stack.compose("ps", "--all", "--quiet", service).stdout.strip()


def inspect(stack: Stack, service: str) -> dict[str, Any]:
    """What Docker says of a service's container."""
    done = subprocess.run(["docker", "inspect", container(stack, service)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout)[0])


def name_of(stack: Stack, part: str) -> str:
    """The name that Docker knows a network or volume of the stack by."""
    return f"{stack.env['COMPOSE_PROJECT_NAME']}_{part}"


def fault(stack: Stack, case: Case) -> Callable[[], float]:
    """Prepare a fault, so that it strikes at once when it is called; it returns when, by the monotonic clock."""
    found = inspect(stack, case.victim)
    if not case.network:

        def kill() -> float:
            struck, process = time.monotonic(), Path(f"/proc/{found['State']['Pid']}")
            os.kill(int(process.name), signal.SIGKILL)
            while process.exists():  # it ends last of its container's processes, which answer until then
                time.sleep(0.01)
            return struck

        return kill
    network = name_of(stack, case.network)
    given = found["NetworkSettings"]["Networks"][network]["Aliases"]
    aliases = [word for alias in given if alias not in found["Id"] for word in ("--alias", alias)]

    def lose() -> float:
        subprocess.run(["docker", "network", "disconnect", network, found["Id"]], check=True)
        struck = time.monotonic()
        time.sleep(OUTAGE_S)
        subprocess.run(["docker", "network", "connect", *aliases, network, found["Id"]], check=True)
        return struck

    return lose
