"""The runner ``process``: a job is a child process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.experiments.runners.job import GRACE_S, POLL_S, Job


class ProcessJob:
    """A job in a child process."""

    def __init__(self, job: Job, prefix: Sequence[str] = ()) -> None:
        """``prefix``: words of a program that starts the job's."""
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
                [*prefix, sys.executable, "-m", "trainer.aws.training_container"],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[3],
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
