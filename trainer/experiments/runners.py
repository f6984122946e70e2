"""Jobs and runners: a training job is a value, a runner starts it somewhere.

A job's folder has the layout of a SageMaker training container, so every runner starts the same program, ``train``:

    BASE/input/config/hyperparameters.json    the hyperparameters
    BASE/input/data/training                  the photos, or a prepared dataset
    BASE/checkpoints/                         an interrupted job that is started again resumes from here
    BASE/output/epochs.jsonl, failure         the numbers of each epoch, and the reason of a failure
    BASE/model/                               the results

``process`` runs a job as a child process, ``docker`` in a container of the trainer's image. To add a runner, write a
function from a Job to a RunningJob.
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
from typing import Protocol

from pydantic import TypeAdapter

from serve.errors import SettingsError, TrainingError
from trainer.data import abid, layouts, prepared

EPOCHS = "epochs.jsonl"
GRACE_S = 120
"""Seconds between SIGTERM and SIGKILL, as for a SageMaker spot instance."""
POLL_S = 0.2


@dataclass(frozen=True)
class EpochReport:
    """The fields of a line of ``epochs.jsonl`` that a search reads; the loss is in nats."""

    number: int
    validation_loss: float


_EPOCH = TypeAdapter(EpochReport)


@dataclass(frozen=True)
class Job:
    """One training job. ``image`` and ``gpu``: for runners that start containers."""

    base: Path
    data: Path
    hyperparameters: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = "binwatch-trainer"
    gpu: bool = False

    def prepare_folder(self) -> None:
        """Write the job's input, and remove the output of an earlier start; checkpoints are kept."""
        for folder in ("input/config", "input/data", "model", "output", "checkpoints"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name in (EPOCHS, "failure"):
            (self.base / "output" / name).unlink(missing_ok=True)
        (self.base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(dict(self.hyperparameters)))

    def epochs(self) -> list[EpochReport]:
        """The epochs that have ended so far."""
        path = self.base / "output" / EPOCHS
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [_EPOCH.validate_python(json.loads(line)) for line in lines if line.endswith("\n")]

    def failure(self) -> str:
        """The reason of a failure."""
        path = self.base / "output" / "failure"
        return path.read_text() if path.is_file() else f"it gave no reason; see {self.base / 'output' / 'log.txt'}"


class RunningJob(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """The exit code; None while the job is running."""

    def stop(self) -> None:
        """Send SIGTERM, and after GRACE_S SIGKILL."""


Runner = Callable[[Job], RunningJob]


def run(runner: Runner, job: Job, on_epoch: Callable[[EpochReport], bool] = lambda _: True) -> bool:
    """Run ``job`` to its end. ``on_epoch`` is called after each epoch; when it returns False, the job is stopped.

    Returns False when ``on_epoch`` stopped the job. Raises TrainingError with the job's reason when it fails.
    """
    job.prepare_folder()
    running, reported, stopped = runner(job), 0, False
    try:
        code = None
        while code is None:
            time.sleep(POLL_S)
            code = running.poll()
            for epoch in job.epochs()[reported:]:
                reported += 1
                if not stopped and not on_epoch(epoch):
                    stopped = True
                    running.stop()
    except BaseException:
        running.stop()
        raise
    if code and not stopped:
        raise TrainingError(f"the job in {job.base} failed with exit code {code}: {job.failure()}")
    return not stopped


class ProcessJob:
    """A job in a child process."""

    def __init__(self, job: Job) -> None:
        pid = job.base / "pid"
        _kill_orphan(pid, job.base)
        channel = job.base / "input" / "data" / "training"
        if channel.is_symlink():
            channel.unlink()
        elif channel.is_dir():
            channel.rmdir()  # the mount point of an earlier container
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
        """The exit code; None while the process is running."""
        return self._process.poll()

    def stop(self) -> None:
        """Send SIGTERM, and after GRACE_S SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _kill_orphan(pid: Path, base: Path) -> None:
    """Kill the job that a killed search left running, because two jobs would write the same checkpoint."""
    if not pid.is_file():
        return
    with suppress(
        FileNotFoundError, ProcessLookupError, PermissionError, ValueError
    ):  # ValueError: the file was cut off
        number = int(pid.read_text())
        if f"SAGEMAKER_BASE_DIR={base.resolve()}".encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            os.kill(number, signal.SIGKILL)
            while Path(f"/proc/{number}/environ").read_bytes():  # empty once the process has ended
                time.sleep(POLL_S)


class DockerJob:
    """A job in a container of the trainer's image, without a network unless the job logs to MLflow.

    Its output is streamed to output/log.txt. The container is removed after it has ended.
    """

    def __init__(self, job: Job) -> None:
        import docker  # only this runner needs it
        from docker.types import DeviceRequest

        self._code: int | None = None
        client = docker.from_env()
        name = f"binwatch-job-{job.base.name}"
        for orphan in client.containers.list(all=True, filters={"name": f"^/{name}$"}):
            orphan.remove(force=True)  # a killed search left it behind
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
        self._log_thread = threading.Thread(target=self._copy_log, args=[job.base / "output" / "log.txt"], daemon=True)
        self._log_thread.start()

    def _copy_log(self, path: Path) -> None:
        with path.open("ab", buffering=0) as log:
            for chunk in self._container.logs(stream=True, follow=True):
                log.write(chunk)

    def poll(self) -> int | None:
        """The exit code, after the container was removed; None while it is running."""
        if self._code is None:
            self._container.reload()
            if self._container.status == "exited":
                self._code = self._container.attrs["State"]["ExitCode"]
                self._log_thread.join()
                self._container.remove()
        return self._code

    def stop(self) -> None:
        """Send SIGTERM, and after GRACE_S SIGKILL."""
        if self._code is None:
            self._container.stop(timeout=GRACE_S)
            self.poll()


def _mounts(job: Job) -> dict[str, dict[str, str]]:
    """The volumes of a container: the job's folder, the data, and the photos.

    A prepared dataset is writable, because it caches features, and refers to its photos by absolute path.
    """
    data, inside = job.data.resolve(), "/opt/ml/input/data"
    channel = job.base / "input" / "data" / "training"
    if channel.is_symlink():
        channel.unlink()
    channel.mkdir(exist_ok=True)
    mounts = {str(job.base.resolve()): {"bind": "/opt/ml", "mode": "rw"}}
    mounts[str(data)] = {"bind": f"{inside}/training", "mode": "rw" if layouts.is_prepared(data) else "ro"}
    if layouts.is_prepared(data):
        photos = str(prepared.read(data).root)
        mounts[photos] = {"bind": photos, "mode": "ro"}
    for path in (data.parent / name for name in abid.OPTIONAL_FILES):
        if path.is_file():
            mounts[str(path)] = {"bind": f"{inside}/{path.name}", "mode": "ro"}
    return mounts


RUNNERS: dict[str, Runner] = {"process": ProcessJob, "docker": DockerJob}


def runner(name: str) -> Runner:
    """The runner of that name. Raises SettingsError."""
    if name not in RUNNERS:
        raise SettingsError(f"there is no runner {name!r}; choose one of {', '.join(RUNNERS)}")
    return RUNNERS[name]
