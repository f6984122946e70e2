"""The hyperparameter search: its trials are jobs, and a killed search resumes."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from serve.errors import DataError, TrainingError
from tests.conftest import rounds
from trainer.data.counts import Counts
from trainer.data.prepare import prepare
from trainer.experiments import runners, tune
from trainer.experiments.runners import EPOCHS, EpochReport, Job, RunningJob
from trainer.experiments.search_plots import importances, parallel_coordinates, search_history
from trainer.experiments.tune import Search, Space
from trainer.registry.mlflow_registry import Registry

ROOT = Path(__file__).parents[2]
SPACE = Space(("resnet18", "alexnet"))


class FakeJob:
    """A job that writes losses that depend on its learning rate, and ends."""

    def __init__(self, job: Job) -> None:
        rate, lines = float(job.hyperparameters["learning_rate"]), []
        for number in range(1, int(job.hyperparameters["epochs"]) + 1):
            lines.append(json.dumps({"number": number, "validation_loss": 1 + abs(rate - 0.01) * number}) + "\n")
        (job.base / "output" / EPOCHS).write_text("".join(lines))
        self.code: int | None = None

    def poll(self) -> int | None:
        self.code = 0 if self.code is None else self.code
        return self.code

    def stop(self) -> None:
        self.code = 143


class Failing(FakeJob):
    """A job that fails."""

    def __init__(self, job: Job) -> None:
        (job.base / "output" / "failure").write_text("the disk is full")
        self.code = 1


def search(out: Path, runner: runners.Runner = FakeJob, **changes: object) -> Search:
    fixed = {"recipe": "hpo-frozen", "epochs": "3"}
    standard = Search(out=out, data=out, fixed=fixed, environment={}, space=SPACE, runner=runner)
    return replace(standard, **changes)  # type: ignore[arg-type]


def test_takes_as_many_trials_as_were_asked_for(tmp_path: Path) -> None:
    trials = search(tmp_path, trials=6, parallel=2).run()
    assert len(trials) == 6
    assert {trial.state for trial in trials} <= {"complete", "pruned"}
    for trial in trials:
        assert 0.001 <= float(trial.params["learning_rate"]) <= 0.1
        assert trial.params["batch_size"] in (16, 32, 64)
        assert trial.params["architecture"] in SPACE.architectures
    assert len({json.dumps(trial.params) for trial in trials}) == 6
    assert search(tmp_path, trials=6).run() == trials, "nothing is left to do"
    assert len(search(tmp_path, trials=8).run()) == 8


def test_the_same_seed_searches_the_same_places(tmp_path: Path) -> None:
    first, second = (search(tmp_path / name).run() for name in "ab")
    assert [trial.params for trial in first] == [trial.params for trial in second]


def test_hopeless_trials_are_pruned(tmp_path: Path) -> None:
    trials = search(tmp_path, trials=12).run()
    assert Counter(trial.state for trial in trials)["pruned"] > 0
    best = min(trial.loss for trial in trials if trial.loss is not None)
    assert all(trial.loss is None for trial in trials if trial.state == "pruned")
    assert best < 1.02


def test_a_trial_that_fails_is_named_and_the_search_goes_on(tmp_path: Path) -> None:
    def sometimes(job: Job) -> RunningJob:
        return (Failing if float(job.hyperparameters["learning_rate"]) > 0.01 else FakeJob)(job)

    trials = search(tmp_path, sometimes, trials=8).run()
    assert len(trials) == 8
    failed = [trial for trial in trials if trial.state == "fail"]
    assert failed
    assert all("the disk is full" in trial.reason for trial in failed)
    with pytest.raises(TrainingError, match=r"\b2 trials .*the disk is full"):
        search(tmp_path / "bad", Failing, trials=2).run()


def test_an_earlier_study_warms_the_next_one_up(tmp_path: Path) -> None:
    search(tmp_path / "old", trials=5).run()
    trials = search(tmp_path / "new", trials=3).run(warm_start=tmp_path / "old")
    assert len(trials) == 3
    assert search(tmp_path / "new").importance().keys() == {"learning_rate", "batch_size", "architecture"}
    with pytest.raises(DataError, match=r"study\.log"):
        search(tmp_path / "third").run(warm_start=tmp_path)


def test_two_searches_in_one_folder_are_refused(tmp_path: Path) -> None:
    with tune._exclusive(tmp_path), pytest.raises(DataError, match=re.escape(str(tmp_path))):
        search(tmp_path).run()


def test_the_pictures_show_every_trial(tmp_path: Path) -> None:
    trials = search(tmp_path, trials=6).run()
    completed = [trial for trial in trials if trial.loss is not None]
    (axes,) = parallel_coordinates(trials).axes
    assert len(axes.lines) == len(completed)
    (axes,) = search_history(trials).axes
    assert len(axes.collections[0].get_offsets()) == len(completed)  # type: ignore[arg-type]
    (axes,) = importances(search(tmp_path).importance()).axes
    assert len(axes.patches) == 3


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    return prepare(drawn, tmp_path / "data", Counts()).folder


def job(tmp_path: Path, data: Path, **hyperparameters: str) -> Job:
    fixed = {"recipe": "hpo-frozen", "architecture": "resnet18", "weights": "none", "size_px": "32", "epochs": "2"}
    return Job(tmp_path / "job", data, {**fixed, "export": "false", **hyperparameters}, {"MLFLOW_TRACKING_URI": ""})


def test_a_process_runs_a_job(tmp_path: Path, data: Path) -> None:
    numbers: list[int] = []

    def on_epoch(epoch: EpochReport) -> bool:
        numbers.append(epoch.number)
        return True

    runners.run(runners.runner("process"), job(tmp_path, data), on_epoch)
    assert numbers == [1, 2]
    with pytest.raises(TrainingError, match="'resnet99'"):
        runners.run(runners.runner("process"), job(tmp_path, data, architecture="resnet99"))


def test_a_job_is_stopped_when_it_is_not_wanted_any_more(tmp_path: Path, data: Path) -> None:
    long = job(tmp_path, data, epochs="5000")
    runners.run(runners.runner("process"), long, lambda epoch: epoch.number < 3)
    assert 3 <= len(long.epochs()) < 5000


def command(study: Path, data: Path, url: str, parallel: int) -> list[str]:
    return [
        sys.executable,
        "scripts/tune.py",
        "--data",
        str(data),
        "--out",
        str(study),
        "--trials",
        "3",
        "--architectures",
        "resnet18",
        "--weights",
        "none",
        "--size-px",
        "32",
        "--epochs",
        "30",
        "--json",
        "--parallel",
        str(parallel),
        "--tracking-uri",
        url,
    ]


@pytest.mark.parametrize("parallel", [2, 1][: rounds(1, 2)])
@pytest.mark.parametrize("seed", range(rounds(1, 5)))
def test_a_search_killed_in_the_middle_of_a_trial_is_finished_by_the_next_start(
    tmp_path: Path, data: Path, registry: Registry, parallel: int, seed: int
) -> None:
    study = tmp_path / "study"
    killed = subprocess.Popen(command(study, data, registry.uri, parallel), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(study.glob("trials/*/checkpoints/*.pt")) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    threading.Event().wait(random.Random(seed).uniform(0, 3))  # the moment is the test
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    started = {path.name for path in study.glob("trials/*")}
    finished = subprocess.run(command(study, data, registry.uri, parallel), cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert len(result["trials"]) == 3
    assert started <= {path.name for path in study.glob("trials/*")}
    assert len(list(study.glob("trials/*"))) == 3, "nothing lost, nothing twice"
    client = MlflowClient(registry.uri, registry.uri)
    experiment = client.get_run(result["run"]).info.experiment_id
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['run']}'")
    states = Counter(run.info.status for run in nested)
    assert states["FINISHED"] + states["KILLED"] == len(nested), "no run seems to go on"
    ended = Counter(run.info.run_name for run in nested if run.info.status == "FINISHED")
    assert set(ended.values()) == {1}
    assert client.get_run(result["run"]).info.status == "FINISHED"
    artifacts = {artifact.path for artifact in client.list_artifacts(result["run"])}
    assert artifacts == {"trials.json", "history.png", "parallel_coordinates.png", "importance.png"}
    assert not any(_alive(path) for path in study.glob("trials/*/pid")), "no job was left behind"


def _alive(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_journal_that_was_cut_off_in_a_line_goes_on(tmp_path: Path) -> None:
    search(tmp_path, trials=3).run()
    journal = tmp_path / "study.log"
    whole, rng = journal.read_bytes(), random.Random(0)
    for cut in rng.sample(range(len(whole)), rounds(8, 200)):
        journal.write_bytes(whole[:cut] + rng.choice((b"", bytes(50))))
        assert len(search(tmp_path, trials=3).run()) == 3


@pytest.mark.parametrize("data", [b"hello\nworld\n", b"1\n2\n", b'{"op_code": 0}\n', b"\xff\n{}\n"])
def test_a_journal_that_is_none_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "study.log").write_bytes(data)
    with pytest.raises(DataError, match=r"study\.log"):
        search(tmp_path).run()
