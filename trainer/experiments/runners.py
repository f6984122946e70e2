"""Jobs and runners: a training job is a value, a runner starts it somewhere.

A job is laid out as SageMaker lays out a training container, so that every runner starts the same
thing, the word ``train``:

    BASE/input/config/hyperparameters.json    what is to be trained
    BASE/input/data/training                  the photos, or a prepared dataset
    BASE/checkpoints/                         an interrupted job that is started again goes on from here
    BASE/output/epochs.jsonl, failure         how it goes, and why it failed
    BASE/model/                               what it made

``process`` runs it beside us, ``docker`` in a container of the trainer's image. Another engine is
another function from a Job to a Running.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from serve.errors import SettingsError, TrainingError
from trainer.data import abid, prepared

EPOCHS = "epochs.jsonl"
GRACE_S = 120
"""Seconds between SIGTERM and SIGKILL: as long as SageMaker gives a spot instance."""
POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """One training job. ``image`` and ``gpu`` matter to runners that start containers."""

    base: Path
    data: Path
    hyperparameters: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = "binwatch-trainer"
    gpu: bool = False

    def lay_out(self) -> None:
        """Write what the job reads, and keep what an earlier start of it has left."""
        for folder in ("input/config", "input/data", "model", "output", "checkpoints"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for old in (EPOCHS, "failure"):
            (self.base / "output" / old).unlink(missing_ok=True)
        (self.base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(dict(self.hyperparameters)))

    def epochs(self) -> list[dict[str, Any]]:
        """The numbers of every epoch so far."""
        path = self.base / "output" / EPOCHS
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def failure(self) -> str:
        """Why it failed."""
        path = self.base / "output" / "failure"
        return path.read_text() if path.is_file() else f"it left no reason; see {self.base / 'output' / 'log.txt'}"


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""

    def stop(self) -> None:
        """SIGTERM, and after GRACE_S an end."""


Runner = Callable[[Job], Running]


def run(runner: Runner, job: Job, on_epoch: Callable[[dict[str, Any]], bool] = lambda _: True) -> bool:
    """Run ``job`` to its end; ``on_epoch`` gets each epoch's numbers and stops it by answering False.

    Says whether it came to its own end.

    Raises TrainingError with the job's own reason when it fails.
    """
    job.lay_out()
    running, told, stopped = runner(job), 0, False
    try:
        code = None
        while code is None:
            time.sleep(POLL_S)  # a job takes minutes
            code = running.poll()
            for numbers in job.epochs()[told:]:
                told += 1
                if not stopped and not on_epoch(numbers):
                    stopped = True
                    running.stop()
    except BaseException:
        running.stop()
        raise
    if code and not stopped:
        raise TrainingError(f"the job in {job.base} failed with exit code {code}: {job.failure()}")
    return not stopped


class ProcessRun:
    """A job as a process beside us."""

    def __init__(self, job: Job) -> None:
        pid = job.base / "pid"
        _end_orphan(pid, job.base)
        channel = job.base / "input" / "data" / "training"
        if channel.is_symlink():
            channel.unlink()
        elif channel.is_dir():
            channel.rmdir()  # where a container had its photos mounted
        channel.symlink_to(job.data.resolve())
        environment = {**os.environ, **job.environment, "SAGEMAKER_BASE_DIR": str(job.base.resolve())}
        with (job.base / "output" / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.aws.training_container"],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        pid.write_text(str(self._process.pid))

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        return self._process.poll()

    def stop(self) -> None:
        """SIGTERM, and after GRACE_S SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end_orphan(pid: Path, base: Path) -> None:
    """End the process that a killed tuner has left behind: two would write the same checkpoint."""
    if not pid.is_file():
        return
    number = int(pid.read_text())
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        if f"SAGEMAKER_BASE_DIR={base.resolve()}".encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            os.kill(number, signal.SIGKILL)
            while Path(f"/proc/{number}/environ").read_bytes():  # empty once it is gone
                time.sleep(POLL_S)


class DockerRun:
    """A job as a container of the trainer's image, without a network unless MLflow is named.

    What it says goes to output/log.txt as it says it; the container is removed when it has ended.
    """

    def __init__(self, job: Job) -> None:
        import docker  # only this runner needs it
        from docker.types import DeviceRequest

        self._code: int | None = None
        client = docker.from_env()
        name = f"binwatch-job-{job.base.name}"
        for old in client.containers.list(all=True, filters={"name": f"^/{name}$"}):
            old.remove(force=True)  # a killed tuner has left it behind
        self._container = client.containers.run(
            job.image,
            "train",
            name=name,
            detach=True,
            volumes=_mounts(job),
            environment=dict(job.environment),
            user=f"{os.getuid()}:{os.getgid()}",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            network_mode="host" if job.environment.get("MLFLOW_TRACKING_URI") else "none",
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if job.gpu else [],
        )
        self._following = threading.Thread(target=self._follow, args=[job.base / "output" / "log.txt"], daemon=True)
        self._following.start()

    def _follow(self, path: Path) -> None:
        with path.open("ab", buffering=0) as log:
            for said in self._container.logs(stream=True, follow=True):
                log.write(said)

    def poll(self) -> int | None:
        """The exit code, once there is one; the container is then gone."""
        if self._code is None:
            self._container.reload()
            if self._container.status == "exited":
                self._code = self._container.attrs["State"]["ExitCode"]
                self._following.join()
                self._container.remove()
        return self._code

    def stop(self) -> None:
        """SIGTERM, and after GRACE_S SIGKILL."""
        if self._code is None:
            self._container.stop(timeout=GRACE_S)
            self.poll()


def _mounts(job: Job) -> dict[str, dict[str, str]]:
    """The job's folder and its photos; prepared data keeps what it computes, and names its photos by their path."""
    data, inside = job.data.resolve(), "/opt/ml/input/data"
    channel = job.base / "input" / "data" / "training"
    if channel.is_symlink():
        channel.unlink()
    channel.mkdir(exist_ok=True)
    mounts = {str(job.base.resolve()): {"bind": "/opt/ml", "mode": "rw"}}
    mounts[str(data)] = {"bind": f"{inside}/training", "mode": "rw" if prepared.is_prepared(data) else "ro"}
    if prepared.is_prepared(data):
        photos = str(prepared.read(data).root)
        mounts[photos] = {"bind": photos, "mode": "ro"}
    for beside in (data.parent / name for name in abid.BESIDE):
        if beside.is_file():
            mounts[str(beside)] = {"bind": f"{inside}/{beside.name}", "mode": "ro"}
    return mounts


RUNNERS: dict[str, Runner] = {"process": ProcessRun, "docker": DockerRun}


def runner(name: str) -> Runner:
    """The runner of that name. Raises SettingsError."""
    if name not in RUNNERS:
        raise SettingsError(f"there is no runner {name!r}; choose one of {', '.join(RUNNERS)}")
    return RUNNERS[name]
