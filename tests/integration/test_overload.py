"""Ten times the capacity of a server: every request gets an answer, memory does not grow, and it recovers."""

import json
import threading
from collections import Counter as Tally
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import rounds
from tests.integration.load import Answer, closed, large_photo, opened, per_second
from tests.integration.serving import Deployed, deployed
from trainer.training.run import Trained

pytestmark = pytest.mark.alone

CLIENTS = 8
MEASURED_S = 5.0
BACK_S = 5.0
TIMES = 10
BACK_SHARE = 0.8
"""The share of the throughput before that must be reached ``BACK_S`` after the overload."""
GROWTH = 1.1
MIB = 1024**2


class Memory:
    """Samples the resident memory of server and workers every half second."""

    def __init__(self, server: Deployed) -> None:
        self.samples: list[int] = []
        self._server, self._stop = server, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.samples.append(self._server.memory_bytes())


def quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


def throughput(server: Deployed, photo: bytes) -> tuple[float, float]:
    """Answers per second to CLIENTS clients, and what they would be if the worker had its processor to itself."""
    ran_s, waited_s = server.scheduled_s()
    answers = closed(server.url, photo, CLIENTS, MEASURED_S)
    ran_s, waited_s = (after - before for after, before in zip(server.scheduled_s(), (ran_s, waited_s), strict=True))
    assert {answer.status for answer in answers} == {200}
    rate = per_second(answers, MEASURED_S)
    return rate, rate * (ran_s + waited_s) / ran_s


def test_ten_times_the_load_is_answered_and_leaves_no_trace(trained: Trained, tmp_path: Path) -> None:
    photo, duration_s = large_photo(), rounds(8, 60)
    with deployed(tmp_path, trained.archive, {"BINWATCH_CAPTURE": str(tmp_path / "capture")}) as server:
        closed(server.url, photo, CLIENTS, MEASURED_S)  # warm
        before, own_before = throughput(server, photo)
        processes = server.processes()
        with Memory(server) as memory:
            answers = opened(server.url, photo, TIMES * before, duration_s)
        closed(server.url, photo, CLIENTS, BACK_S)
        after, own_after = throughput(server, photo)
        report(before, duration_s, answers, memory.samples)
        print(f"after {BACK_S:.0f} s {after:.1f}/s; without neighbours {own_before:.1f}/s, then {own_after:.1f}/s")
        assert server.processes() == processes
    assert len(answers) == int(TIMES * before * duration_s)
    assert not Tally(answer.failure for answer in answers if answer.failure)
    assert {answer.status for answer in answers} == {200, 503}
    assert all(json.loads(answer.body)["code"] == 503 for answer in answers if answer.status == 503)
    half = len(memory.samples) // 2
    assert max(memory.samples[half:]) < GROWTH * max(memory.samples[:half])
    assert own_after >= BACK_SHARE * own_before


def report(before: float, duration_s: float, answers: list[Answer], memory: list[int]) -> None:
    unanswered = sum(bool(answer.failure) for answer in answers)
    served = [answer.took_s for answer in answers if answer.status == 200]
    refused = [answer.took_s for answer in answers if answer.status == 503]
    print(
        f"capacity {before:.1f}/s; {len(answers)} requests in {duration_s} s: {len(served)} answered, "
        f"{len(refused)} refused, {unanswered} without an answer; waited p50 and p99: "
        f"{quantile(served, 0.5):.2f} and {quantile(served, 0.99):.2f} s for 200, {quantile(refused, 0.5):.3f} and "
        f"{quantile(refused, 0.99):.3f} s for 503; memory {memory[0] / MIB:.0f} to {max(memory) / MIB:.0f} MiB"
    )
