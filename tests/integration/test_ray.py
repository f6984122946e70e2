"""Jobs on a cluster of Ray: a lost host costs an epoch, a pruned trial is stopped, several hosts train one model."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.errors import SettingsError
from tests.conftest import proof
from tests.integration.raylets import TOKEN, Raylets, raylets
from trainer.data.counts import Counts
from trainer.data.prepare import prepare
from trainer.experiments import runners
from trainer.experiments.runners import EpochReport, Job
from trainer.experiments.runners.ray_job import RayRunner
from trainer.experiments.tune import Search, Space, Trial

CLOSE = 4e-3
FIXED = {"recipe": "hpo-frozen", "architecture": "resnet18", "weights": "none", "size_px": "32", "seed": "0"}
SHARED = {"recipe": "tiny", "epochs": "2", "batch_size": "16", "limit": "90", "learning_rate": "0.0001"}
START_S = 120
ALONE = {"MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1"}
"""Without MLflow; with more threads, sums round differently."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    os.environ.update(TOKEN)  # Ray reads it when it is imported
    import ray

    with raylets() as cluster:
        RayRunner(address=cluster.address).connect()  # to the head, which no test loses: later it may be any node
        yield cluster
        ray.shutdown()
    for name in TOKEN:
        del os.environ[name]


@pytest.fixture(scope="module")
def data(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(drawn, tmp_path_factory.mktemp("prepared") / "data", Counts()).folder


def job(base: Path, data: Path, **hyperparameters: str) -> Job:
    return Job(base, data, {"export": "false", **hyperparameters}, ALONE)


def losses(job: Job) -> dict[int, float]:
    return {epoch.number: epoch.validation_loss for epoch in job.epochs()}


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="RAY_ADDRESS"):
        runners.runner("ray")


@proof
def test_a_job_whose_host_is_lost_goes_on_elsewhere_with_the_same_losses(
    cluster: Raylets, data: Path, tmp_path: Path
) -> None:
    import ray
    from ray._common.usage import usage_lib

    lost, added = cluster.add(2, cpus=1), threading.Thread(target=cluster.add, args=(3, 1))
    runner = runners.runner("ray", RayRunner(address=cluster.address))
    assert not usage_lib.usage_stats_enabled(), "no telemetry is sent"
    assert ray.get_runtime_context().namespace == "binwatch"
    on_cluster, numbers = job(tmp_path / "job", data, **FIXED, epochs="60"), list[int]()

    def on_epoch(epoch: EpochReport) -> bool:
        numbers.append(epoch.number)
        if epoch.number == 10:
            assert cluster.processes(lost)
            cluster.lose(lost)
            added.start()
        return True

    assert runners.run(runner, on_cluster, on_epoch)
    added.join()
    assert numbers == list(range(1, 61)), "no epoch is lost, and none is reported twice"
    log = (on_cluster.base / "output" / "log.txt").read_text()
    assert log.count("trains in float32") == 1, "it began once, and resumed from its checkpoint"
    alone = job(tmp_path / "alone", data, **FIXED, epochs="60")
    assert runners.run(runners.runner("process"), alone)
    assert losses(on_cluster) == losses(alone)


@proof
def test_a_job_that_is_pruned_gets_sigterm_and_leaves_a_checkpoint(
    cluster: Raylets, data: Path, tmp_path: Path
) -> None:
    if "node-3" not in cluster.names:
        cluster.add(3, cpus=1)
    long = job(tmp_path / "long", data, **FIXED, epochs="5000")
    assert not runners.run(RayRunner(address=cluster.address), long, lambda epoch: epoch.number < 3)
    assert 3 <= len(long.epochs()) < 5000
    assert list((long.base / "checkpoints").iterdir())
    assert not cluster_jobs(long.base), "nothing is left running"


def cluster_jobs(base: Path) -> list[str]:
    mark = f"SAGEMAKER_BASE_DIR={base}".encode()
    deadline = time.monotonic() + 10
    while True:
        running = [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in read_bytes(path)]
        if not running or time.monotonic() > deadline:
            return running
        threading.Event().wait(0.1)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@proof
def test_two_hosts_of_a_cluster_learn_what_one_learns(cluster: Raylets, drawn: Path, tmp_path: Path) -> None:
    cluster.add(4, cpus=1)
    both, alone = (job(tmp_path / name, drawn, **SHARED) for name in ("both", "alone"))
    assert runners.run(RayRunner(address=cluster.address, hosts=2), both)
    assert runners.run(runners.runner("process"), alone)
    assert losses(both) == pytest.approx(losses(alone), abs=CLOSE)


def best(trials: list[Trial]) -> Trial:
    return min((trial for trial in trials if trial.loss is not None), key=lambda trial: trial.loss or 0.0)


@proof
def test_a_search_on_three_hosts_of_which_one_is_lost_finds_the_same_best_trial(
    cluster: Raylets, data: Path, tmp_path: Path
) -> None:
    for name in cluster.names[1:]:
        cluster.lose(name)
    nodes = [cluster.add(number, cpus=1) for number in (5, 6, 7)]
    ray_runner, begun = RayRunner(address=cluster.address), threading.Event()

    def search(name: str, runner: runners.Runner, parallel: int) -> list[Trial]:
        start = time.monotonic()
        trials = Search(
            out=tmp_path / name,
            data=data,
            fixed={**FIXED, "epochs": "20"},
            environment=ALONE,
            space=Space(("resnet18",)),
            runner=runner,
            trials=6,
            parallel=parallel,
            random_trials=6,
        ).run()
        print(f"{name}: {time.monotonic() - start:.1f} s, {json.dumps(best(trials).params)}")
        return trials

    def lose_one() -> None:
        deadline = time.monotonic() + START_S
        while not list(tmp_path.glob("three/trials/*/checkpoints/*.pt")) and time.monotonic() < deadline:
            begun.wait(0.1)
        cluster.lose(nodes[0])
        cluster.add(8, cpus=1)

    thread = threading.Thread(target=lose_one)
    thread.start()
    three = search("three", ray_runner, 3)
    thread.join()
    process = search("process", runners.runner("process"), 1)
    assert len(three) == len(process) == 6
    assert best(three).params == best(process).params
    assert best(three).loss == best(process).loss
    for name in nodes:
        cluster.lose(name)
    assert best(search("one", ray_runner, 3)).params == best(process).params
