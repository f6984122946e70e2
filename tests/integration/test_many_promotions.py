"""Repeated promotions under constant load: no request fails, latency rises little, and memory does not grow.

The load is an open loop, at 40 % of the throughput of two clients per core. The promoter is a process of its own, as in
containers. Between two promotions there is a rest, so that other load on the machine affects both alike. `make proof`
runs twenty promotions and tests the latency; otherwise there are two.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serve.local.servers import metrics_url, torchserve_server
from serve.rollout.torchserve_client import Management
from tests.conftest import rounds
from tests.integration.load import Answer, closed, opened, per_second
from tests.integration.promoting import challenger
from tests.integration.serving import Deployed
from trainer.registry import signing
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

pytestmark = pytest.mark.alone
ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))
SHARE = 0.4
REST_S = rounds(4, 10)
MIB = 1024**2


@dataclass(frozen=True)
class Window:
    """The time of a promotion or a rest, in seconds of the monotonic clock."""

    begun_s: float
    ended_s: float

    def select(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers to requests that were sent in it."""
        return [answer for answer in answers if self.begun_s <= answer.sent_s < self.ended_s]


@contextmanager
def promoter_process(
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
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


def promoted(registry: Registry, trained: Trained, before: str, keys: signing.KeyPair) -> tuple[str, Window]:
    """Register a challenger and wait until it is promoted and the old version is gone."""
    number = challenger(registry, trained, 0.5, status=Status.REFUSED, compared_with=before, keys=keys)
    begun_s = time.monotonic()
    registry.mark(number, Status.APPROVED, "because")
    while (status := registry.version(number).status) != Status.PROMOTED:
        assert status == Status.APPROVED
        assert time.monotonic() < begun_s + 300
        time.sleep(0.25)
    return number, Window(begun_s, time.monotonic())


def p99_ms(answers: Sequence[Answer]) -> float:
    return 1000 * float(np.quantile([answer.took_s for answer in answers], 0.99))


def test_promotions_under_constant_load(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    photo, times = trained.data.test.photos[0].path.read_bytes(), rounds(2, 20)
    keys = signing.ensure_key_pair(tmp_path / "keys")
    with (
        torchserve_server(tmp_path, None, {"OMP_NUM_THREADS": "1"}) as (inference, management, store),
        promoter_process(registry, tmp_path, inference, management, store, keys),
        ThreadPoolExecutor(1) as pool,
    ):
        server = Deployed(f"{inference}/predictions/bin-counter", tmp_path.resolve(), Management(management))
        numbers = [promoted(registry, trained, "", keys)[0]]
        closed(server.url, photo, 2 * CORES, 3)  # warm
        capacity = per_second(closed(server.url, photo, 2 * CORES, 5), 5)
        stop = threading.Event()
        loaded = pool.submit(opened, server.url, photo, SHARE * capacity, times * 300.0, stop)
        rests, swaps, memory = [], [], []
        try:
            for _ in range(times):
                begun_s = time.monotonic()
                time.sleep(REST_S)  # the measured rest
                rests.append(Window(begun_s, time.monotonic()))
                number, window = promoted(registry, trained, numbers[-1], keys)
                numbers.append(number)
                swaps.append(window)
                memory.append(server.memory_bytes())
        finally:
            stop.set()
        answers = loaded.result()
    report(capacity, answers, rests, swaps, memory)
    assert {(answer.status, answer.failure) for answer in answers} == {(200, "")}
    assert {json.loads(answer.body)["model_version"] for answer in answers} == set(numbers)
    assert memory[-1] < 1.1 * memory[0]
    if "BINWATCH_PROOF" in os.environ:
        at_rest, swapping = (
            [answer for window in windows for answer in window.select(answers)] for windows in (rests, swaps)
        )
        assert p99_ms(swapping) <= 2 * p99_ms(at_rest)


def report(
    capacity: float, answers: Sequence[Answer], rests: Sequence[Window], swaps: Sequence[Window], memory: Sequence[int]
) -> None:
    at_rest, swapping = (
        [answer for window in windows for answer in window.select(answers)] for windows in (rests, swaps)
    )
    took_s, calm_ms, busy_ms = [window.ended_s - window.begun_s for window in swaps], p99_ms(at_rest), p99_ms(swapping)
    failed = sum(answer.status != 200 for answer in answers)
    print(
        f"{len(swaps)} promotions of {np.median(took_s):.1f} s at {SHARE * capacity:.0f} of {capacity:.0f} requests/s: "
        f"{len(answers)} requests, {failed} failed; p99 {calm_ms:.0f} ms at rest, "
        f"{busy_ms:.0f} ms while swapping ({busy_ms / calm_ms:.2f} times); each swap: "
        f"{', '.join(f'{p99_ms(window.select(answers)):.0f}' for window in swaps)} ms; "
        f"memory {memory[0] / MIB:.0f} MiB after the first, {memory[-1] / MIB:.0f} after the last"
    )
