"""A training job as a value, and how it is run to its end.

Its folder has the layout of a SageMaker training container, so every runner starts the same program, ``train``:

    BASE/input/config/hyperparameters.json    the hyperparameters
    BASE/input/data/training                  the photos, or a prepared dataset
    BASE/checkpoints/                         an interrupted job that is started again resumes from here
    BASE/output/epochs.jsonl, failure         the numbers of each epoch, and the reason of a failure
    BASE/model/                               the results
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from serve.errors import TrainingError

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
        """The epochs that have ended so far; a resumed training reports the earlier ones again."""
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


def run(
    runner: Runner,
    job: Job,
    on_epoch: Callable[[EpochReport], bool] = lambda _: True,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Run ``job`` to its end. ``on_epoch`` is called once for each epoch; when it returns False, the job is stopped.

    Returns False when ``on_epoch`` stopped the job. Raises TrainingError with the job's reason when it fails, and
    SystemExit when ``is_interrupted``: the job is stopped, and resumes from its checkpoint when it is run again.
    """
    job.prepare_folder()
    running, last_epoch, stopped = runner(job), 0, False
    try:
        code = None
        while code is None:
            time.sleep(POLL_S)
            if is_interrupted():
                raise SystemExit
            code = running.poll()
            for epoch in job.epochs():
                if epoch.number <= last_epoch:
                    continue
                last_epoch = epoch.number
                if not stopped and not on_epoch(epoch):
                    stopped = True
                    running.stop()
    except BaseException:
        running.stop()
        raise
    if code and not stopped:
        raise TrainingError(f"the job in {job.base} failed with exit code {code}: {job.failure()}")
    return not stopped
