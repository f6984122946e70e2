"""Executions that start by themselves, are cut off anywhere, go on, and never do a thing twice."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mlflow import MlflowClient

from serve.errors import DataError, HeldError, TrackingError, TrainingError
from tests.conftest import TINY, rounds
from tests.integration.mortal import Killed, flaky, mortal, promoting
from trainer.artifacts import MODEL_NAME
from trainer.data import prepared
from trainer.data.dataset import DataSpec
from trainer.evaluation import policy
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline import execution_lock
from trainer.pipeline.execution import Execution, ExecutionRequest, Retry
from trainer.pipeline.new_photos import NewPhotos
from trainer.pipeline.pipeline import ExecutionOptions, prepared_folder, request_of, runs_of
from trainer.pipeline.triggers import Limits, read_past
from trainer.pipeline.watcher import MOST_STARTS, PipelineWatcher
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import CHAMPION, Status

GREATER = GatePolicy(rule=policy.GREATER).without_guards()
"""A model that is barely trained passes it: what is tested here is not the gate."""
LIMITS = Limits(new_photos=20, new_share=0.05, cooldown_s=0)
STEPS = ["prepare", "train", "evaluate", "gate", "promote"]
WRITES = 80
"""More than an execution sends to MLflow where training and evaluation are cached."""


class Told(list[tuple[bool, str]]):
    """What was told of failures."""

    def __call__(self, failing: bool, reason: str) -> None:
        self.append((failing, reason))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def keeper(registry: Registry, source: Path, state: Path, **more: Any) -> PipelineWatcher:
    how = ExecutionOptions(state, retry=Retry(3, 0.01), policy=GREATER)
    request = ExecutionRequest(DataSpec(source), TINY)
    arrivals = NewPhotos(request.spec, settled_s=0)
    return PipelineWatcher(registry, request, promoting(registry), how, limits=LIMITS, arrivals=arrivals, **more)


def cached(execution: Execution) -> dict[str, bool]:
    return {step.name: step.cached for step in execution.steps}


@pytest.fixture
def known(mlflow_url: str, drawn: Path, state: Path) -> None:
    """An MLflow that knows the training of the drawn bins, and a state folder where they are prepared."""
    registry = Registry(mlflow_url)
    keeper(registry, drawn, state).once()
    client = MlflowClient(mlflow_url, mlflow_url)
    client.delete_registered_model(MODEL_NAME)
    for path in state.iterdir():  # as if there had been no execution, but the photos are prepared
        if path.is_file():
            path.unlink()


def assert_whole(registry: Registry, execution: Execution, state: Path) -> None:
    """One champion, one version, one run a step, nothing left behind."""
    assert (execution.decision, [step.name for step in execution.steps]) == ("promoted", STEPS)
    champion = registry.alias(CHAMPION)
    assert [(each.number, each.status) for each in registry.versions()] == [("1", Status.PROMOTED)]
    assert champion
    assert champion.number == "1"
    nested = registry.nested(execution.id)
    assert sorted(each.name for each in nested if each.status == "FINISHED") == sorted(STEPS)
    assert {each.status for each in nested} <= {"FINISHED", "KILLED"}
    assert not [each for each in registry.runs("attributes.status = 'RUNNING'") if each.parent == execution.id]
    assert json.loads(registry.read_text(execution.id, "execution.json") or "")["decision"] == "promoted"
    assert execution_lock.read(state) is None
    assert read_past(state).failures == 0


def test_what_has_not_changed_comes_from_the_cache(registry: Registry, drawn: Path, state: Path) -> None:
    first = keeper(registry, drawn, state).once()
    assert first.decision == "promoted"
    second = keeper(registry, drawn, state).once()
    assert cached(second) == {"prepare": False, "train": True, "evaluate": True, "gate": False, "promote": False}
    assert second.decision == "refused"
    assert second.reasons[0] == "photos, recipe and code are those of the champion, version 1"
    assert len(registry.versions()) == 1
    assert second.challenger == second.champion
    assert sum(step.seconds for step in second.steps) < sum(step.seconds for step in first.steps) + 5

    other = ExecutionRequest(
        DataSpec(drawn), replace(TINY, seed=1)
    )  # another recipe is trained; the champion is as it was
    third = PipelineWatcher(registry, other, promoting(registry), ExecutionOptions(state, policy=GREATER)).once()
    assert (cached(third)["train"], cached(third)["evaluate"]) == (False, False)
    assert len(registry.versions()) == 2
    again = PipelineWatcher(
        registry, replace(other, token="again"), promoting(registry), ExecutionOptions(state, policy=GREATER)
    ).once()
    assert (cached(again)["train"], cached(again)["evaluate"], again.challenger) == (True, True, third.challenger)
    assert len(registry.versions()) == 2  # decided on against the same champion before


@pytest.mark.usefixtures("known")
def test_killed_anywhere_it_goes_on_and_does_nothing_twice(
    registry: Registry, mlflow_url: str, drawn: Path, state: Path, tmp_path: Path
) -> None:
    points = [(write, late) for write in range(1, WRITES) for late in (False, True)]
    Random(7).shuffle(points)
    died = 0
    for number, (write, late) in enumerate(points[: rounds(4, len(points))]):
        mine = tmp_path / str(number)
        shutil.copytree(state, mine)
        cut, counted = mortal(mlflow_url, write, late)
        try:
            keeper(cut, drawn, mine).look()
        except Killed:
            died += 1
        else:
            assert counted.writes < write
            MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)
            continue
        left = execution_lock.read(mine)
        assert left
        assert left.starts == 1
        before = runs_of(registry, left.request)
        execution = keeper(registry, drawn, mine).look()
        assert execution
        assert [execution.id] == [each.id for each in before] or not before, (write, late)
        assert_whole(registry, execution, mine)
        assert keeper(registry, drawn, mine).look() is None  # and it is over
        MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)
    assert died > 0


@pytest.mark.usefixtures("known")
def test_an_end_that_was_not_written_down_ends_once_more(registry: Registry, drawn: Path, state: Path) -> None:
    told = Told()
    first = keeper(registry, drawn, state, tell=told).look()
    assert first
    execution_lock.mark_started(state, request_of(registry, first.id))
    again = keeper(registry, drawn, state, tell=told).look()
    assert again
    assert (again.id, again.decision, again.resumed) == (first.id, "promoted", 1)
    assert [replace(step, seconds=0) for step in again.steps] == [replace(step, seconds=0) for step in first.steps]
    assert_whole(registry, again, state)
    assert told == []


@pytest.mark.usefixtures("known")
def test_an_mlflow_that_is_away_for_a_moment_costs_an_attempt(mlflow_url: str, drawn: Path, state: Path) -> None:
    registry = Registry(mlflow_url)
    for write in Random(3).sample(range(6, 30), rounds(1, 20)):
        execution = keeper(flaky(mlflow_url, write), drawn, state).once()
        assert execution.decision == "promoted"
        assert sum(step.attempts for step in execution.steps) <= len(STEPS) + 1
        assert len(registry.versions()) == 1
        MlflowClient(mlflow_url, mlflow_url).delete_registered_model(MODEL_NAME)


def test_a_failure_is_told_once_and_the_champion_serves_on(registry: Registry, drawn: Path, tmp_path: Path) -> None:
    state, source, told = tmp_path / "state", tmp_path / "source", Told()
    with registry.run("train") as run:
        pass
    registry.set_champion(registry.register(run.id, Status.PROMOTED, "first", "").number)
    (source / "bin-images").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(DataError, match="no folder metadata"):
            keeper(registry, source, state, tell=told).once()
    assert [failing for failing, _ in told] == [True]
    assert "no folder metadata" in told[0][1]
    assert read_past(state).failures == 2
    assert execution_lock.read(state) is None
    newest = registry.runs("tags.`binwatch.kind` = 'execution'")[0]
    assert newest.status == "FAILED"
    step = json.loads(registry.read_text(newest.id, "execution.json") or "")["steps"][0]
    assert (step["name"], step["status"], step["attempts"]) == ("prepare", "Failed", 1)  # it cannot pass
    champion = registry.alias(CHAMPION)
    assert champion
    assert champion.number == "1"


def test_mlflow_away_for_long_fails_the_execution_and_it_can_be_resumed(
    registry: Registry, mlflow_url: str, drawn: Path, state: Path
) -> None:
    with pytest.raises(TrackingError, match="the connection was reset"):
        keeper(flaky(mlflow_url, 4, 1000), drawn, state).once()
    found = registry.runs("tags.`binwatch.kind` = 'execution'")[0]
    with pytest.raises(DataError, match="no request for an execution"):
        keeper(registry, drawn, state).resume(registry.nested(found.id)[0].id)
    execution = keeper(registry, drawn, state).resume(found.id)
    assert (execution.id, execution.resumed) == (found.id, 1)
    assert_whole(registry, execution, state)


def test_an_execution_that_keeps_dying_is_given_up(registry: Registry, drawn: Path, state: Path) -> None:
    told, request = Told(), ExecutionRequest(DataSpec(drawn), TINY)
    with registry.run("execution", tags={"binwatch.token": request.token}):
        for _ in range(MOST_STARTS):
            execution_lock.mark_started(state, request)
        with pytest.raises(TrainingError, match="died 5 times"):
            keeper(registry, drawn, state, tell=told).look()
        assert runs_of(registry, request)[0].status == "FAILED"
    assert execution_lock.read(state) is None
    assert [failing for failing, _ in told] == [True]
    execution_lock.mark_started(state, request)
    execution_lock.mark_interrupted(state)  # a stop that was asked for is no death
    assert execution_lock.mark_started(state, request).starts == 1


def test_new_photos_start_an_execution_in_which_old_ones_keep_their_split(
    registry: Registry, drawn: Path, tmp_path: Path
) -> None:
    state, source, late = tmp_path / "state", tmp_path / "source", []
    for folder in ("bin-images", "metadata"):
        (source / folder).mkdir(parents=True)
        paths = sorted((drawn / folder).iterdir())
        late += paths[250:]
        for path in paths[:250]:
            shutil.copy(path, source / folder)
    watching = keeper(registry, source, state)
    first = watching.look()
    assert first
    assert first.why == ("there is no champion",)
    assert watching.look() is None
    before = {row.id: row.split for row in prepared.read(prepared_folder(state, DataSpec(source))).rows}
    for path in late:
        shutil.copy(path, source / path.parent.name)
    second = watching.look()
    assert second
    assert second.why == (f"50 new labelled photos have come, beside {len(before)}",)
    after = {row.id: row.split for row in prepared.read(prepared_folder(state, DataSpec(source))).rows}
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert second.champion
    assert second.champion.version == "1"
    assert watching.look() is None


def test_drift_starts_one_execution(registry: Registry, drawn: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    watching = keeper(registry, drawn, state, monitoring=tmp_path)
    assert watching.look()
    assert watching.look() is None
    made_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    report = json.dumps({"made_at": made_at, "alerts": [{"name": "drift of brightness"}]})
    (tmp_path / "monitoring.json").write_text(report)
    execution = watching.look()
    assert execution
    assert execution.why == ("the monitoring reports drift of brightness",)
    assert execution.decision == "refused"  # there is nothing new to learn from, and it costs no training
    assert cached(execution)["train"]
    assert keeper(registry, drawn, state, monitoring=tmp_path).look() is None  # nor after a restart


def test_there_is_one_execution_at_a_time_and_the_second_says_who_has_it(
    registry: Registry, drawn: Path, state: Path
) -> None:
    code = "import sys, time; from pathlib import Path; from trainer import underway\n"
    code += (
        "with underway.alone(Path(sys.argv[1]), 'a long execution'):\n    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(state)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=rf"a long execution, process {holder.pid} on .* since 20"):
            keeper(registry, drawn, state).once()
        assert registry.versions() == []
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout
        holder.stdout.close()
    start = time.monotonic()
    with execution_lock.exclusive_lock(state, "another"):  # a kill frees it at once
        assert time.monotonic() - start < 1
