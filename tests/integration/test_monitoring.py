"""Monitoring with a real MLflow, a real S3 server, real captures, and the script as users call it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from mlflow import MlflowClient

from serve import capture
from serve.capture_record import Event
from serve.local.servers import s3_server
from serve.monitoring import capture_rows, reader
from serve.monitoring.monitor import Monitor
from serve.monitoring.monitor_settings import Thresholds
from serve.objects.folder_objects import FolderObjects
from tests.benchmarks import bench_monitor
from tests.benchmarks.drawn_capture import draw_records, draw_reference, write_records
from tests.conftest import rounds
from tests.unit import captured
from trainer.registry.mlflow_registry import Registry
from trainer.reporting import monitoring_plots
from trainer.reporting.monitoring_runs import EXPERIMENT, Journal, report_metrics

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC).replace(hour=12, minute=30, second=0, microsecond=0)
HOURS = timedelta(hours=1)


def make_champion(registry: Registry, reference: dict[str, Any] | None) -> str:
    """Make a champion whose run recorded ``reference``. Returns its version."""
    with registry.run("train") as run:
        if reference:
            run.log_json(reference, "reference.json")
    number = registry.register(run.id, "promoted", "because", "").number
    registry.set_champion(number)
    return number


def fill(folder: Path, version: str, start: datetime = NOW - 20 * HOURS, seed: int = 3, **more: Any) -> None:
    write_records(folder, draw_records(600, seed, start, timedelta(hours=19), version, **more))


def journal_runs(url: str) -> dict[str, Any]:
    """The monitoring's runs by name."""
    client = MlflowClient(url, url)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_name: run for run in runs}


@pytest.fixture(autouse=True)
def delete_runs(mlflow_url: str) -> Iterator[None]:
    """Delete the monitoring's runs after each test."""
    yield
    client = MlflowClient(mlflow_url, mlflow_url)
    for run in journal_runs(mlflow_url).values():
        client.delete_run(run.info.run_id)


def new_monitor(folder: Path, out: Path, url: str) -> Monitor:
    return Monitor(reader.FolderSource(folder), FolderObjects(out), 24 * HOURS, Thresholds(), journal=Journal(url))


def test_mlflow_gets_a_run_a_day_with_curves_and_pictures(registry: Registry, mlflow_url: str, tmp_path: Path) -> None:
    version = make_champion(registry, draw_reference(1000, 1))
    fill(tmp_path, version)
    report = new_monitor(tmp_path, tmp_path / "out", mlflow_url).run_once(NOW)
    today, yesterday = f"monitoring {NOW:%Y-%m-%d}", f"monitoring {NOW - 24 * HOURS:%Y-%m-%d}"
    runs, client = journal_runs(mlflow_url), MlflowClient(mlflow_url, mlflow_url)
    assert set(runs) == {today, yesterday}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    curve = [
        point
        for name in (yesterday, today)
        for point in client.get_metric_history(runs[name].info.run_id, "confidence_mean")
    ]
    complete = [bucket for bucket in report.buckets if bucket.start < f"{NOW:%Y-%m-%dT%H}"]
    assert [point.value for point in curve] == [bucket.confidence_mean for bucket in complete]
    assert [point.step for point in curve] == [int(bucket.start[11:13]) * 60 for bucket in complete]
    metrics = set(runs[today].data.metrics)
    assert {"verdict_mismatch", "count_3", "psi_brightness", "window_requests", "accuracy_estimated"} <= metrics
    assert {"window_accuracy_estimated", "window_accuracy_estimated_low"} <= metrics
    assert not {"stations", "recounts"} & metrics
    assert runs[today].data.tags["alerts"] == "none"
    files = {file.path for file in client.list_artifacts(runs[today].info.run_id)}
    assert files == {"monitoring.json", *(f"{name}.png" for name in monitoring_plots.FIGURES)}


def test_a_further_run_logs_only_buckets_that_have_ended_since(
    registry: Registry, mlflow_url: str, tmp_path: Path
) -> None:
    fill(tmp_path, make_champion(registry, None))
    new_monitor(tmp_path, tmp_path / "out", mlflow_url).run_once(NOW)
    watching = new_monitor(tmp_path, tmp_path / "out", mlflow_url)  # a restart
    for minutes in (1, 31, 32):
        watching.run_once(NOW + timedelta(minutes=minutes))
    run = journal_runs(mlflow_url)[f"monitoring {NOW:%Y-%m-%d}"]
    client = MlflowClient(mlflow_url, mlflow_url)
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "requests")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 11 * 60
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "window_requests")]
    assert steps == [12 * 60 + 30, 12 * 60 + 31]


def test_drift_is_measured_against_the_champions_run_and_tagged(
    registry: Registry, mlflow_url: str, tmp_path: Path
) -> None:
    fill(tmp_path, make_champion(registry, draw_reference(1000, 1)), brightness=0.5)
    report = new_monitor(tmp_path, tmp_path / "out", mlflow_url).run_once(NOW)
    assert [alert.name for alert in report.alerts] == ["drift of brightness"]
    assert journal_runs(mlflow_url)[f"monitoring {NOW:%Y-%m-%d}"].data.tags["alerts"] == "drift of brightness"


def test_a_new_champion_is_compared_with_its_own_reference(registry: Registry, mlflow_url: str, tmp_path: Path) -> None:
    first = make_champion(registry, draw_reference(1000, 1))
    fill(tmp_path, first, brightness=0.5)
    watching = new_monitor(tmp_path, tmp_path / "out", mlflow_url)
    assert watching.run_once(NOW).alerts
    second = make_champion(registry, draw_reference(1000, 1))
    fill(tmp_path, second, seed=4)
    report = watching.run_once(NOW)
    assert report.alerts == ()
    assert report.model_versions == {first: 600, second: 600}


def test_a_champion_without_a_reference_leaves_drift_out(registry: Registry, mlflow_url: str, tmp_path: Path) -> None:
    fill(tmp_path, make_champion(registry, None))
    report = new_monitor(tmp_path, tmp_path / "out", mlflow_url).run_once(NOW)
    assert report.drift == ()
    assert len(report.notes) == 1


def test_without_a_champion_and_without_a_record_nothing_is_logged(
    registry: Registry, mlflow_url: str, tmp_path: Path
) -> None:
    assert new_monitor(tmp_path, tmp_path / "out", mlflow_url).run_once(NOW).records == 0
    assert journal_runs(mlflow_url) == {}


def run_script(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "scripts/monitor.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_script_summarises_a_real_capture(tmp_path: Path) -> None:
    writer = capture.start(capture.Settings(target=str(tmp_path / "capture"), max_disk_use=1))
    assert writer is not None
    answer = {"count": 2, "probabilities": {"1": 0.25, "2": 0.75}, "verdict": "match", "model_version": "4"}
    events = [
        Event(
            answer=answer,
            status=200,
            model_version="4",
            latency_ms=12.0,
            content_type="image/jpeg",
            data=b"\xff\xd8" * 500,
            brightness=90.0,
            sharpness=3.0,
        )
        for _ in range(20)
    ]
    for event in events:
        writer.put(event)
    writer.close()
    truth = tmp_path / "capture" / capture_rows.TRUTHS / f"{datetime.now(UTC):%Y/%m/%d/%H}" / "a.jsonl"
    truth.parent.mkdir(parents=True)
    for number, event in enumerate(events):
        line = {
            "groundTruthData": {"data": str(2 + (number < 5)), "encoding": "CSV"},
            "eventMetadata": {"eventId": event.event_id},
            "eventVersion": "0",
        }
        with truth.open("a") as file:
            file.write(json.dumps(line) + "\n")
    process = run_script("--capture", tmp_path / "capture", "--out", tmp_path / "out", "--no-tracking", "--json")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report == json.loads((tmp_path / "out" / "monitoring.json").read_text())
    assert (report["records"], report["unreadable"], report["model_versions"]) == (20, 0, {"4": 20})
    totals = report["totals"]
    assert (totals["confidence_mean"], totals["latency_p99_ms"], totals["counts"]) == (0.75, 12.0, {"2": 20})
    assert (totals["verdicts"]["match"], totals["feedback"], totals["accuracy"]) == (20, 20, 0.75)


@pytest.mark.parametrize(
    ("arguments", "env", "code", "part"),
    [
        (["--capture", "nowhere"], {}, 1, "nowhere"),
        (["--capture", ".", "--since", "soon"], {}, 2, "'soon'"),
        (["--capture", "."], {"BINWATCH_ALERT_PSI": "x", "BINWATCH_ALERT_RECENT_S": "0"}, 2, "BINWATCH_ALERT_RECENT_S"),
        (["--capture", "."], {"BINWATCH_ALERT_WEBHOOK": "file:///etc/passwd"}, 2, "BINWATCH_ALERT_WEBHOOK"),
    ],
)
def test_the_script_refuses_unusable_settings(
    arguments: list[str], env: dict[str, str], code: int, part: str, tmp_path: Path
) -> None:
    process = run_script(*arguments, "--out", tmp_path, "--no-tracking", **env)
    assert (process.returncode, process.stdout) == (code, "")
    assert re.match(r"error: .*", process.stderr)
    assert part in process.stderr


def test_a_watching_script_updates_the_report_and_ends_on_sigterm(tmp_path: Path) -> None:
    fill(tmp_path / "capture", "1", datetime.now(UTC) - 20 * HOURS)
    out, heartbeat = tmp_path / "out" / "monitoring.json", tmp_path / "beat"
    command = [
        "scripts/monitor.py",
        "--watch",
        "--no-tracking",
        "--interval",
        "0.2",
        "--capture",
        str(tmp_path / "capture"),
        "--out",
        str(out.parent),
        "--heartbeat",
        str(heartbeat),
    ]
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait(lambda: heartbeat.exists() and json.loads(out.read_text())["records"] == 600)
            fill(tmp_path / "capture", "1", datetime.now(UTC) - 20 * HOURS, seed=8)
            wait(lambda: json.loads(out.read_text())["records"] == 1200)
        finally:
            process.terminate()
        assert process.wait(30) == 0


def wait(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def test_stations_and_recounts_are_metrics_where_there_are_any() -> None:
    lines = [captured.line(captured.event(station=name)) for name in ("dock 1", "dock 2", "dock 2")]
    recounts = [captured.recount(number, alarm=number == 0, count=3 if number < 3 else 2) for number in range(4)]
    metrics = report_metrics(captured.report_on(lines, recounts=recounts).to_json())
    assert (metrics["stations"], metrics["stations_drifted"]) == (2, 0)
    assert (metrics["recounts"], metrics["recount_accuracy"]) == (4, 0.75)
    assert metrics["recount_alarms_on_right"] == 0.3333
    assert {"recount_promise_e_value", "recount_accuracy_e_value", "recount_accuracy_low"} <= metrics.keys()


def test_a_bucket_is_read_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fill(tmp_path / "capture", "1")
    with s3_server(tmp_path / "s3") as url:
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
        )
        client.create_bucket(Bucket="bins")
        for path in (tmp_path / "capture").rglob("*.jsonl"):
            client.upload_file(str(path), "bins", f"kept/{path.relative_to(tmp_path / 'capture')}")
        folder = Monitor(
            reader.FolderSource(tmp_path / "capture"), FolderObjects(tmp_path / "one"), 24 * HOURS, Thresholds()
        ).run_once(NOW)
        bucket = reader.open_source("s3://bins/kept/", url)
        watching = Monitor(bucket, FolderObjects(tmp_path / "two"), 24 * HOURS, Thresholds())
        assert watching.run_once(NOW) == folder
        assert folder.records == 600
        assert watching.run_once(NOW) == folder


def test_a_day_of_capture_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    """In CI a tenth of the day; `scripts/bench.py monitor` measures the whole, with and without photos."""
    number = rounds(10_000, 100_000)
    write_records(tmp_path, draw_records(number, 1, datetime.now(UTC) - 23 * HOURS, 22 * HOURS), photo_bytes=4096)
    command = [sys.executable, "scripts/monitor.py", "--capture", tmp_path, "--out", tmp_path / "out", "--no-tracking"]
    seconds, peak_mib = bench_monitor.measure(command)
    print(f"{number} records in {seconds:.1f} s, {peak_mib:.0f} MiB at most")
    assert json.loads((tmp_path / "out" / "monitoring.json").read_text())["records"] == number
    assert seconds < bench_monitor.MAX_SECONDS
    assert 20 < peak_mib < bench_monitor.MAX_MIB
