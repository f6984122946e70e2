import base64
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serve import hour_files
from serve.capture import VARIANT, Capture, Folder, settings_from, start
from serve.capture_record import Event, Record, is_sampled, record
from serve.hour_files import HourFiles

MOMENT = datetime(2026, 11, 24, 5, 40, 0, 999999, tzinfo=UTC)
EVENT = Event(
    answer={"count": 3, "event_id": "x"},
    status=200,
    model_version="7",
    latency_ms=12.3456,
    content_type="image/jpeg",
    data=b"\xff\xd8",
    attributes="expected_quantity=3",
    brightness=99.5,
    sharpness=12.25,
    event_id="c0ffee00-0000-4000-8000-000000000000",
    moment=MOMENT,
)


def event(number: int = 0, size: int = 10) -> Event:
    return replace(EVENT, answer={"count": number}, data=bytes(size), event_id=str(uuid.uuid4()))


def lines(folder: Path) -> list[Record]:
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))]
    return [json.loads(line) for content in contents for line in content.splitlines()]


def written(folder: Path) -> int:
    """How many lines are complete, while more are being written."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


def counts(folder: Path) -> list[int]:
    return [json.loads(line["captureData"]["endpointOutput"]["data"])["count"] for line in lines(folder)]


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_station_is_in_the_record_where_there_is_one() -> None:
    station = record(replace(EVENT, station="dock 3"))["eventMetadata"]["binwatch"]["station"]
    assert station == "dock 3"
    assert "station" not in record(EVENT)["eventMetadata"]["binwatch"]


def test_a_record_has_sagemaker_s_form_with_the_input_last() -> None:
    assert json.dumps(record(EVENT)) == json.dumps(
        {
            "eventVersion": "0",
            "eventMetadata": {
                "eventId": "c0ffee00-0000-4000-8000-000000000000",
                "inferenceTime": "2026-11-24T05:40:00Z",
                "customAttributes": ["expected_quantity=3"],
                "binwatch": {
                    "latency_ms": 12.346,
                    "model_version": "7",
                    "status": 200,
                    "brightness": 99.5,
                    "sharpness": 12.25,
                },
            },
            "captureData": {
                "endpointOutput": {
                    "observedContentType": "application/json",
                    "mode": "OUTPUT",
                    "data": '{"count": 3, "event_id": "x"}',
                    "encoding": "JSON",
                },
                "endpointInput": {
                    "observedContentType": "image/jpeg",
                    "mode": "INPUT",
                    "data": base64.b64encode(b"\xff\xd8").decode(),
                    "encoding": "BASE64",
                },
            },
        }
    )


def test_a_record_without_photos_or_of_a_link_is_short() -> None:
    assert record(EVENT, photos=False)["captureData"]["endpointInput"]["data"] == ""
    linked = replace(EVENT, data=b"the photo", link="s3://bins/1.jpg")
    endpoint_input = record(linked)["captureData"]["endpointInput"]
    assert (endpoint_input["data"], endpoint_input["encoding"]) == ('{"uri": "s3://bins/1.jpg"}', "JSON")


def sample(ids: list[str], share: float) -> list[str]:
    return [event_id for event_id in ids if is_sampled(event_id, share)]


def test_the_share_decides_by_the_event_s_id_alone() -> None:
    ids = [str(number) for number in range(4000)]
    for share in (0.0, 0.1, 0.5, 1.0):
        assert len(sample(ids, share)) / len(ids) == pytest.approx(share, abs=0.025)
        assert sample(ids, share) == sample(ids, share)
    assert set(sample(ids, 0.1)) < set(sample(ids, 0.5))


def test_events_lie_in_the_file_of_their_hour(tmp_path: Path) -> None:
    capture = Capture(Folder(tmp_path), disk_use=lambda _: 0.0)
    later = replace(event(2), moment=MOMENT.replace(hour=6))
    for captured in (event(0), event(1), later):
        capture.put(captured)
    capture.close()
    assert sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl")) == [
        "2026/11/24/05",
        "2026/11/24/06",
    ]
    assert sorted(counts(tmp_path)) == [0, 1, 2]


def test_the_flush_comes_by_itself(tmp_path: Path) -> None:
    capture = Capture(Folder(tmp_path), disk_use=lambda _: 0.0, flush_s=0.1)
    capture.put(event())
    until(lambda: counts(tmp_path) == [0], 5)
    capture.close()


def test_what_does_not_fit_the_buffer_is_dropped_counted_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = Capture(Folder(tmp_path / "few"), max_events=2, disk_use=lambda _: 0.0)
    small = Capture(Folder(tmp_path / "small"), max_bytes=20_000, disk_use=lambda _: 0.0)
    for number in range(5):
        few.put(event(number))
        small.put(event(number, size=6000))
    few.close()
    small.close()
    assert few.dropped == {"buffer full": 3}
    assert small.dropped == {"buffer full": 3}
    assert counts(tmp_path / "few") == counts(tmp_path / "small") == [0, 1]
    assert sum("3 more captured answers were dropped" in text for text in caplog.messages) == 2


@pytest.mark.parametrize("limit", [0.75, 0.9])
def test_a_full_disk_stops_it_with_one_warning_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    caplog.set_level(logging.INFO)
    use = [limit + 0.01]
    capture = Capture(Folder(tmp_path), disk_use=lambda _: use[0], max_disk_use=limit, flush_s=0.1)
    for number in range(3):
        capture.put(event(number))
        until(lambda number=number: capture.dropped["disk full"] == number + 1)  # type: ignore[misc]
    assert not lines(tmp_path)
    use[0] = limit
    until(lambda: "capture resumes" in caplog.messages)
    capture.put(event(3))
    capture.close()
    assert counts(tmp_path) == [3]
    stops = [text for text in caplog.messages if f"its disk is {limit + 0.01:.0%} full" in text]
    assert len(stops) == 1
    assert any("3 disk full" in text for text in caplog.messages)


def test_an_unwritable_folder_is_tried_again_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "capture").write_text("a file where the folder should be")
    capture = Capture(Folder(tmp_path / "capture" / VARIANT), disk_use=lambda _: 0.0, flush_s=0.1)
    start_s = time.monotonic()
    for number in range(1000):
        capture.put(event(number))
    assert time.monotonic() - start_s < 1
    until(lambda: any("cannot be written" in text for text in caplog.messages))
    time.sleep(0.3)  # two more attempts, which log nothing new
    (tmp_path / "capture").unlink()
    until(lambda: written(tmp_path) == 1000)
    capture.close()
    assert counts(tmp_path) == list(range(1000))
    assert sum("cannot be written" in text for text in caplog.messages) == 1
    assert not capture.dropped


@pytest.mark.parametrize(
    ("content", "whole_lines"),
    [
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b', b'{"a": 1}\n'),
        (b'{"a', b""),
        (b"", b""),
        (b"x\n" + b"y" * 200_000, b"x\n"),
        (b"y" * 65_537, b""),
    ],
)
def test_a_partial_line_is_removed(tmp_path: Path, content: bytes, whole_lines: bytes) -> None:
    (tmp_path / "05").mkdir()
    (tmp_path / "05" / "a.jsonl").write_bytes(content)
    assert hour_files.drop_partial_lines(tmp_path) == (content != whole_lines)
    assert (tmp_path / "05" / "a.jsonl").read_bytes() == whole_lines


def test_a_file_in_use_is_left_alone(tmp_path: Path) -> None:
    files = HourFiles(tmp_path)
    files.append(MOMENT, b"whole\n")
    (path,) = tmp_path.rglob("*.jsonl")
    with path.open("ab") as cut:
        cut.write(b"being writt")
    assert list(hour_files.unlocked_files(tmp_path)) == []
    assert hour_files.drop_partial_lines(tmp_path) == 0
    files.close()
    assert list(hour_files.unlocked_files(tmp_path)) == [path]
    assert hour_files.drop_partial_lines(tmp_path) == 1
    assert path.read_bytes() == b"whole\n"


def test_the_settings_come_from_the_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert start(settings_from({})) is None
    assert start(settings_from({"BINWATCH_CAPTURE": str(tmp_path), "BINWATCH_CAPTURE_SHARE": "0"})) is None
    half = settings_from(
        {"BINWATCH_CAPTURE": str(tmp_path), "BINWATCH_CAPTURE_SHARE": "0.5", "BINWATCH_CAPTURE_PHOTOS": "0"}
    )
    assert (half.share, half.photos) == (0.5, False)
    assert settings_from({"BINWATCH_CAPTURE_SHARE": "5"}).share == 1
    assert settings_from({"BINWATCH_CAPTURE_SHARE": "half"}).share == 1
    assert settings_from({}).max_disk_use == 0.75
    assert settings_from({"BINWATCH_CAPTURE_DISK": "0.9"}).max_disk_use == 0.9
    assert settings_from({"BINWATCH_CAPTURE_DISK": "75"}).max_disk_use == 0.75
    warnings = [text for text in caplog.messages if "give a number from 0 to 1" in text]
    assert [text.split()[0] for text in warnings] == ["BINWATCH_CAPTURE_SHARE"] * 2 + ["BINWATCH_CAPTURE_DISK"]
