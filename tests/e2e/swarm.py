"""Hosts with a Docker engine each, as namespaces of this machine that a virtual switch connects; and a swarm of them.

A host is a PID, mount and network namespace: SIGKILL for its first process is a power cut, which ends its engine and
all its containers at once, and a link that is set down is a cable that was pulled. That needs root, ``ip`` and a
``dockerd`` of this machine. All of it is gone after ``close``.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PREFIX = "bwswarm"
"""What the names of the namespaces, links and control groups begin with; at most 15 characters fit in a link's."""
SUBNET = "192.168.214"
ENGINE_S = 60.0
POLL_S = 0.2


def run(*words: str | Path, check: bool = True, timeout_s: float = 900) -> str:
    """The output of a command. Raises RuntimeError with what it printed, if it fails."""
    done = subprocess.run([*map(str, words)], text=True, capture_output=True, timeout=timeout_s)
    if check and done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done.stdout.strip()


def wait_until(what: str, holds: Callable[[], bool], timeout_s: float) -> float:
    """Poll until ``holds``; returns after how many seconds. Raises TimeoutError."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - start


class Host:
    """One host of the network, with its own engine. ``number``: 1-9, the end of its address."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name, self.address = f"{PREFIX}{number}", f"{SUBNET}.{10 + number}"
        self._folder = folder / self.name
        self._socket = self._folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        add_link(self.name, self.address)

    def start(self) -> None:
        """Switch it on: the engine finds what it had on its disk."""
        for path in (self._socket, self._folder / "pid"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder / "exec", ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        # an engine that another host runs has its containerd under /run
        script = (
            f'hostname {self.name}; mount -t tmpfs none /run/containerd; mount -t tmpfs none /run/docker; exec "$@"'
        )
        weight = Path("/sys/fs/cgroup/cpu") / self.name  # else all containers of a host have the weight of one process
        if weight.parent.is_dir():
            weight.mkdir(exist_ok=True)
            (weight / "cpu.shares").write_text("4096")
        places = [f"--{name}={self._folder / path}" for name, path in PLACES.items()]
        engine = ["dockerd", *places, f"--host={self.engine_url}", f"--cgroup-parent=/{self.name}"]
        space = [
            "nsenter",
            f"--net=/run/netns/{self.name}",
            "unshare",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        with (self._folder / "log").open("ab") as log:
            command = [*space, "sh", "-c", script, "sh", *engine, "--log-level=warn", "--host-gateway-ip=127.0.0.1"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(f"the engine of {self.name}", self.answers, ENGINE_S)

    @property
    def engine_url(self) -> str:
        """The address of its engine, for DOCKER_HOST."""
        return f"unix://{self._socket}"

    def answers(self) -> bool:
        """Whether its engine does."""
        return subprocess.run(self._docker("version"), capture_output=True, timeout=60).returncode == 0

    def docker(self, *words: str | Path, check: bool = True, timeout_s: float = 900) -> str:
        """The output of a command of its engine."""
        return run(*self._docker(*words), check=check, timeout_s=timeout_s)

    def _docker(self, *words: str | Path) -> Sequence[str]:
        return ["docker", "--host", self.engine_url, *map(str, words)]

    def load(self, *images: str) -> None:
        """Copy images from this machine's engine."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            subprocess.run(self._docker("load", "--quiet"), stdin=saved.stdout, check=True, capture_output=True)

    def cut_power(self) -> None:
        """End all its processes at once."""
        if self._process:
            for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)  # the first process of the namespace
            self._process.wait(60)
            self._process = None

    def unplug(self) -> None:
        """Cut it off the network."""
        run("ip", "-n", f"{PREFIX}0", "link", "set", f"{self.name}s", "down")

    def plug(self) -> None:
        """Connect it again."""
        run("ip", "-n", f"{PREFIX}0", "link", "set", f"{self.name}s", "up")

    def close(self) -> None:
        """Remove the host, its disk too."""
        self.cut_power()
        run("ip", "netns", "delete", self.name, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
        for controller in Path("/sys/fs/cgroup").glob(f"*/{self.name}"):
            for group in [*sorted(controller.rglob("*/"), reverse=True), controller]:
                with contextlib.suppress(OSError):
                    group.rmdir()


PLACES = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}


def add_link(name: str, address: str) -> None:
    """A namespace ``name`` with a cable to the switch, whose end there is called NAMEs."""
    run("ip", "netns", "add", name)
    run("ip", "link", "add", f"{name}s", "netns", f"{PREFIX}0", "type", "veth", "peer", "name", "eth0", "netns", name)
    run("ip", "-n", f"{PREFIX}0", "link", "set", f"{name}s", "master", "switch", "up")
    run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        run("ip", "-n", name, "link", "set", link, "up")


class Swarm:
    """A swarm whose first host is the manager; ``labels`` of host N are given in ``labels[N - 1]``."""

    def __init__(self, labels: Sequence[Sequence[str]]) -> None:
        remove_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-", dir="/var/tmp"))
        run("ip", "netns", "add", f"{PREFIX}0")
        run("ip", "-n", f"{PREFIX}0", "link", "add", "switch", "type", "bridge")
        run("ip", "-n", f"{PREFIX}0", "link", "set", "switch", "up")
        run("ip", "link", "add", f"{PREFIX}up", "type", "veth", "peer", "name", "uplink", "netns", f"{PREFIX}0")
        run("ip", "-n", f"{PREFIX}0", "link", "set", "uplink", "master", "switch", "up")
        run("ip", "address", "add", f"{SUBNET}.1/24", "dev", f"{PREFIX}up")
        run("ip", "link", "set", f"{PREFIX}up", "up")
        self.hosts = [Host(number, self._folder) for number in range(1, len(labels) + 1)]
        self._labels = labels

    def __enter__(self) -> "Swarm":
        try:
            self._join()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manager(self) -> Host:
        """The host that takes commands."""
        return self.hosts[0]

    def _join(self) -> None:
        for host in self.hosts:
            host.start()
        pool = ("--default-addr-pool", "10.213.0.0/16", "--default-addr-pool-mask-length", "24")
        self.manager.docker("swarm", "init", "--advertise-addr", self.manager.address, *pool)
        token = self.manager.docker("swarm", "join-token", "--quiet", "worker")
        for host in self.hosts[1:]:
            joining = ("--advertise-addr", host.address, "--token", token, f"{self.manager.address}:2377")
            host.docker("swarm", "join", *joining)
        for host, labels in zip(self.hosts, self._labels, strict=True):
            words = [word for label in labels for word in ("--label-add", label)]
            self.manager.docker("node", "update", *words, self.node(host))

    def node(self, host: Host) -> str:
        """The id by which the manager knows a host."""
        return str(json.loads(host.docker("info", "--format", "{{json .Swarm.NodeID}}")))

    def close(self) -> None:
        """Remove the swarm, its hosts and their network."""
        for host in self.hosts:
            host.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_leftovers()


def remove_leftovers() -> None:
    """End the hosts of an earlier swarm; remove its links and namespaces."""
    run("ip", "link", "delete", f"{PREFIX}up", check=False)
    for name in (line.split()[0] for line in run("ip", "netns", "list").splitlines()):
        if name.startswith(PREFIX):
            for process in run("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            run("ip", "netns", "delete", name, check=False)


class Relay:
    """Passes connections to ``address`` on to a port of this machine's loopback, until it is closed."""

    def __init__(self, address: tuple[str, int], port: int) -> None:
        self.address, self._port = address, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> "Relay":
        self._thread.start()
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self) -> None:
        """Take connections."""
        starting = asyncio.start_server(self._pass_on, *self.address)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)

    def close(self) -> None:
        """Take none, and cut those that there are."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        if self._server:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of ``reader``."""
    try:
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    finally:
        writer.close()
