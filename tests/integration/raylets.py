"""A cluster of Ray on this machine: each node has an address of its own, and can be lost like a host."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from serve.local.servers import free_port

NODE = "BINWATCH_TEST_NODE"
STORE_BYTES = 80_000_000
ATTEMPTS = 3
"""Ray gives a node 30 s to start, which is not always enough on a machine that is busy with other tests."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""No telemetry, no workers before they are needed, and a lost node is noticed within seconds."""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Who does not have it cannot join the cluster."""


class Raylets:
    """A head without work of its own, and nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.address, self.folder, self.names = f"127.0.0.1:{free_port()}", folder, ["head"]

    def start(self) -> None:
        """Start the head."""
        port = self.address.partition(":")[2]
        temporary = f"--temp-dir={self.folder}/ray"
        self._start("head", 1, 0, "--head", f"--port={port}", "--include-dashboard=false", temporary)

    def add(self, number: int, cpus: int) -> str:
        """A node at 127.0.0.``number``; returns its name."""
        name = f"node-{number}"
        self.names.append(name)
        self._start(name, number, cpus, f"--address={self.address}")
        return name

    def _start(self, name: str, number: int, cpus: int, *words: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--node-ip-address=127.0.0.{number}"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"]
        environ = {**os.environ, **QUIET, **TOKEN, NODE: f"{self.folder}/{name}"}
        for _ in range(ATTEMPTS):
            with (self.folder / "log").open("ab") as log:
                result = subprocess.run(command, env=environ, stdout=log, stderr=log, timeout=120)
            if result.returncode == 0:
                return
            self.lose(name)
        pytest.fail(f"a node of Ray did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def processes(self, name: str) -> list[int]:
        """The processes of a node, and of the jobs on it."""
        mark = f"{NODE}={self.folder}/{name}".encode()
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    pids.append(int(path.parent.name))
        return pids

    def lose(self, name: str) -> None:
        """Kill all processes of a node at once, as when its power fails."""
        while pids := self.processes(name):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def raylets() -> Iterator[Raylets]:
    """A cluster without nodes that work."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of sockets are short
    cluster = Raylets(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        for name in cluster.names:
            cluster.lose(name)
        shutil.rmtree(folder, ignore_errors=True)
