import io
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from PIL import Image
from pydantic import ValidationError

from serve.gateway import feedback
from serve.gateway.feedback import GroundTruth
from serve.gateway.health import gradient_png
from serve.gateway.parsing import ATTRIBUTES, ModelRequest, with_station
from serve.gateway.records.record_fields import Fields
from serve.gateway.refusal import to_refusal
from serve.gateway.routes import HISTORY, MONITORING, read_monitoring_file
from serve.gateway.schemas import Refusal, json_response
from serve.objects.folder_objects import FolderObjects

EVENT = UUID("11111111-2222-4333-8444-555555555555")
NOW = datetime(2026, 11, 24, 5, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "body", "expected", "kind"),
    [
        (400, {"code": 400, "type": "BadPhoto", "message": "broken"}, 400, "BadPhoto"),
        (422, {"code": 422, "type": "BadField", "message": "wrong"}, 422, "BadField"),
        (404, {"code": 404, "type": "NoSuchObject", "message": "no such key"}, 404, "NoSuchObject"),
        (404, {"code": 404, "type": "ModelNotFoundException", "message": "Model not found"}, 503, "NoModel"),
        (404, {"code": 404, "type": "ModelVersionNotFoundException", "message": "Version: 7"}, 503, "NoModel"),
        (
            503,
            {"code": 503, "type": "ServiceUnavailableException", "message": "Model has no worker"},
            503,
            "Overloaded",
        ),
        (507, {"code": 507, "type": "InsufficientStorage", "message": "memory"}, 503, "Overloaded"),
        (500, {"code": 500, "type": "InternalServerException", "message": "Worker died."}, 502, "Failed"),
        (400, None, 502, "Failed"),
        (200, None, 502, "Failed"),
        (302, None, 502, "Failed"),
    ],
)
def test_what_an_answer_of_torchserve_means(
    status: int, body: dict[str, object] | None, expected: int, kind: str
) -> None:
    refusal = to_refusal(status, body)
    assert refusal is not None
    assert (refusal.status, refusal.kind) == (expected, kind)
    assert ("Retry-After" in refusal.headers) == (expected == 503)
    assert "Worker died" not in refusal.message


def test_an_answer_is_no_error() -> None:
    assert to_refusal(200, {"count": 2}) is None


def test_fields_become_attributes() -> None:
    assert ModelRequest(b"", "image/jpeg").headers == {"Content-Type": "image/jpeg"}
    fields = Fields(expected_quantity=3, weight=1.25)
    assert ModelRequest(b"", "image/png", fields).headers[ATTRIBUTES] == "expected_quantity=3,weight=1.25"
    assert (
        ModelRequest(b"", "image/png", Fields(expected_quantity=0), "probe=1").headers[ATTRIBUTES]
        == "expected_quantity=0,probe=1"
    )


def test_a_station_is_sent_percent_encoded_and_else_is_the_name_of_the_key() -> None:
    named = ModelRequest(b"", "image/png", Fields(weight=1.5, station="Tor 7, links"), "probe=0")
    assert named.headers[ATTRIBUTES] == "station=Tor%207%2C%20links,weight=1.5,probe=0"
    assert with_station(named, "key") == named
    assert with_station(ModelRequest(b"", "image/png"), "dock 3").headers[ATTRIBUTES] == "station=dock%203"
    assert with_station(ModelRequest(b"", "image/png"), "").headers == {"Content-Type": "image/png"}
    through = ModelRequest(b"", "image/png", extra_attribute="weight=2, station=7")
    assert with_station(through, "key") == through


@pytest.mark.parametrize("station", ["", " ", "x" * 65, "a\nb", 7])
def test_a_station_that_is_no_printable_text_is_refused(station: object) -> None:
    with pytest.raises(ValidationError):
        Fields.model_validate({"station": station})


def test_the_photo_of_the_health_check_is_a_photo() -> None:
    with Image.open(io.BytesIO(gradient_png())) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")
        assert image.getpixel((1, 2)) == (8, 16, 90)


def test_a_lone_surrogate_does_not_break_an_answer() -> None:
    assert json.loads(bytes(json_response({"message": "\ud800"}).body)) == {"message": "\ud800"}


def test_ground_truth_is_sagemaker_s_record_one_line_each(tmp_path: Path) -> None:
    truth = GroundTruth(str(tmp_path))
    truth.append(EVENT, 3, NOW)
    truth.append(EVENT, 4, NOW)
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.parent == tmp_path / "ground-truth" / "2026" / "11" / "24" / "05"
    UUID(path.stem)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["groundTruthData"]["data"] for line in lines] == ["3", "4"]
    assert json.loads(lines[0]) == {
        "groundTruthData": {"data": "3", "encoding": "CSV"},
        "eventMetadata": {"eventId": str(EVENT)},
        "eventVersion": "0",
    }


def test_feedback_within_an_hour_is_bounded(tmp_path: Path) -> None:
    truth = GroundTruth(str(tmp_path), max_bytes=400)
    truth.append(EVENT, 3, NOW)
    truth.append(EVENT, 3, NOW)
    with pytest.raises(Refusal, match=r"\b\d{3} bytes") as caught:
        truth.append(EVENT, 3, NOW)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "600")
    (path,) = tmp_path.rglob("*.jsonl")
    assert 0 < path.stat().st_size <= 400
    assert path.read_bytes().endswith(b"}\n")


def test_a_full_disk_keeps_no_half_line() -> None:
    """/dev/full takes no byte: the real error of a full disk."""
    with pytest.raises(OSError, match="No space left"):
        feedback._append(Path("/dev/full"), b"line\n", 400)


def test_a_folder_that_cannot_be_written_is_503(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refusal) as caught:
        GroundTruth(str(tmp_path / "file")).append(EVENT, 3, NOW)
    assert (caught.value.status, caught.value.kind) == (503, "NoRoom")


def test_without_a_capture_feedback_is_refused_with_the_reason() -> None:
    with pytest.raises(Refusal, match="BINWATCH_CAPTURE") as caught:
        GroundTruth("").append(EVENT, 3, NOW)
    assert caught.value.status == 409


def test_a_spool_that_cannot_be_written_is_503(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    truth = GroundTruth("s3://bucket/prefix", spool=tmp_path / "file")
    try:
        with pytest.raises(Refusal) as caught:
            truth.append(EVENT, 3, NOW)
    finally:
        truth.close()
    assert (caught.value.status, caught.value.kind) == (503, "NoRoom")


@pytest.mark.parametrize("name", [MONITORING, HISTORY])
def test_monitoring_that_is_not_there_says_what_to_do(name: str, tmp_path: Path) -> None:
    for folder in (None, FolderObjects(tmp_path)):
        with pytest.raises(Refusal, match=r"scripts/monitor.py") as caught:
            read_monitoring_file(folder, name, "Monitoring")
        assert caught.value.status == 404
    (tmp_path / name).write_text('{"records"')
    with pytest.raises(Refusal, match=name) as caught:
        read_monitoring_file(FolderObjects(tmp_path), name, "Monitoring")
    assert (caught.value.status, caught.value.kind) == (503, "MonitoringUnreadable")
