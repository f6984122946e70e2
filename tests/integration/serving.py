"""Shared by the tests of serving: a TorchServe with its own settings, which serves one archive."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.local.servers import torchserve_server
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Deployed:
    """A TorchServe, the folder of its files and its log, and the address of its model."""

    url: str
    state: Path
    management: Management

    @property
    def address(self) -> str:
        """The address without a path."""
        return self.url.removesuffix("/predictions/bin-counter")

    def processes(self, word: str = "") -> list[int]:
        """The process ids of the server and its workers, or of those with ``word`` in their command line."""
        return [pid for pid, line in _commands() if str(self.state) in line and word in line]

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return self.processes("model_service_worker")

    def memory_bytes(self) -> int:
        """Resident memory of server and workers together."""
        return sum(_resident(pid) for pid in self.processes())

    def scheduled_s(self) -> tuple[float, float]:
        """How long the workers' main threads have run, and how long they have waited for a processor."""
        statistics = [Path(f"/proc/{pid}/schedstat").read_text().split() for pid in self.workers()]
        return sum(int(ran) for ran, *_ in statistics) / 1e9, sum(int(waited) for _, waited, *_ in statistics) / 1e9

    def log(self) -> str:
        """The log of server and workers."""
        return (self.state / "torchserve.log").read_text(errors="replace")


def _commands() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended
            yield int(path.parent.name), path.read_text(errors="replace").replace("\0", " ")


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


@contextmanager
def deployed(state: Path, archive: Path, settings: Mapping[str, str], workers: int = 1) -> Iterator[Deployed]:
    """TorchServe with these settings in its workers' environment, and the archive as its version 1."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        with torchserve_server(state) as (inference_url, management_url, store):
            inference, management = Inference(inference_url), Management(management_url)
            rollout = Rollout(inference, management, store, workers)
            rollout.load("1", lambda: archive)
            rollout.switch("1")
            yield Deployed(f"{inference_url}/predictions/bin-counter", state.resolve(), management)
