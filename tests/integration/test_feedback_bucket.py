"""Feedback where the capture goes to a bucket: a real gateway, a real S3 server, and the monitor's reader."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import boto3
import numpy as np
import pytest
import requests

from serve.gateway.feedback import GroundTruth
from serve.local.servers import free_port, gateway_server, s3_server
from serve.monitoring import capture_rows
from serve.monitoring.reader import Reader, open_source
from tests.unit.test_capture import until

pytestmark = pytest.mark.usefixtures("no_credentials")

CAPTURE = "s3://bins/live"


def send(state: Path, endpoint: str, counts: dict[UUID, int]) -> list[int]:
    """Send feedback to a gateway of its own, and stop it; returns the statuses."""
    environ = {
        "BINWATCH_CAPTURE": CAPTURE,
        "BINWATCH_CAPTURE_SPOOL": str(state / "spool"),
        "BINWATCH_S3_ENDPOINT": endpoint,
    }
    with gateway_server(state, "http://127.0.0.1:9", environ=environ) as url:
        bodies = [{"event_id": str(event_id), "count": count} for event_id, count in counts.items()]
        return [requests.post(f"{url}/feedback", json=body, timeout=30).status_code for body in bodies]


def waiting(state: Path) -> int:
    """The lines that wait for the store."""
    return sum(path.read_bytes().count(b"\n") for path in (state / "spool").rglob("*.jsonl"))


def test_feedback_waits_while_the_store_is_away_and_is_in_the_bucket_after_that(tmp_path: Path) -> None:
    first, later = {uuid4(): 3, uuid4(): 0}, uuid4()
    assert send(tmp_path, f"http://127.0.0.1:{free_port()}", first) == [201, 201]
    assert waiting(tmp_path) == 2
    with s3_server(tmp_path / "s3") as endpoint:
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any"
        )
        client.create_bucket(Bucket="bins")
        truth = GroundTruth(CAPTURE, spool=tmp_path / "spool", endpoint_url=endpoint, upload_s=0.2)  # the next process
        truth.append(later, 5, datetime.now(UTC))
        until(lambda: waiting(tmp_path) == 0, timeout_s=60)
        truth.close()
        source = open_source(CAPTURE, endpoint)
        truths = Reader(source, capture_rows.TRUTHS, capture_rows.parse_truth, capture_rows.TRUTH_DTYPE)
        today = datetime.now(UTC).date()
        rows, unreadable = truths.rows(today, today)
    assert unreadable == 0
    expected = {(hash(str(event_id)), count) for event_id, count in {**first, later: 5}.items()}
    assert {(int(row["event"]), int(row["count"])) for row in np.atleast_1d(rows)} == expected
