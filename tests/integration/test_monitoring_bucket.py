"""The monitoring's files in a bucket: the monitor writes them, gateway and trainer read them."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from serve.errors import UnavailableError
from serve.links import s3_client
from serve.local.servers import free_port, gateway_server
from serve.monitoring.monitor import FILE, Monitor, last_alerts
from serve.monitoring.monitor_settings import Thresholds
from serve.monitoring.reader import FolderSource
from serve.objects.places import open_objects
from trainer.pipeline.triggers import read_drift

PLACE = "s3://monitoring-files/live"


def test_a_report_in_a_bucket_is_what_the_page_and_the_trainer_read(s3: str, tmp_path: Path) -> None:
    s3_client(s3, 20, 1).create_bucket(Bucket="monitoring-files")
    out = open_objects(PLACE, s3)
    (tmp_path / "capture").mkdir()
    now = datetime.now(UTC)
    report = Monitor(FolderSource(tmp_path / "capture"), out, timedelta(hours=24), Thresholds()).run_once(now)
    assert last_alerts(out) == report.alerts
    stored = out.read(FILE)
    assert stored is not None
    assert read_drift(stored.content, time.time()) == ()
    environ = {"BINWATCH_MONITORING": PLACE, "BINWATCH_S3_ENDPOINT": s3}
    with gateway_server(tmp_path, "http://127.0.0.1:9", environ=environ) as url:
        assert requests.get(f"{url}/monitoring", timeout=30).json()["made_at"] == report.made_at
        assert requests.get(f"{url}/history", timeout=30).status_code == 404


def test_a_store_that_is_away_is_503_for_the_page_and_an_error_for_the_monitor(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "capture").mkdir()
    out = open_objects(PLACE, endpoint)
    with pytest.raises(UnavailableError):
        Monitor(FolderSource(tmp_path / "capture"), out, timedelta(hours=24), Thresholds()).run_once()
    environ = {"BINWATCH_MONITORING": PLACE, "BINWATCH_S3_ENDPOINT": endpoint}
    with gateway_server(tmp_path, "http://127.0.0.1:9", environ=environ) as url:
        answer = requests.get(f"{url}/monitoring", timeout=30)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
