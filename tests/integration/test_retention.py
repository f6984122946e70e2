"""Pruning with a real MLflow and a real bucket: files are removed; what may still serve stays."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from serve.local.servers import mlflow_server, s3_server
from tests.integration.test_scripts import call
from trainer.artifacts import ARCHIVE, PRUNED_TAG
from trainer.data import s3
from trainer.pipeline import disposal
from trainer.pipeline.retention import Places, prune
from trainer.pipeline.trainer_settings import RetentionPolicy
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry

HOUR = "bin-counter/AllTraffic/2020/01/01/00"


def trained_run(registry: Registry, folder: Path, parent: str | None = None) -> str:
    """A run with the files of a training."""
    archive = folder / "bin-counter.mar"
    archive.write_bytes(b"x" * 1000)
    with registry.run("train", parent) as run:
        run.log_file(archive, "archive")
        run.log_json({"accuracy": 0.5}, "evaluation.json")
        run.log_json({}, "rules.json")
    return run.id


def stored(state: Path) -> int:
    """Archives on the disk of the MLflow server."""
    return len(list((state / "artifacts").rglob("*.mar")))


@dataclass(frozen=True)
class OwnMlflow:
    """An MLflow of this module's own, since all of it is pruned, and the folder of its files."""

    url: str
    state: Path


@pytest.fixture(scope="module")
def own_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnMlflow]:
    state = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(state) as url:
        yield OwnMlflow(url, state)


def test_archives_really_leave_the_store_but_for_those_that_may_serve(own_mlflow: OwnMlflow, tmp_path: Path) -> None:
    registry = Registry(own_mlflow.url)
    runs = {name: trained_run(registry, tmp_path) for name in ("old", "previous", "champion", "waits", "refused")}
    statuses = {
        "old": Status.REFUSED,
        "previous": Status.PROMOTED,
        "champion": Status.PROMOTED,
        "waits": Status.APPROVED,
        "refused": Status.REFUSED,
    }
    numbers = {name: registry.register(runs[name], status, "", "").number for name, status in statuses.items()}
    registry.set_champion(numbers["champion"])
    registry.set_previous(numbers["previous"])
    capture = tmp_path / "capture" / HOUR / "a.jsonl"
    capture.parent.mkdir(parents=True)
    capture.write_text("12345\n")
    places = Places(registry, str(tmp_path / "capture"), tmp_path / "state")
    policy = RetentionPolicy(versions=1, capture_days=1)
    planned = [removal.to_json() for removal in prune(places, policy, dry_run=True)]
    assert (stored(own_mlflow.state), capture.exists()) == (5, True)
    done = call(
        "scripts/prune.py",
        "--tracking-uri",
        own_mlflow.url,
        "--state",
        places.state,
        "--capture",
        places.capture,
        "--json",
        BINWATCH_KEEP_VERSIONS="1",
        BINWATCH_KEEP_CAPTURE_DAYS="1",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    removed = [(removal["kind"], removal["name"]) for removal in result["pruned"]]
    assert removed == [("archive", runs["old"]), ("capture", HOUR)]
    assert result["pruned"][0] == planned[0]
    assert planned[0]["reason"] == "4 versions are newer, 1 are kept"
    assert (result["bytes"], result["dry_run"]) == (1006, False)
    assert (stored(own_mlflow.state), capture.exists()) == (4, False)
    assert registry.artifacts(runs["old"]).keys() == {"evaluation.json", "rules.json"}
    assert all(ARCHIVE in registry.artifacts(runs[name]) for name in ("previous", "champion", "waits", "refused"))
    assert len(registry.versions()) == 5  # the history stays complete
    assert prune(places, policy) == []


def test_old_runs_keep_what_the_history_reads(own_mlflow: OwnMlflow, tmp_path: Path) -> None:
    registry = Registry(own_mlflow.url)
    with registry.run("execution") as execution:
        unfinished = trained_run(registry, tmp_path, execution.id)
        old = trained_run(registry, tmp_path)
        places = Places(registry, str(tmp_path / "capture"), tmp_path)
        recent = prune(places, RetentionPolicy(versions=0, days=1))
        assert old not in {removal.candidate.name for removal in recent}
        removals = prune(places, RetentionPolicy(versions=0).model_copy(update={"days": 1e-9}))
        candidates = [removal.candidate for removal in removals]
        assert {candidate.kind for candidate in candidates if candidate.name == old} == {"archive", "artifacts"}
        assert unfinished not in {candidate.name for candidate in candidates}
        assert registry.artifacts(old).keys() == {"evaluation.json"}
        assert ARCHIVE in registry.artifacts(unfinished)
        assert registry.tags(old)[PRUNED_TAG] == "archive, artifacts"


def test_old_hours_leave_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with s3_server(tmp_path) as url:
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", config=Config(signature_version=UNSIGNED)
        )
        client.create_bucket(Bucket="kept")
        for key in (f"capture/{HOUR}/a.jsonl", f"capture/{HOUR}/b.jsonl", "capture/other.jsonl"):
            client.put_object(Bucket="kept", Key=key, Body=b"12345\n")
        capture = disposal.Capture("s3://kept/capture", url)
        assert [hour for hour, _ in capture.hours()] == [HOUR]
        assert capture.remove(HOUR, dry_run=True) == 12
        assert capture.remove(HOUR, dry_run=False) == 12
        assert list(s3.S3Store("s3://kept/capture", url).keys("")) == ["other.jsonl"]
        assert list(disposal.Capture("s3://kept/capture", url).hours()) == []
        client.close()
