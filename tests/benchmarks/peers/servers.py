"""Starts the servers of the serving benchmark, each in processes of its own, and the same network without a server."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import requests

from serve.errors import ServerError
from serve.local.servers import free_port
from tests.benchmarks.http_load import Target
from tests.benchmarks.results import ROOT

CORES = len(os.sched_getaffinity(0))

StartTorchServe = Callable[[Path, None, Mapping[str, str]], AbstractContextManager[tuple[str, str, Path]]]
"""Starts a TorchServe with its state in a folder; yields its inference and management addresses and its model store."""
Start = Callable[[Path, int], AbstractContextManager[Target]]
"""Starts a peer with its log in a folder, and with this many workers; yields what to ask it."""


@dataclass(frozen=True)
class TorchServePeer:
    """An archive in TorchServe, and the settings that it is registered with."""

    torchserve: StartTorchServe
    archive: Path
    settings: Mapping[str, int]
    photos: Sequence[bytes]

    @contextmanager
    def __call__(self, work: Path, workers: int) -> Iterator[Target]:
        with self.torchserve(work, None, threads(workers)) as (inference, management, store):
            shutil.copy(self.archive, store)
            query: dict[str, str | int] = {
                "url": self.archive.name,
                "model_name": self.archive.stem,
                "initial_workers": workers,
                "synchronous": "true",
                **self.settings,
            }
            answer = requests.post(f"{management}/models", params=query, timeout=180)
            if not answer.ok:
                raise ServerError(f"TorchServe did not load {self.archive}: {answer.status_code} {answer.text[:500]}")
            url = f"{inference}/predictions/{self.archive.stem}"
            yield Target(url, self.photos, {"Content-Type": "image/jpeg"})


@dataclass(frozen=True)
class ModulePeer:
    """A server that a module of this folder starts; ``path``: that of its network."""

    module: str
    route: str
    path: Path
    bodies: Sequence[bytes]
    content_type: str

    @contextmanager
    def __call__(self, work: Path, workers: int) -> Iterator[Target]:
        port = free_port()
        command = [sys.executable, "-m", f"tests.benchmarks.peers.{self.module}", str(port), str(workers)]
        work.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, **threads(workers), "TMPDIR": str(work)}
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(self.path)], cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        target = Target(f"http://127.0.0.1:{port}{self.route}", self.bodies, {"Content-Type": self.content_type})
        try:
            _wait_answering(target, process)
            yield target
        finally:
            _stop(process)


def litserve(path: Path, photos: Sequence[bytes]) -> ModulePeer:
    """LitServe with the network in ``path``."""
    bodies = [json.dumps({"image_data": base64.b64encode(photo).decode()}).encode() for photo in photos]
    return ModulePeer("litserve_peer", "/predict", path, bodies, "application/json")


def mosec(path: Path, photos: Sequence[bytes]) -> ModulePeer:
    """Mosec with the ONNX file in ``path``."""
    return ModulePeer("mosec_peer", "/inference", path, photos, "image/jpeg")


def without_server(archive: Path, photos: Path, duration_s: float) -> float:
    """The photos per second of an unpacked archive in one process a core, together. Raises ServerError."""
    command = [sys.executable, str(Path(__file__).with_name("no_server.py")), str(photos.resolve()), str(duration_s)]
    environ = {**os.environ, **threads(CORES), "PYTHONPATH": str(archive)}
    with ExitStack() as stack, ThreadPoolExecutor(CORES) as pool:
        processes = [
            stack.enter_context(subprocess.Popen(command, cwd=archive, env=environ, stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(CORES)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # it is ready
        outputs = [output for output, _ in pool.map(lambda process: process.communicate("start\n"), processes)]
    if any(process.returncode for process in processes):
        raise ServerError(f"{archive} does not run without a server; its error is above")
    return sum(map(float, outputs))


def threads(workers: int) -> dict[str, str]:
    """The variables with which torch's threads share the cores between the workers."""
    return {"OMP_NUM_THREADS": str(max(1, CORES // workers))}


def _wait_answering(target: Target, process: "subprocess.Popen[bytes]", timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.post(target.url, target.bodies[0], headers=target.headers, timeout=60).ok:
                return
        time.sleep(0.2)
    state = "does not answer" if process.poll() is None else f"exited with {process.returncode}"
    raise ServerError(f"{target.url} {state} after at most {timeout_s:.0f} s: {process.args!r}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with suppress(ProcessLookupError):  # its orphaned child processes
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
