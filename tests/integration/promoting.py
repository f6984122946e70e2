"""What the tests of promotion, rollback and healing share: challengers, a promoter, and what must agree afterwards."""

import json
import threading
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from tests.conftest import Served
from trainer import tracking
from trainer.evaluate import Evaluation, from_json
from trainer.job import EVALUATION, PREDICTIONS, Trained
from trainer.promoter import Promoter
from trainer.tracking import Tracking


def evaluation(trained: Trained) -> Evaluation:
    return from_json(trained.archive.with_name(EVALUATION).read_text())


def challenger(
    registry: Tracking, trained: Trained, accuracy: float, status: str = tracking.APPROVED,
    compared_with: str = "", archive: Path | None = None,
) -> str:  # fmt: skip
    """Register an archive whose evaluation says ``accuracy``; returns its version."""
    with registry.run("train") as run:
        run.log_file(archive or trained.archive, "archive")
        run.log_json(replace(evaluation(trained), accuracy=accuracy).to_sagemaker(), EVALUATION)
        run.log_file(trained.archive.with_name(PREDICTIONS))
    return registry.register(run.id, status, "because", compared_with).number


def promoter(registry: Tracking, served: Served, server: Any = None) -> Promoter:
    return Promoter(registry, server or served.rollout, served.store / "accuracy.json")


def accuracy(served: Served) -> dict[str, Any]:
    return dict(json.loads((served.store / "accuracy.json").read_text()))


def alias(registry: Tracking, name: str) -> str | None:
    found = registry.alias(name)
    return found.number if found else None


def assert_only(registry: Tracking, served: Served, version: str) -> None:
    """Registry, server, store, records and accuracy.json agree that ``version`` is the one champion."""
    assert alias(registry, tracking.CHAMPION) == version
    assert served.rollout.serving() == version
    assert [each.version for each in served.management.loaded()] == [version]
    kept = {f"bin-counter-{each}.mar" for each in (version, alias(registry, tracking.PREVIOUS)) if each}
    found = {path.name for path in served.store.iterdir()}
    assert found <= {"accuracy.json", *kept}
    assert found >= {"accuracy.json", f"bin-counter-{version}.mar"}
    assert accuracy(served)["version"] == version
    assert registry.version(version).status == tracking.PROMOTED
    assert registry.deployments()[0].version == version


def moves(registry: Tracking) -> list[tuple[str, str]]:
    """What was deployed and how, in order."""
    return [(each.did, each.version) for each in reversed(registry.deployments())]


def ask_until(stop: threading.Event, served: Served, photo: bytes) -> Tally[str]:
    """Ask without pause; the answers by model version, failures by status."""
    mine = Tally[str]()
    with requests.Session() as session:
        while not stop.is_set():
            response = session.post(f"{served.inference.url}/predictions/bin-counter", data=photo, timeout=60)
            mine[response.json()["model_version"] if response.ok else f"HTTP {response.status_code}"] += 1
    return mine
