"""The benchmark of promotions under constant load: no request fails, latency rises little, and memory does not grow.

The load is an open loop, at 40 % of the throughput of two clients per core; each request has its own connection. The
promoter is a process of its own, as in containers. Between two promotions there is a rest, so that other load on the
machine affects both alike.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve.errors import ServerError, SettingsError
from serve.local.servers import metrics_url, torchserve_server
from serve.rollout.torchserve_client import Management
from tests.benchmarks.results import ROOT, Result, machine, rounded
from tests.integration.load import Answer, closed, per_second
from tests.integration.promoting import challenger
from tests.integration.serving import Deployed
from tests.models import train_sure
from trainer.data import synthetic
from trainer.registry import signing
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

PROMOTIONS = 10
TARGET, MEMORY_GROWTH = 1.2, 1.1
CORES = len(os.sched_getaffinity(0))
SHARE, REST_S, POLL_S, TIMEOUT_S = 0.4, 8.0, 1.0, 300.0
STOP = "stop"
AT_REST = "the 99th percentile of the latency at rest"
MIB = 1024**2


@dataclass(frozen=True)
class Window:
    """The time of a promotion or a rest, in seconds of the monotonic clock."""

    begun_s: float
    ended_s: float

    def select(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers to requests that were sent in it."""
        return [answer for answer in answers if self.begun_s <= answer.sent_s < self.ended_s]


@dataclass(frozen=True, kw_only=True)
class Swaps:
    """What was measured: the versions that served, all answers, the windows, and the servers' memory after each swap.

    ``capacity``: requests per second of the closed loop; ``memory``: bytes.
    """

    versions: tuple[str, ...]
    capacity: float
    answers: Sequence[Answer]
    rests: Sequence[Window]
    swaps: Sequence[Window]
    memory: Sequence[int]


def bench_swap(mlflow: Callable[[Path], AbstractContextManager[str]], promotions: int = PROMOTIONS) -> Result:
    """Promote a small network, trained on drawn bins, again and again. ``mlflow``: starts an MLflow server."""
    if promotions < 1:
        raise SettingsError(f"--promotions is {promotions}; give a whole number above 0")
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        work = Path(folder)
        trained = train_sure(synthetic.draw_dataset(work / "bins", 300, seed=1), work / "trained")
        with mlflow(work / "mlflow") as url:
            return compare_windows(measure_swaps(Registry(url), trained, work, promotions))


def compare_windows(measured: Swaps) -> Result:
    """The result: the 99th percentile of the latency while swapping, divided by that at rest."""
    answers, failed = measured.answers, sum(answer.status != 200 for answer in measured.answers)
    at_rest, swapping = (_p99_ms(windows, answers) for windows in (measured.rests, measured.swaps))
    ratio, growth = swapping / at_rest, measured.memory[-1] / measured.memory[0]
    checks = {
        "no request failed": not failed,
        f"at most {TARGET} times {AT_REST}": ratio <= TARGET,
        f"at most {MEMORY_GROWTH} times the memory after the first": growth <= MEMORY_GROWTH,
    }
    return Result(
        name="swap",
        ratio=rounded(ratio),
        target=TARGET,
        holds=all(checks.values()),
        peers={AT_REST: rounded(ratio)},
        runs={
            "requests, failed": [len(answers), failed],
            "requests/s, capacity": [round(SHARE * measured.capacity, 1), round(measured.capacity, 1)],
            "all rests, all swaps: p99 ms": [round(at_rest, 1), round(swapping, 1)],
            "rests: p99 ms": [round(_p99_ms([window], answers), 1) for window in measured.rests],
            "swaps: p99 ms": [round(_p99_ms([window], answers), 1) for window in measured.swaps],
            "swaps: seconds": [round(window.ended_s - window.begun_s, 1) for window in measured.swaps],
            "memory after each swap, MiB": [round(size / MIB, 1) for size in measured.memory],
        },
        machine=machine(),
        compared="times",
        checks=checks,
    )


def measure_swaps(registry: Registry, trained: Trained, work: Path, promotions: int, rest_s: float = REST_S) -> Swaps:
    """Promote ``trained`` under load, with a rest before each promotion. Raises ServerError where one does not end."""
    photo, keys = trained.data.test.photos[0].path, signing.ensure_key_pair(work / "keys")
    with (
        torchserve_server(work, None, {"OMP_NUM_THREADS": "1"}) as (inference, management, store),
        _promoter(registry, work, inference, management, store, keys),
        ThreadPoolExecutor(1) as pool,
    ):
        server = Deployed(f"{inference}/predictions/bin-counter", work.resolve(), Management(management))
        versions = [_promoted(registry, trained, "", keys)[0]]
        closed(server.url, photo.read_bytes(), 2 * CORES, 3)  # warm
        capacity = per_second(closed(server.url, photo.read_bytes(), 2 * CORES, 5), 5)
        loaded = pool.submit(_load, work, server.url, photo, SHARE * capacity)
        rests, swaps, memory = [], [], []
        try:
            for _ in range(promotions):
                begun_s = time.monotonic()
                time.sleep(rest_s)  # the measured rest
                rests.append(Window(begun_s, time.monotonic()))
                version, window = _promoted(registry, trained, versions[-1], keys)
                versions.append(version)
                swaps.append(window)
                memory.append(server.memory_bytes())
        finally:
            (work / STOP).touch()
        return Swaps(
            versions=tuple(versions),
            capacity=capacity,
            answers=loaded.result(),
            rests=rests,
            swaps=swaps,
            memory=memory,
        )


def _load(work: Path, url: str, photo: Path, rate: float) -> list[Answer]:
    """The answers to an open load until there is a file STOP, from a process that this one's work does not delay."""
    command = [sys.executable, "-m", "tests.benchmarks.swap_load", url, str(photo), str(rate), str(work / STOP)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Answer(**{**fields, "body": fields["body"].encode()}) for fields in map(json.loads, output.splitlines())]


@contextmanager
def _promoter(
    registry: Registry, state: Path, inference: str, management: str, store: Path, keys: signing.KeyPair
) -> Iterator[None]:
    """`scripts/promote.py --watch`."""
    settings = {
        "MLFLOW_TRACKING_URI": registry.uri,
        "BINWATCH_INFERENCE_URL": inference,
        "BINWATCH_WATCH_S": "2",
        "BINWATCH_VERIFY_KEY": str(keys.public),
        "BINWATCH_MANAGEMENT_URL": management,
        "BINWATCH_METRICS_URL": metrics_url(state),
        "BINWATCH_MODEL_STORE": str(store),
        "BINWATCH_WORKERS": str(CORES),
    }
    command = [sys.executable, "scripts/promote.py", "--watch", "--interval", "0.5", "--heartbeat", str(state / "beat")]
    with (state / "promoter.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        if process.wait(60) != 0:
            raise ServerError(f"the promoter exited with {process.returncode}: {(state / 'promoter.log').read_text()}")


def _promoted(registry: Registry, trained: Trained, before: str, keys: signing.KeyPair) -> tuple[str, Window]:
    """Register a challenger and wait until it is promoted and the old version is gone."""
    number = challenger(registry, trained, 0.5, status=Status.REFUSED, compared_with=before, keys=keys)
    begun_s = time.monotonic()
    registry.mark(number, Status.APPROVED, "because")
    while (status := registry.version(number).status) != Status.PROMOTED:
        if status != Status.APPROVED or time.monotonic() > begun_s + TIMEOUT_S:
            raise ServerError(f"version {number} is {status} {time.monotonic() - begun_s:.0f} s after its approval")
        time.sleep(POLL_S)
    return number, Window(begun_s, time.monotonic())


def _p99_ms(windows: Sequence[Window], answers: Sequence[Answer]) -> float:
    seconds = [answer.took_s for window in windows for answer in window.select(answers)]
    return 1000 * float(np.quantile(seconds, 0.99))
