"""Executions that are triggered, cut off at any point, resumed, and never do anything twice."""

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mlflow import MlflowClient

from serve.errors import DataError, LockHeldError, TrackingError, TrainingError
from serve.objects.folder_objects import FolderObjects
from tests import old_step_tags
from tests.conftest import rounds
from tests.integration.mortal import Killed, flaky, mortal, promoting
from tests.models import TINY
from trainer.artifacts import DONE_TAG, EXECUTION_KIND, KIND_TAG, MODEL_NAME, REQUEST_TAG, TOKEN_TAG
from trainer.data import prepared
from trainer.data.dataset import DataSpec
from trainer.evaluation import policy
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline import execution_lock
from trainer.pipeline.execution import Execution, ExecutionRequest, Retry
from trainer.pipeline.new_photos import NewPhotos
from trainer.pipeline.pipeline import ExecutionOptions, prepared_folder, request_of, runs_of
from trainer.pipeline.triggers import Limits, read_state
from trainer.pipeline.watcher import MAX_STARTS, PipelineWatcher
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry

GREATER = GatePolicy(rule=policy.GREATER).without_guards()
"""A barely trained model passes it: these tests are not about the gate."""
LIMITS = Limits(new_photos=20, new_share=0.05, cooldown_s=0)
STEPS = ["prepare", "train", "evaluate", "gate", "promote"]
WRITES = 80
"""More than an execution sends to MLflow where training and evaluation are cached."""


class Notifications(list[tuple[bool, str]]):
    """Records the notifications about failures."""

    def __call__(self, failing: bool, reason: str) -> None:
        self.append((failing, reason))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def make_watcher(registry: Registry, source: Path, state: Path, **kwargs: Any) -> PipelineWatcher:
    options = ExecutionOptions(state=state, retry=Retry(3, 0.01), policy=GREATER)
    request = ExecutionRequest(DataSpec(source), TINY)
    new_photos = NewPhotos(request.spec, settled_s=0)
    return PipelineWatcher(
        registry, request, promoting(registry), options, limits=LIMITS, new_photos=new_photos, **kwargs
    )


def cached(execution: Execution) -> dict[str, bool]:
    return {step.name: step.cached for step in execution.steps}


@pytest.fixture
def known(mlflow_url: str, drawn: Path, state: Path) -> None:
    """An MLflow that knows the training of the drawn bins, and a state folder where they are prepared."""
    registry = Registry(mlflow_url)
    make_watcher(registry, drawn, state).run_once()
    client = MlflowClient(mlflow_url, mlflow_url)
    client.delete_registered_model(MODEL_NAME)
    for path in state.iterdir():  # as if there had been no execution, but the photos are prepared
        if path.is_file():
            path.unlink()


def assert_whole(registry: Registry, execution: Execution, state: Path) -> None:
    """One champion, one version, one run a step, nothing left behind."""
    assert (execution.decision, [step.name for step in execution.steps]) == ("promoted", STEPS)
    champion = registry.alias(CHAMPION)
    assert [(version.number, version.status) for version in registry.versions()] == [("1", Status.PROMOTED)]
    assert champion
    assert champion.number == "1"
    nested = registry.nested(execution.id)
    assert sorted(run.name for run in nested if run.status == "FINISHED") == sorted(STEPS)
    assert {run.status for run in nested} <= {"FINISHED", "KILLED"}
    assert not [run for run in registry.runs("attributes.status = 'RUNNING'") if run.parent == execution.id]
    assert json.loads(registry.read_text(execution.id, "execution.json") or "")["decision"] == "promoted"
    assert execution_lock.read_unfinished(state) is None
    assert read_state(state).failures == 0


def test_what_has_not_changed_comes_from_the_cache(registry: Registry, drawn: Path, state: Path) -> None:
    first = make_watcher(registry, drawn, state).run_once()
    assert first.decision == "promoted"
    second = make_watcher(registry, drawn, state).run_once()
    assert cached(second) == {"prepare": False, "train": True, "evaluate": True, "gate": False, "promote": False}
    assert second.decision == "refused"
    assert "champion, version 1" in second.reasons[0]
    assert len(registry.versions()) == 1
    assert second.challenger == second.champion
    assert sum(step.seconds for step in second.steps) < sum(step.seconds for step in first.steps) + 5

    # another recipe is trained; the champion stays as it was
    reseeded = ExecutionRequest(DataSpec(drawn), replace(TINY, seed=1))
    options = ExecutionOptions(state=state, policy=GREATER)
    third = PipelineWatcher(registry, reseeded, promoting(registry), options).run_once()
    assert (cached(third)["train"], cached(third)["evaluate"]) == (False, False)
    assert len(registry.versions()) == 2
    fourth = PipelineWatcher(registry, replace(reseeded, token="fourth"), promoting(registry), options).run_once()
    assert (cached(fourth)["train"], cached(fourth)["evaluate"], fourth.challenger) == (True, True, third.challenger)
    assert len(registry.versions()) == 2  # decided on against the same champion before


@pytest.mark.usefixtures("known")
def test_killed_anywhere_it_resumes_and_does_nothing_twice(
    registry: Registry, mlflow_url: str, drawn: Path, state: Path, tmp_path: Path
) -> None:
    points = [(write, late) for write in range(1, WRITES) for late in (False, True)]
    Random(7).shuffle(points)
    died = 0
    for number, (write, late) in enumerate(points[: rounds(4, len(points))]):
        own_state = tmp_path / str(number)
        shutil.copytree(state, own_state)
        cut, counted = mortal(mlflow_url, write, late)
        try:
            make_watcher(cut, drawn, own_state).poll()
        except Killed:
            died += 1
        else:
            assert counted.writes < write
            MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)
            continue
        unfinished = execution_lock.read_unfinished(own_state)
        assert unfinished
        assert unfinished.starts == 1
        before = runs_of(registry, unfinished.request.token)
        execution = make_watcher(registry, drawn, own_state).poll()
        assert execution
        assert [execution.id] == [run.id for run in before] or not before, (write, late)
        assert_whole(registry, execution, own_state)
        assert make_watcher(registry, drawn, own_state).poll() is None  # and it is over
        MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)
    assert died > 0


@pytest.mark.usefixtures("known")
def test_an_end_that_was_not_recorded_is_recorded_after_a_restart(registry: Registry, drawn: Path, state: Path) -> None:
    notifications = Notifications()
    first = make_watcher(registry, drawn, state, notify=notifications).poll()
    assert first
    execution_lock.mark_started(state, request_of(registry, first.id))
    resumed = make_watcher(registry, drawn, state, notify=notifications).poll()
    assert resumed
    assert (resumed.id, resumed.decision, resumed.resumed) == (first.id, "promoted", 1)
    assert [replace(step, seconds=0) for step in resumed.steps] == [replace(step, seconds=0) for step in first.steps]
    assert_whole(registry, resumed, state)
    assert notifications == []


def old_tags(registry: Registry, state: Path, source: Path) -> dict[str, str]:
    """Tags as commit 8ed89dd wrote them, of the training that MLflow knows."""
    train = next(run for run in registry.runs("attributes.run_name = 'train'") if DONE_TAG in run.tags)
    outputs = json.loads(train.tags[DONE_TAG])["outputs"]
    tags = {
        "prepare": old_step_tags.PREPARE.replace(
            "/state/prepared/0123456789ab", str(prepared_folder(state, DataSpec(source)))
        ),
        "train": old_step_tags.TRAIN.replace("all-photos", outputs["fingerprint"])
        .replace("test-photos", outputs["test_fingerprint"])
        .replace("archive-sha", outputs["archive_sha256"]),
        "evaluate": old_step_tags.EVALUATE_FIRST,
    }
    return {name: tag.replace("train-run", outputs["run_id"]) for name, tag in tags.items()}


@pytest.mark.usefixtures("known")
def test_an_execution_that_older_code_started_is_resumed(registry: Registry, drawn: Path, state: Path) -> None:
    request, tags = ExecutionRequest(DataSpec(drawn), TINY), old_tags(registry, state, drawn)
    execution_tags = {KIND_TAG: EXECUTION_KIND, TOKEN_TAG: request.token, REQUEST_TAG: request.to_json()}
    with registry.run("execution", tags=execution_tags) as run:
        for name, tag in tags.items():
            with registry.run(name, run.id, tags={DONE_TAG: tag}):
                pass
    execution_lock.mark_started(state, request)
    execution = make_watcher(registry, drawn, state).poll()
    assert execution
    assert (execution.id, execution.resumed) == (run.id, 1)
    assert [step.seconds for step in execution.steps[:3]] == [1.25, 61.5, 3.75]  # those of the tags
    assert_whole(registry, execution, state)
    by_name = {step.name: step.tags[DONE_TAG] for step in registry.nested(run.id)}
    for name, old_tag in {"gate": old_step_tags.GATE_FIRST, "promote": old_step_tags.PROMOTE}.items():
        new, old = json.loads(by_name[name]), json.loads(old_tag)
        assert (new["step"].keys(), new["outputs"].keys()) == (old["step"].keys(), old["outputs"].keys())


@pytest.mark.usefixtures("known")
def test_an_execution_with_a_damaged_tag_fails_with_one_clear_error(
    registry: Registry, drawn: Path, state: Path
) -> None:
    request = ExecutionRequest(DataSpec(drawn), TINY)
    with (
        registry.run("execution", tags={TOKEN_TAG: request.token}) as run,
        registry.run("prepare", run.id, tags={DONE_TAG: '{"step": '}),
    ):
        pass
    execution_lock.mark_started(state, request)
    with pytest.raises(DataError, match=DONE_TAG):
        make_watcher(registry, drawn, state).poll()
    assert runs_of(registry, request.token)[0].status == "FAILED"
    assert (execution_lock.read_unfinished(state), read_state(state).failures) == (None, 1)


@pytest.mark.usefixtures("known")
def test_an_mlflow_that_is_away_for_a_moment_costs_an_attempt(mlflow_url: str, drawn: Path, state: Path) -> None:
    registry = Registry(mlflow_url)
    for write in Random(3).sample(range(6, 30), rounds(1, 20)):
        execution = make_watcher(flaky(mlflow_url, write), drawn, state).run_once()
        assert execution.decision == "promoted"
        assert sum(step.attempts for step in execution.steps) <= len(STEPS) + 1
        assert len(registry.versions()) == 1
        MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)


def test_a_failure_is_notified_once_and_the_champion_serves_on(registry: Registry, drawn: Path, tmp_path: Path) -> None:
    state, source, notifications = tmp_path / "state", tmp_path / "source", Notifications()
    with registry.run("train") as run:
        pass
    registry.set_champion(registry.register(run.id, Status.PROMOTED, "first", "").number)
    (source / "bin-images").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(DataError, match="no folder metadata"):
            make_watcher(registry, source, state, notify=notifications).run_once()
    assert [failing for failing, _ in notifications] == [True]
    assert "no folder metadata" in notifications[0][1]
    assert read_state(state).failures == 2
    assert execution_lock.read_unfinished(state) is None
    newest = registry.runs("tags.`binwatch.kind` = 'execution'")[0]
    assert newest.status == "FAILED"
    step = json.loads(registry.read_text(newest.id, "execution.json") or "")["steps"][0]
    assert (step["name"], step["status"], step["attempts"]) == ("prepare", "Failed", 1)  # not transient
    champion = registry.alias(CHAMPION)
    assert champion
    assert champion.number == "1"


def test_mlflow_away_for_long_fails_the_execution_and_it_can_be_resumed(
    registry: Registry, mlflow_url: str, drawn: Path, state: Path
) -> None:
    with pytest.raises(TrackingError, match="the connection was reset"):
        make_watcher(flaky(mlflow_url, 4, 1000), drawn, state).run_once()
    run = registry.runs("tags.`binwatch.kind` = 'execution'")[0]
    with pytest.raises(DataError, match=r"'' is no request"):
        make_watcher(registry, drawn, state).resume(registry.nested(run.id)[0].id)
    execution = make_watcher(registry, drawn, state).resume(run.id)
    assert (execution.id, execution.resumed) == (run.id, 1)
    assert_whole(registry, execution, state)


@pytest.mark.usefixtures("known")
def test_the_runs_of_an_execution_that_gave_up_without_mlflow_end_when_it_is_back(
    registry: Registry, mlflow_url: str, drawn: Path, state: Path
) -> None:
    with pytest.raises(TrackingError, match="the connection was reset"):
        make_watcher(flaky(mlflow_url, 8, 1000), drawn, state).run_once()
    query = f"tags.`{KIND_TAG}` = '{EXECUTION_KIND}'"
    run = registry.runs(query)[0]
    assert run.status == "RUNNING"
    assert len(execution_lock.read_unended(state)) == 1
    assert make_watcher(registry, drawn, state).poll() is None  # it waits after a failure
    assert registry.runs(query)[0].status == "FAILED"
    assert not [step for step in registry.nested(run.id) if step.status == "RUNNING"]
    assert execution_lock.read_unended(state) == []


@pytest.mark.usefixtures("known")
def test_the_first_execution_knows_also_the_photos_that_were_just_written(
    registry: Registry, drawn: Path, state: Path
) -> None:
    request = ExecutionRequest(DataSpec(drawn), TINY)
    unsettled = NewPhotos(request.spec, settled_s=10**9)
    assert unsettled.poll(frozenset()).ids == frozenset()
    options = ExecutionOptions(state=state, policy=GREATER)
    first = PipelineWatcher(registry, request, promoting(registry), options, new_photos=unsettled)
    assert first.poll()
    inputs = make_watcher(registry, drawn, state)._read_inputs()
    assert (inputs.has_champion, inputs.new_photos, inputs.known_photos) == (True, 0, 300)


@pytest.mark.usefixtures("known")
def test_a_champion_whose_archive_is_lost_does_not_stop_the_pipeline(
    registry: Registry, drawn: Path, state: Path
) -> None:
    make_watcher(registry, drawn, state).run_once()
    champion = registry.alias(CHAMPION)
    assert champion
    options = ExecutionOptions(state=state, policy=GREATER)

    def run(seed: int) -> Execution:
        request = ExecutionRequest(DataSpec(drawn), replace(TINY, seed=seed))
        return PipelineWatcher(registry, request, promoting(registry), options).run_once()

    registry.delete_artifact(champion.run_id, "archive")
    known_answers = run(1)
    assert known_answers.champion
    assert known_answers.champion.version == champion.number
    registry.set_champion(champion.number)
    registry.delete_artifact(champion.run_id, "evaluation.json")
    nothing = run(2)
    assert nothing.champion is None
    assert any(f"version {champion.number}, the champion, are lost" in reason for reason in nothing.reasons)


def test_an_execution_that_keeps_dying_is_given_up(registry: Registry, drawn: Path, state: Path) -> None:
    notifications, request = Notifications(), ExecutionRequest(DataSpec(drawn), TINY)
    with registry.run("execution", tags={"binwatch.token": request.token}):
        for _ in range(MAX_STARTS):
            execution_lock.mark_started(state, request)
        with pytest.raises(TrainingError, match=f" {MAX_STARTS} times"):
            make_watcher(registry, drawn, state, notify=notifications).poll()
        assert runs_of(registry, request.token)[0].status == "FAILED"
    assert execution_lock.read_unfinished(state) is None
    assert [failing for failing, _ in notifications] == [True]
    execution_lock.mark_started(state, request)
    execution_lock.mark_interrupted(state)  # a requested stop is no crash
    assert execution_lock.mark_started(state, request).starts == 1


def test_new_photos_start_an_execution_in_which_old_ones_keep_their_split(
    registry: Registry, drawn: Path, tmp_path: Path
) -> None:
    state, source, new_paths = tmp_path / "state", tmp_path / "source", []
    for folder in ("bin-images", "metadata"):
        (source / folder).mkdir(parents=True)
        paths = sorted((drawn / folder).iterdir())
        new_paths += paths[250:]
        for path in paths[:250]:
            shutil.copy(path, source / folder)
    watcher = make_watcher(registry, source, state)
    first = watcher.poll()
    assert first
    assert len(first.why) == 1
    assert "no champion" in first.why[0]
    assert watcher.poll() is None
    before = {row.id: row.split for row in prepared.read(prepared_folder(state, DataSpec(source))).rows}
    for path in new_paths:
        shutil.copy(path, source / path.parent.name)
    second = watcher.poll()
    assert second
    assert len(second.why) == 1
    assert "50 new labelled photos" in second.why[0]
    assert str(len(before)) in second.why[0]
    after = {row.id: row.split for row in prepared.read(prepared_folder(state, DataSpec(source))).rows}
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert second.champion
    assert second.champion.version == "1"
    assert watcher.poll() is None


def test_drift_starts_one_execution(registry: Registry, drawn: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    monitoring = FolderObjects(tmp_path)
    watcher = make_watcher(registry, drawn, state, monitoring=monitoring)
    assert watcher.poll()
    assert watcher.poll() is None
    made_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    report = json.dumps({"made_at": made_at, "alerts": [{"name": "drift of brightness"}]})
    (tmp_path / "monitoring.json").write_text(report)
    execution = watcher.poll()
    assert execution
    assert len(execution.why) == 1
    assert "drift of brightness" in execution.why[0]
    assert execution.decision == "refused"  # there is nothing new to learn from, and it costs no training
    assert cached(execution)["train"]
    assert (
        make_watcher(registry, drawn, state, monitoring=FolderObjects(tmp_path)).poll() is None
    )  # nor after a restart


def test_there_is_one_execution_at_a_time_and_the_second_names_the_holder_of_the_lock(
    registry: Registry, drawn: Path, state: Path
) -> None:
    code = "import sys, time; from pathlib import Path; from trainer.pipeline.execution_lock import lock_state\n"
    code += "with lock_state(Path(sys.argv[1]), 'a long execution'):\n    print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(state)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockHeldError, match=rf"a long execution, process {holder.pid} on .* since 20"):
            make_watcher(registry, drawn, state).run_once()
        assert registry.versions() == []
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout
        holder.stdout.close()
    start = time.monotonic()
    with execution_lock.lock_state(state, "another"):  # a kill frees it at once
        assert time.monotonic() - start < 1


def test_an_execution_waits_for_a_pruning_that_ends_soon(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    order: list[str] = []
    pruning, waited = threading.Event(), threading.Event()

    def prune() -> None:
        with execution_lock.lock_state(state, execution_lock.PRUNING):
            pruning.set()
            waited.wait(30)
            order.append("pruned")

    def execute() -> None:
        with execution_lock.lock_state(state, "an execution"):
            order.append("executed")

    with ThreadPoolExecutor(2) as pool:
        pruned = pool.submit(prune)
        assert pruning.wait(30)
        executed = pool.submit(execute)
        deadline = time.monotonic() + 30
        while "waiting for the pruning" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(LockHeldError, match="the pruning"):  # a second pruning does not wait
            execution_lock.lock_state(state, execution_lock.PRUNING).__enter__()
        waited.set()
        pruned.result(30)
        executed.result(30)
    assert order == ["pruned", "executed"]
    assert caplog.text.count("waiting for the pruning") == 1
