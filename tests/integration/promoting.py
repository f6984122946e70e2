"""Helpers of the tests of promotion, rollback and healing: challengers, a promoter, and what must agree afterwards."""

import json
import tempfile
import threading
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from serve.manifest import MANIFEST_FILE
from serve.rollout.model_store import ORIGIN, RECORDS, SERVING
from tests.conftest import Served
from tests.small_archives import packed, unpacked
from trainer.artifacts import EVALUATION, PREDICTIONS
from trainer.evaluation.evaluate import Evaluation, Prediction, evaluation_from_json, predictions_from_json
from trainer.promotion.promoter import Promoter
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, PREVIOUS, Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained, columns_of


def evaluation(trained: Trained) -> Evaluation:
    return evaluation_from_json(trained.archive.with_name(EVALUATION).read_text())


def challenger(
    registry: Registry,
    trained: Trained,
    accuracy: float,
    status: str = Status.APPROVED,
    compared_with: str = "",
    archive: Path | None = None,
    keys: signing.KeyPair | None = None,
    **fields: Any,
) -> str:
    """Register an archive whose evaluation and answers have ``accuracy``; returns its version.

    ``keys``: sign it with these, as the archive of its own run; ``fields``: other fields of its evaluation.
    """
    with registry.run("train") as run, tempfile.TemporaryDirectory() as folder:
        path = archive or trained.archive
        if keys:
            path = with_run_id(path, run.id, Path(folder))
            run.log_file(signing.sign(path, signing.private_key(keys.private)), "archive")
        run.log_file(path, "archive")
        run.log_json(replace(evaluation(trained), accuracy=accuracy, **fields).to_sagemaker(), EVALUATION)
        run.log_table(columns_of(answers(trained, accuracy)), PREDICTIONS)
    return registry.register(run.id, status, "because", compared_with).number


def with_run_id(path: Path, run_id: str, folder: Path) -> Path:
    """A copy of an archive, in ``folder``, whose manifest names the run ``run_id``."""
    files = unpacked(path)
    files[MANIFEST_FILE] = json.dumps({**json.loads(files[MANIFEST_FILE]), "run_id": run_id}).encode()
    return packed(folder / path.name, files)


def answers(trained: Trained, accuracy: float) -> list[Prediction]:
    """The archive's answers, changed to be right for the first photos and wrong for the others."""
    predictions = predictions_from_json(trained.archive.with_name(PREDICTIONS).read_text())
    right = round(accuracy * len(predictions))
    return [
        replace(answer, count=answer.recorded if number < right else answer.recorded % 5 + 1)
        for number, answer in enumerate(predictions)
    ]


def promoter(registry: Registry, served: Served, server: Any = None) -> Promoter:
    return Promoter(registry, server or served.rollout, served.store / "accuracy.json")


def accuracy(served: Served) -> dict[str, Any]:
    return dict(json.loads((served.store / "accuracy.json").read_text()))


def alias(registry: Registry, name: str) -> str | None:
    version = registry.alias(name)
    return version.number if version else None


def assert_only(registry: Registry, served: Served, version: str) -> None:
    """Registry, server, store, records and accuracy.json agree that ``version`` is the one champion."""
    assert alias(registry, CHAMPION) == version
    assert served.rollout.serving() == version
    assert [loaded.version for loaded in served.management.loaded()] == [version]
    numbers = [number for number in (version, alias(registry, PREVIOUS)) if number]
    archives = {f"bin-counter-{number}.mar{note}" for number in numbers for note in ("", ORIGIN, RECORDS)}
    files = {path.name for path in served.store.iterdir()}
    assert files <= {"accuracy.json", SERVING, *archives}
    assert files >= {"accuracy.json", SERVING, f"bin-counter-{version}.mar", f"bin-counter-{version}.mar{ORIGIN}"}
    assert accuracy(served)["version"] == version
    assert registry.version(version).status == Status.PROMOTED
    assert registry.deployments()[0].version == version


def moves(registry: Registry) -> list[tuple[str, str]]:
    """The deployments in order, each with what led to it."""
    return [(deployment.did, deployment.version) for deployment in reversed(registry.deployments())]


def ask_until(stop: threading.Event, served: Served, photo: bytes) -> Tally[str]:
    """Send requests without pause; counts the answers by model version, failures by status."""
    answers = Tally[str]()
    with requests.Session() as session:
        while not stop.is_set():
            response = session.post(f"{served.inference.url}/predictions/bin-counter", data=photo, timeout=60)
            answers[response.json()["model_version"] if response.ok else f"HTTP {response.status_code}"] += 1
    return answers
