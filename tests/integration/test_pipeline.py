import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier, Thread
from urllib.parse import urlsplit

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from serve.errors import DataError, PromoterTimeoutError, TrackingError
from serve.local.servers import free_port
from tests.benchmarks.slow_proxy import SlowProxy
from tests.conftest import Served
from tests.models import TINY
from trainer.data.dataset import DataSpec
from trainer.evaluation.policy import GREATER, GatePolicy
from trainer.pipeline.execution import Execution
from trainer.pipeline.pipeline import ExecutionOptions, execute, wait_for_promoter
from trainer.promotion.outcome import PromotionOutcome
from trainer.promotion.promoter import Promoter
from trainer.registry import runs
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import run_training


@pytest.fixture
def promote(registry: Registry, served: Served) -> Callable[[str], PromotionOutcome]:
    return Promoter(registry, served.rollout, served.store / "accuracy.json").promote


def steps(execution: Execution) -> dict[str, str]:
    return {step.name: step.status for step in execution.steps}


def nested(url: str, execution_id: str) -> dict[str, Run]:
    client = MlflowClient(url, url)
    experiment = client.get_run(execution_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{execution_id}'")
    return {run.info.run_name: run for run in runs}


def test_the_folder_mlflow_does_not_hide_the_package() -> None:
    assert mlflow.__file__
    assert "site-packages" in mlflow.__file__ or "dist-packages" in mlflow.__file__


def test_promotes_the_first_and_refuses_its_equal(
    registry: Registry, mlflow_url: str, drawn: Path, promote: Callable[[str], PromotionOutcome], served: Served
) -> None:
    recipe = replace(TINY, epochs=2)
    greater = GatePolicy(rule=GREATER).without_guards()  # two epochs do not make a model that is more than luck
    first = execute(registry, DataSpec(drawn), recipe, promote, ExecutionOptions(policy=greater))
    assert (first.decision, first.champion) == ("promoted", None)
    assert steps(first) == dict.fromkeys(("train", "evaluate", "gate", "promote"), "Succeeded")
    assert served.rollout.serving() == "1"

    second = execute(registry, DataSpec(drawn), recipe, promote, ExecutionOptions(cache=False, policy=greater))
    assert second.decision == "refused"
    assert steps(second)["promote"] == "Skipped"
    assert second.champion is not None
    assert second.challenger is not None
    assert second.champion.accuracy == second.challenger.accuracy == first.challenger.accuracy  # type: ignore[union-attr]
    assert "not greater" in second.reasons[0]
    assert registry.version("2").status == Status.REFUSED
    assert served.rollout.serving() == "1"
    assert_recorded(mlflow_url, first, second, recipe.epochs)


def assert_recorded(url: str, first: Execution, second: Execution, epochs: int) -> None:
    client, runs = MlflowClient(url, url), nested(url, first.id)
    assert set(runs) == {"train", "evaluate", "gate", "promote"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    train = runs["train"]
    assert train.data.params["architecture"] == TINY.architecture
    assert train.data.params["data_limit"] == "None"
    for metric in (
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "photos_per_second",
        "step_ms",
        "data_wait_share",
    ):
        history = client.get_metric_history(train.info.run_id, metric)
        assert [point.step for point in history] == list(range(1, epochs + 1))
    assert 0 <= train.data.metrics["test_accuracy_low"] <= train.data.metrics["test_accuracy"]
    assert train.data.tags["mlflow.source.git.commit"]
    assert train.inputs
    (dataset,) = train.inputs.dataset_inputs
    assert len(dataset.dataset.digest) == 36
    artifacts = {file.path for file in client.list_artifacts(train.info.run_id)}
    assert artifacts >= {
        "archive",
        "evaluation.json",
        "predictions.json",
        "dataset.json",
        "loss_curves.png",
        "confusion_matrix.png",
        "reliability.png",
        "rules.json",
    }
    assert train.data.metrics["temperature"] > 0
    assert 0 <= train.data.metrics["test_calibration_error"] <= 1
    evaluate = nested(url, second.id)["evaluate"].data
    assert evaluate.params["champion"] == "1"
    assert evaluate.metrics["champion_test_accuracy"] == train.data.metrics["test_accuracy"]
    assert evaluate.params["test_fingerprint"] == runs["evaluate"].data.params["test_fingerprint"]


def test_a_failing_step_is_recorded_and_the_champion_serves_on(
    registry: Registry, mlflow_url: str, tmp_path: Path, promote: Callable[[str], PromotionOutcome]
) -> None:
    with pytest.raises(DataError, match="bin-images"):
        execute(registry, DataSpec(tmp_path), TINY, promote)
    experiment = MlflowClient(mlflow_url).get_experiment_by_name(runs.EXPERIMENT)
    assert experiment
    newest = MlflowClient(mlflow_url).search_runs([experiment.experiment_id], "tags.binwatch.kind = 'execution'")[0]
    assert newest.info.status == "FAILED"
    assert nested(mlflow_url, newest.info.run_id)["train"].info.status == "FAILED"
    assert registry.versions() == []


def test_waits_for_another_process_s_verdict(registry: Registry) -> None:
    with registry.run("train") as run:
        pass
    version = registry.register(run.id, Status.APPROVED, "better", "").number
    with pytest.raises(PromoterTimeoutError, match=f"version {version}"):
        wait_for_promoter(registry, version, timeout_s=0.2)
    marking = Thread(target=partial(registry.mark, version, Status.REJECTED, "canary"))
    marking.start()
    assert wait_for_promoter(registry, version, 20) == PromotionOutcome("rejected", version, "canary")
    marking.join()


def test_an_mlflow_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="MLflow at http"):
        Registry("http://127.0.0.1:9").runs()


def test_scripts_that_start_together_on_an_empty_mlflow_share_one_experiment(registry: Registry) -> None:
    barrier = Barrier(8)
    run = MlflowClient(registry.uri).create_run(registry._experiment).info.run_id

    def experiment(name: str) -> str:
        barrier.wait()
        return Registry(registry.uri, name)._experiment

    def version(reason: str) -> str:
        barrier.wait()
        return registry.register(run, "refused", reason, "").number

    with ThreadPoolExecutor(8) as threads:
        for name in ("first", "second", "third"):
            assert len(set(threads.map(experiment, [name] * 8))) == 1
        versions = list(threads.map(version, ["at once"] * 8))
    assert sorted(versions) == [str(number) for number in range(1, 9)]


def test_what_mlflow_does_not_take_while_it_is_away_is_sent_later(
    mlflow_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port, address = free_port(), urlsplit(mlflow_url)
    proxy = SlowProxy((str(address.hostname), int(address.port or 0)))  # MLflow is away while nothing listens there
    with proxy.running(port) as url, Registry(url).run("train") as run:
        run.buffer_metrics({"loss": 3.0}, 1)
    run.buffer_metrics({"loss": 2.0}, 2)
    run.buffer_tags({"rule.overfit": "epoch 2"})
    assert "2 calls are buffered" in caplog.text
    with pytest.raises(TrackingError, match=url):
        run.flush(timeout_s=0)
    with proxy.running(port) as url:
        run.buffer_metrics({"loss": 1.0}, 3)
        run.flush()
        client = MlflowClient(url, url)
        history = client.get_metric_history(run.id, "loss")
        assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
        assert client.get_run(run.id).data.tags["rule.overfit"] == "epoch 2"


def test_a_rule_that_fires_and_the_number_format_are_recorded_in_mlflow(
    drawn: Path, tmp_path: Path, registry: Registry
) -> None:
    recipe = replace(TINY, learning_rate=1e-12, epochs=4, schedule="constant", precision="float32")
    with registry.run("train") as run:
        run_training(DataSpec(drawn, limit=100), recipe, tmp_path, run, stop_on=frozenset({"stuck-on-majority"}))
    data = MlflowClient(registry.uri).get_run(run.id).data
    assert data.tags["stopped_by"] == "stuck-on-majority"
    assert data.tags["rule.stuck-on-majority"]
    assert data.metrics["rule_stuck-on-majority"] == 1
    assert (data.tags["precision.chosen"], data.tags["precision.reason"]) == ("float32", "the recipe names it")
    chosen = json.loads((tmp_path / "training.json").read_text())["precision"]
    assert chosen == {"name": "float32", "reason": "the recipe names it"}
