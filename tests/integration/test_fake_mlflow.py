"""Promoter, monitor and watcher against an MLflow that answers at random: nothing stops the model that serves."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve.archives.archive import manifest_of
from serve.errors import BinwatchError, TrackingError
from serve.manifest import Manifest
from serve.monitoring.monitor import Monitor
from serve.monitoring.monitor_settings import Thresholds
from serve.monitoring.reader import FolderSource
from serve.objects.folder_objects import FolderObjects
from tests import small_archives as small
from tests.benchmarks.drawn_capture import draw_records, draw_reference, write_records
from tests.conftest import rounds
from tests.integration.fake_mlflow import FakeMlflow, Json, fake_mlflow
from tests.integration.shelf import Shelf
from trainer.artifacts import ARCHIVE, EVALUATION, PREDICTIONS, REFERENCE
from trainer.data.dataset import DataSpec
from trainer.pipeline.execution import ExecutionRequest, Retry
from trainer.pipeline.pipeline import ExecutionOptions
from trainer.pipeline.watcher import PipelineWatcher
from trainer.promotion.outcome import PromotionOutcome
from trainer.promotion.promoter import Promoter
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.history import HistoryExporter
from trainer.reporting.monitoring_runs import Journal
from trainer.training.recipes import RECIPES

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
RUN, OTHER = "a" * 32, "b" * 32
API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"


def version(number: str, run_id: str, status: str) -> dict[str, Json]:
    tags = {"status": status, "reason": "because", "compared_with": ""}
    return {
        "name": "bin-counter",
        "version": number,
        "creation_timestamp": 1,
        "run_id": run_id,
        "status": "READY",
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }


def run(run_id: str, **tags: str) -> dict[str, Json]:
    info = {
        "run_id": run_id,
        "run_uuid": run_id,
        "run_name": "train",
        "experiment_id": "1",
        "status": "FINISHED",
        "start_time": 1_700_000_000_000,
        "end_time": 1_700_000_060_000,
        "artifact_uri": f"mlflow-artifacts:/1/{RUN}/artifacts",
        "lifecycle_stage": "active",
    }
    return {"info": info, "data": {"tags": [{"key": key, "value": value} for key, value in tags.items()]}}


def truths(folder: Path, keys: signing.KeyPair) -> Mapping[str, Json]:
    """What a healthy MLflow with one champion answers, by path."""
    archive = small.packed(folder / "bin-counter.mar", small.contents(run_id=RUN))
    signature = signing.sign(archive, signing.private_key(keys.private))
    evaluation = {"binwatch": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "classes": ["1", "2"], "photos": 2}}
    evaluation["binwatch"] |= {"fingerprint": "f", "rmse": 1, "rmse_most_probable": 1, "per_class_accuracy": {}}
    evaluation["binwatch"] |= {"confusion": [[1, 0], [1, 0]]}
    files = {
        EVALUATION: json.dumps(evaluation).encode(),
        PREDICTIONS: b'{"id": [], "bin": [], "recorded": [], "count": [], "expected_count": [], "probabilities": []}',
        REFERENCE: json.dumps(draw_reference(1000, 1)).encode(),
        "execution.json": b'{"decision": "promoted", "steps": [{"name": "train", "status": "Succeeded"}]}',
        ARCHIVE: archive.read_bytes(),
        f"{ARCHIVE}.sig": signature.read_bytes(),
    }
    champion = version("1", RUN, "promoted")
    deployment = run("c" * 32, **{"binwatch.kind": "deployment", "version": "1", "did": "promoted", "train_run": RUN})
    return {
        f"{API}/registered-models/alias": {"model_version": champion},
        f"{API}/model-versions/search": {"model_versions": [version("2", OTHER, ""), champion]},
        f"{API}/model-versions/get": {"model_version": champion},
        f"{API}/experiments/get-by-name": {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}},
        f"{API}/runs/get": {"run": run(RUN)},
        f"{API}/runs/create": {"run": run(OTHER)},
        f"{API}/runs/update": {"run_info": run(OTHER)["info"]},
        f"{API}/runs/search": {"runs": [deployment]},
        **listings(files),
        **{f"{FILES}/1/{RUN}/artifacts/{name}": data for name, data in files.items()},
    }


def listings(files: Mapping[str, bytes]) -> dict[str, Json]:
    """What MLflow answers to a listing of each folder and of each file."""
    root = f"{FILES}?1/{RUN}/artifacts"
    entries = {name: {"path": Path(name).name, "is_dir": False, "file_size": len(files[name])} for name in files}
    top = [entry for name, entry in entries.items() if "/" not in name]
    return {
        root: {"files": [*top, {"path": "archive", "is_dir": True}]},
        f"{root}/archive": {"files": [entry for name, entry in entries.items() if "/" in name]},
        **{f"{root}/{name}": {"files": [entry]} for name, entry in entries.items()},
    }


class Callers:
    """The three processes that read MLflow, with what they write below ``folder``."""

    def __init__(self, url: str, folder: Path, trusted: Path) -> None:
        self.shelf = Shelf(folder / "models")
        registry = Registry(url)
        self.promoter = Promoter(registry, self.shelf, self.shelf.folder / "accuracy.json", trusted=trusted)
        write_records(folder / "capture", draw_records(50, 3, NOW - timedelta(hours=2), timedelta(hours=1), "1"))
        out = FolderObjects(folder / "monitoring")
        self.journal = Journal(url, HistoryExporter(url, out))
        source = FolderSource(folder / "capture")
        self.monitor = Monitor(source, out, timedelta(hours=24), Thresholds(), journal=self.journal)
        request = ExecutionRequest(DataSpec(folder / "nothing"), RECIPES["resnet18-small"])
        options = ExecutionOptions(state=folder / "state", retry=Retry(2, 0.001))
        self.watcher = PipelineWatcher(registry, request, promote, options)

    def calls(self) -> tuple[Callable[[], object], ...]:
        return (
            self.promoter.reconcile_once,
            lambda: self.monitor.run_once(NOW),
            self.journal.reference,
            self.watcher.poll,
        )


def promote(number: str) -> PromotionOutcome:
    raise TrackingError(f"version {number} is never approved here")


def served(shelf: Shelf) -> Manifest:
    return manifest_of(shelf.archives.path(shelf.version))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def lie_until(fake: FakeMlflow, callers: Callers, answers: int) -> dict[str, int]:
    """Call everything again and again; how often each call came through, and how often it raised a BinwatchError."""
    outcomes: dict[str, int] = {}
    number = 0
    while fake.answers < answers:
        number += 1
        fake.lies = (0.02, 0.1, 0.5, 1.0)[number % 4]
        if number % 7 == 0:
            callers.shelf.version = ""  # TorchServe was restarted
        for position, call in enumerate(callers.calls()):
            try:
                call()
                outcome = "answered"
            except BinwatchError as error:
                outcome = type(error).__name__
            outcomes[f"{position} {outcome}"] = outcomes.get(f"{position} {outcome}", 0) + 1
            assert served(callers.shelf).run_id == RUN
    return outcomes


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", range(rounds(1, 4)))
def test_whatever_mlflow_answers_the_champion_serves_and_no_loop_ends(tmp_path: Path, seed: int) -> None:
    keys = signing.ensure_key_pair(tmp_path / "keys")
    with fake_mlflow(seed, truths(tmp_path, keys)) as (url, fake):
        callers = Callers(url, tmp_path, keys.public)
        fake.lies = 0.0
        callers.promoter.reconcile_once()
        assert (callers.shelf.version, served(callers.shelf).run_id) == ("1", RUN)
        outcomes = lie_until(fake, callers, rounds(400, 2_500))
        print(fake.answers, outcomes)
        fake.lies = 0.0
        callers.promoter.reconcile_once()
        assert callers.shelf.version == "1"
