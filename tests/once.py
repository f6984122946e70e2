"""What a whole run of the tests makes once, however many processes it has: servers, and values that take long.

The first process that needs a server starts a keeper for it (``python -m tests.once SERVER FOLDER PID``), a process
that outlives it and stops with the run. MLflow's server gives each process a workspace of its own, so that none sees
what another one registers; the tests that swap models in the same TorchServe run in one process
(``tests/conftest.py``).
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from serve.files import exclusive_lock, write_text
from serve.local.servers import mlflow_server, s3_server, torchserve_server

ROOT = Path(__file__).parents[1]
START_S, STOP_S = 120, 30
POLL_S = 0.1
T = TypeVar("T")
KEEPERS: list["subprocess.Popen[bytes]"] = []
"""Those that this process has started: Python warns of a child that it forgets while it runs."""


@contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    with mlflow_server(folder) as url:
        yield url


@contextmanager
def _torchserve(folder: Path) -> Iterator[tuple[str, str, str]]:
    with torchserve_server(folder) as (inference, management, store):
        yield inference, management, str(store)


SERVERS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "mlflow": _mlflow,
    "torchserve": _torchserve,
    "s3": s3_server,
}


class Run:
    """One run of the tests. ``folder``: what its processes share; ``main_pid``: of the process that began it."""

    def __init__(self, config: pytest.Config, factory: pytest.TempPathFactory) -> None:
        worker = hasattr(config, "workerinput")
        base = factory.getbasetemp()
        self.worker = config.workerinput["workerid"] if hasattr(config, "workerinput") else "main"
        self.folder = (base.parent if worker else base) / "once"
        self.folder.mkdir(exist_ok=True)
        self._main_pid = os.getppid() if worker else os.getpid()

    def value(self, name: str, make: Callable[[Path], T]) -> T:
        """What ``make`` gives for a folder of its own: from the first process that asks, and pickled for the others."""
        folder = self.folder / name
        with exclusive_lock(self.folder / f"{name}.lock"):
            if not (folder / "value.pickle").is_file():
                folder.mkdir()
                (folder / "value.pickle").write_bytes(pickle.dumps(make(folder)))
        value: T = pickle.loads((folder / "value.pickle").read_bytes())
        return value

    def server(self, kind: str, name: str = "", **environ: str) -> object:
        """The address of the run's server of that kind and name, or its addresses. ``environ``: what it starts with."""
        name = name or kind
        folder = self.folder / name
        with exclusive_lock(self.folder / f"{name}.lock"):
            if not (folder / "keeper.json").is_file():
                folder.mkdir()
                _start_keeper(kind, folder, self._main_pid, environ)
        return json.loads((folder / "keeper.json").read_text())["address"]

    def stop(self) -> None:
        """Stop the servers of the run, and wait until they have ended."""
        keepers = [json.loads(path.read_text()) for path in self.folder.glob("*/keeper.json")]
        for keeper in keepers:
            with suppress(ProcessLookupError):
                os.kill(keeper["pid"], signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while any(_is_alive(keeper["pid"]) for keeper in keepers) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def mlflow_workspace(url: str, name: str) -> str:
    """The workspace of that name on an MLflow server; made where there is none."""
    import mlflow

    mlflow.set_tracking_uri(url)
    if name not in {workspace.name for workspace in mlflow.list_workspaces()}:
        mlflow.create_workspace(name)
    return name


def _start_keeper(name: str, folder: Path, main_pid: int, environ: dict[str, str]) -> None:
    words = [sys.executable, "-m", "tests.once", name, str(folder), str(main_pid)]
    with (folder / "keeper.log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=log, start_new_session=True
        )
    KEEPERS.append(process)
    deadline = time.monotonic() + START_S
    while not (folder / "keeper.json").is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{name} did not start: {(folder / 'keeper.log').read_text()[-2000:]}")
        time.sleep(POLL_S)


def keep(name: str, folder: Path, main_pid: int) -> None:
    """Run a server until the run's main process is gone, or told to by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with SERVERS[name](folder) as address:
        write_text(folder / "keeper.json", json.dumps({"address": address, "pid": os.getpid()}))
        while _is_alive(main_pid):
            time.sleep(POLL_S)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
