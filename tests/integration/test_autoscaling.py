"""Workers of a real TorchServe: its counters, and that no request is lost when a worker is removed."""

import json
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from serve.local import servers
from serve.rollout.autoscale import Autoscaler, Sample, ScalingPolicy, busy_share
from serve.rollout.model_store import StoredVersion
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from tests.conftest import rounds
from tests.integration.load import large_photo
from trainer.promotion.promoter import Promoter
from trainer.promotion.promotion_loop import watch
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

pytestmark = pytest.mark.alone


@dataclass(frozen=True)
class Scaled:
    """A real TorchServe that serves version 1 with one worker."""

    inference: Inference
    management: Management
    metrics: Metrics
    rollout: Rollout
    photo: bytes
    capture: Path

    def sample(self) -> Sample:
        (only,) = self.management.loaded()
        return Sample(time.monotonic(), only.version, only.workers, self.metrics.work())

    def workers(self) -> int:
        (only,) = self.management.loaded()
        return only.ready


def short_window(policy: ScalingPolicy) -> ScalingPolicy:
    """A policy that measures over two seconds, less than a setting may be."""
    return policy.model_copy(update={"window_s": 2.0})


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def running(trained: Trained, tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Iterator[Scaled]:
    state = tmp_path_factory.mktemp("scaled")
    patch.setenv("BINWATCH_CAPTURE", str(state / "capture"))
    with servers.torchserve_server(state) as (inference_url, management_url, store):
        inference, management = Inference(inference_url), Management(management_url)
        rollout = Rollout(inference, management, store)
        rollout.load("1", lambda: trained.archive)
        yield Scaled(
            inference, management, Metrics(servers.metrics_url(state)), rollout, large_photo(), state / "capture"
        )


@pytest.fixture
def scaled(running: Scaled, trained: Trained) -> Scaled:
    """The server with version 1 alone and one worker, whatever the test before made of it."""
    running.rollout.workers = 1
    if [version.version for version in running.management.loaded()] != ["1"]:
        running.rollout.load("1", lambda: trained.archive)
        running.rollout.switch("1")
        running.rollout.retire_others("1")
    if running.workers() != 1:
        running.rollout.resize("1", 1)
    # the registry of each test begins with version 1: the store must not take it for one of another run
    running.rollout.archives.put("1", trained.archive, "")
    running.rollout.archives.remember_serving(StoredVersion(version="1", run_id=""))
    return running


def ask_until(stop: threading.Event, url: str, photo: bytes) -> Tally[str]:
    """Ask without pause; the answers by model version, failures by status and message."""
    mine = Tally[str]()
    with requests.Session() as session:
        while not stop.is_set():
            answer = session.post(f"{url}/predictions/bin-counter", data=photo, timeout=60)
            mine[answer.json()["model_version"] if answer.ok else f"HTTP {answer.status_code}: {answer.text}"] += 1
    return mine


@contextmanager
def load(server: Scaled, clients: int) -> Iterator[Tally[str]]:
    """``clients`` that ask without pause; what they were answered is there when the context has ended."""
    stop, answers = threading.Event(), Tally[str]()
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask_until, stop, server.inference.url, server.photo) for _ in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
            for client in asking:
                answers.update(client.result())


def measured(server: Scaled, seconds: float) -> float:
    before = server.sample()
    time.sleep(seconds)  # what is measured is a span of time
    return busy_share(before, server.sample())


def captured(server: Scaled) -> int:
    """How many answers of version 1 are recorded."""
    lines = [line for path in server.capture.rglob("*.jsonl") for line in path.read_text().splitlines()]
    return sum(json.loads(line)["eventMetadata"]["binwatch"]["model_version"] == "1" for line in lines)


def until(done: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


def test_workers_are_busy_when_asked_without_pause_and_idle_at_rest(scaled: Scaled) -> None:
    assert measured(scaled, 2) < 0.02
    before = scaled.sample().work.answered
    with load(scaled, 4) as answers:
        until(lambda: scaled.sample().work.answered > before)
        busy = measured(scaled, 3)
    assert set(answers) == {"1"}
    assert busy > 0.8
    assert measured(scaled, 2) < 0.02


def test_half_a_load_is_about_half_busy(scaled: Scaled) -> None:
    """One client that rests as long as its answer took."""
    before, stop_at = scaled.sample(), time.monotonic() + 3
    while time.monotonic() < stop_at:
        start = time.monotonic()
        scaled.inference.predict(scaled.photo)
        time.sleep(time.monotonic() - start)
    assert 0.15 < busy_share(before, scaled.sample()) < 0.6


def test_no_request_fails_while_workers_come_and_go(scaled: Scaled) -> None:
    before = captured(scaled)
    with load(scaled, 4) as answers:
        for _ in range(rounds(3, 12)):
            for count in (2, 1):
                scaled.rollout.resize("1", count)
                assert scaled.workers() == count
    print(f"{answers.total()} requests, by version: {dict(answers)}")
    assert set(answers) == {"1"}
    assert answers.total() > 100
    until(lambda: captured(scaled) - before >= answers.total(), 10)  # no record went with a worker either
    assert [path.name for path in scaled.rollout.store.glob("*.mar")] == ["bin-counter-1.mar"]


def test_a_load_gets_a_second_worker_and_loses_it_at_rest(scaled: Scaled) -> None:
    policy = short_window(ScalingPolicy(most=2, out_cooldown_s=2, in_cooldown_s=2))
    scaler = Autoscaler(scaled.management, scaled.metrics, scaled.rollout, policy)
    with load(scaled, 4) as answers:
        until(lambda: scaler.step().workers == 2)
        assert scaled.workers() == 2
        assert scaled.rollout.workers == 2
    until(lambda: scaler.step().workers == 1)
    assert scaled.workers() == 1
    assert set(answers) == {"1"}


def test_a_dry_run_changes_no_worker(scaled: Scaled) -> None:
    scaler = Autoscaler(
        scaled.management, scaled.metrics, scaled.rollout, short_window(ScalingPolicy(most=2)), dry_run=True
    )
    with load(scaled, 4):
        until(lambda: scaler.step().workers == 2)
        assert scaled.workers() == 1


def test_scaling_in_that_was_cut_off_is_finished_by_the_promoters_next_round(
    scaled: Scaled, registry: Registry, trained: Trained, tmp_path: Path
) -> None:
    with registry.run("train") as run:
        run.log_file(trained.archive, "archive")
        run.log_file(trained.archive.with_name("evaluation.json"))
    assert registry.register(run.id, "approved", "because", "").number == "1"
    promoter = Promoter(registry, scaled.rollout, tmp_path / "accuracy.json")
    promoter.reconcile()
    scaled.rollout.load("1.0", lambda: scaled.rollout.store / "bin-counter-1.mar")
    scaled.rollout.switch("1.0")
    assert promoter.reconcile().did == "restored"
    assert [(loaded.version, loaded.default) for loaded in scaled.management.loaded()] == [("1", True)]


def test_the_promoter_scales_between_its_rounds_and_a_promotion_keeps_the_workers(
    scaled: Scaled, registry: Registry, trained: Trained, tmp_path: Path
) -> None:
    def version(compared_with: str) -> str:
        with registry.run("train") as run:
            run.log_file(trained.archive, "archive")
            run.log_file(trained.archive.with_name("evaluation.json"))
        return registry.register(run.id, "approved", "because", compared_with).number

    promoter = Promoter(registry, scaled.rollout, tmp_path / "accuracy.json")
    first = version("")
    policy = short_window(ScalingPolicy(most=2, out_cooldown_s=2, in_cooldown_s=600))
    scaler, stop = Autoscaler(scaled.management, scaled.metrics, scaled.rollout, policy), threading.Event()
    with ThreadPoolExecutor(1) as pool, load(scaled, 4) as answers:
        watching = pool.submit(watch, promoter, tmp_path / "heartbeat", 0.3, stop, scaler.step)
        try:
            until(lambda: [loaded.ready for loaded in scaled.management.loaded()] == [2])
            second = version(first)
            until(lambda: [(loaded.version, loaded.ready) for loaded in scaled.management.loaded()] == [(second, 2)])
        finally:
            stop.set()
            watching.result()
    assert set(answers) == {first, second}
