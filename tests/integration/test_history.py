"""The history in a real MLflow, as the scripts print it and as the monitoring writes it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve.capture_record import Event, record
from serve.errors import DataError, TrackingError
from serve.monitoring import find_event
from serve.monitoring.reader import FolderSource
from serve.objects.folder_objects import FolderObjects
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry
from trainer.reporting.history import FILE, HistoryExporter, serving_table
from trainer.reporting.monitoring_runs import Journal

ROOT = Path(__file__).parents[2]


def version(registry: Registry, accuracy: float, fingerprint: str) -> str:
    with registry.run("train") as run:
        run.log_json({"binwatch": {"accuracy": accuracy, "accuracy_interval": [0.1, 0.9]}}, "evaluation.json")
        run.log_json({"fingerprint": fingerprint}, "dataset.json")
        run.log_params({"data_source": "/bins", "data_seed": 7, "architecture": "resnet18"})
    return registry.register(run.id, Status.PROMOTED, "better", "").number


def executed(registry: Registry, record: dict[str, Any]) -> str:
    with registry.run("execution", tags={"binwatch.kind": "execution"}) as run:
        run.log_json(record, "execution.json")
    return run.id


def call(url: str, *words: str) -> str:
    environ = {**os.environ, "MLFLOW_TRACKING_URI": url}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_history_is_told_and_written_and_leads_back_to_run_data_and_code(
    registry: Registry, mlflow_url: str, tmp_path: Path
) -> None:
    first, second = version(registry, 0.4, "a" * 64), version(registry, 0.5, "b" * 64)
    moves = [
        (first, Status.PROMOTED, "none before"),
        (second, Status.PROMOTED, "better"),
        (first, Status.ROLLED_BACK, "by hand"),
    ]
    for move in moves:
        registry.record_deployment(*move)
    steps = [{"name": "train", "status": "Succeeded", "seconds": 3.0}]
    run_id = executed(registry, {"decision": "promoted", "challenger": {"version": second}, "steps": steps})

    exporter = HistoryExporter(mlflow_url, FolderObjects(tmp_path / "monitoring"))
    Journal(mlflow_url, exporter).log({"buckets": [], "alerts": [], "records": 0, "to": "2026-11-24T00:00:00Z"})
    history = json.loads((tmp_path / "monitoring" / FILE).read_text())
    assert [path.name for path in (tmp_path / "monitoring").iterdir()] == [FILE]
    periods = history["served"]
    assert [(period["version"], period["did"], period["reason"]) for period in reversed(periods)] == moves
    assert [period["accuracy"] for period in periods] == [0.4, 0.5, 0.4]
    assert [period["dataset_fingerprint"][0] for period in periods] == ["a", "b", "a"]
    assert [period["execution"] for period in periods] == [None, run_id, None]
    (execution,) = [execution for execution in history["executions"] if execution["id"] == run_id]
    assert (execution["decision"], execution["status"]) == ("promoted", "finished")
    assert execution["steps"][0]["seconds"] == 3.0

    again = json.loads(json.dumps(exporter.read()))
    assert {**again, "made_at": ""} == {**history, "made_at": ""}
    printed = HistoryExporter(mlflow_url).read()["served"]
    assert json.loads(json.dumps(printed)) == periods
    assert len(serving_table(printed).splitlines()) == 4
    assert json.loads(call(mlflow_url, "scripts/promote.py", "--history", "--json"))["served"] == periods

    lineage = json.loads(call(mlflow_url, "scripts/lineage.py", second, "--json", "--state", str(tmp_path)))
    assert (lineage["data"], lineage["recipe"]) == ({"source": "/bins", "seed": "7"}, {"architecture": "resnet18"})
    assert (lineage["accuracy"], lineage["accuracy_interval"], lineage["reasons"]) == (0.5, [0.1, 0.9], ["better"])
    assert (lineage["dataset_fingerprint"], lineage["compared_with"]) == ("b" * 64, "")
    assert lineage["revision"] == registry.tags(lineage["run_id"])["mlflow.source.git.commit"]
    assert (lineage["archive_sha256"], lineage["signature"][:19]) == (None, "the archive is gone")
    (period,) = lineage["served"]
    assert (period["from"], period["to"]) == (periods[1]["from"], periods[1]["to"])


def test_an_answers_event_id_leads_to_its_version(tmp_path: Path) -> None:
    answer = {"count": 2, "probabilities": {"2": 1.0}, "model_version": "7"}
    events = [
        Event(
            answer=answer,
            status=200,
            model_version=number,
            latency_ms=5.0,
            data=b"photo",
            moment=datetime(2026, 11, 24, 5, tzinfo=UTC),
        )
        for number in ("6", "7")
    ]
    file = tmp_path / "bin-counter" / "AllTraffic" / "2026" / "11" / "24" / "05" / "a.jsonl"
    file.parent.mkdir(parents=True)
    lines = [json.dumps(record(event)) for event in events]
    damaged = [
        lines[0][:-40],
        json.dumps({"eventId": events[1].event_id}),
        json.dumps(record(events[0])).replace("-", "_"),
    ]
    file.write_text("".join(line + "\n" for line in (*damaged, *lines)))
    assert [find_event.version_of(FolderSource(tmp_path), event.event_id) for event in events] == ["6", "7"]
    with pytest.raises(DataError, match="94cd7378-9ee7-4e19-bc92-0d2f79bb034f"):
        find_event.version_of(FolderSource(tmp_path), "94cd7378-9ee7-4e19-bc92-0d2f79bb034f")


def test_an_mlflow_that_is_away_and_a_folder_that_cannot_be_written_are_told_apart(
    mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=FILE):
        HistoryExporter(mlflow_url, FolderObjects(tmp_path / "file")).write()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        HistoryExporter("http://127.0.0.1:9", FolderObjects(tmp_path)).write()
