"""Reports on captured lines; files that grow, are torn or foreign; alerts that start and end."""

import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.capture_record import Event, record
from serve.errors import DataError, SettingsError, TrackingError
from serve.monitoring import alerts, capture_rows, monitor, reader
from serve.monitoring.alerts import AlertEvent
from serve.monitoring.drift import Alert
from serve.monitoring.monitor import Monitor
from serve.monitoring.time_buckets import CalibrationQuality, bucket_width
from serve.objects.folder_objects import FolderObjects
from serve.recount.recount_entities import to_json
from tests.http_server import serving
from tests.unit.captured import DAY, LIMITS, NOW, answer, drawn, event, line, parsed, recount, reference, report_on


def test_reads_what_the_capture_writes() -> None:
    captured = event(answer=answer(2, 0.6, verdict="mismatch"), latency_ms=12.5, data=b"\xff" * 9000)
    (row,), unreadable = parsed([line(captured)])
    assert unreadable == 0
    assert (row["count"], row["version"], row["verdict"], row["status"]) == (b"2", b"1", b"mismatch", 200)
    assert (row["confidence"], row["latency_ms"], row["brightness"], row["sharpness"]) == (0.6, 12.5, 100, 50)
    assert row["time_s"] == NOW.timestamp()


def test_reads_records_as_sagemaker_writes_them() -> None:
    """Another order of keys, no measurements by binwatch, the output in base64, no status."""
    output = base64.b64encode(json.dumps(answer(4, 0.5)).encode()).decode()
    foreign = {
        "captureData": {
            "endpointInput": {
                "observedContentType": "image/jpeg",
                "mode": "INPUT",
                "data": "/9j=",
                "encoding": "BASE64",
            },
            "endpointOutput": {
                "observedContentType": "application/json",
                "mode": "OUTPUT",
                "data": output,
                "encoding": "BASE64",
            },
        },
        "eventMetadata": {"eventId": "not-a-uuid", "inferenceTime": "2026-11-24T11:59:00Z"},
        "eventVersion": "0",
    }
    rows, unreadable = parsed(
        [json.dumps(foreign).encode() + b"\n", json.dumps(foreign, separators=(",", ":")).encode()]
    )
    assert unreadable == 0
    assert rows["count"].tolist() == [b"4", b"4"]
    assert np.isnan(rows["latency_ms"]).all()
    assert rows["version"][0] == b"1"


def test_an_input_that_is_text_with_braces_is_read_too() -> None:
    rows, unreadable = parsed(
        [line(event(link='s3://b/{"endpointInput"}.jpg')), line(event(attributes="endpointInput"))]
    )
    assert (len(rows), unreadable) == (2, 0)


BROKEN = [
    b"{\n",
    b"nonsense\n",
    b"[]\n",
    b"null\n",
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"eventMetadata": {}}\n',
    json.dumps(record(event(answer={"count": 3}))).encode() + b"\n",
    json.dumps(record(event(answer=answer(3, 7.0)))).encode() + b"\n",
    json.dumps(record(event(status=99_999))).encode() + b"\n",
    json.dumps(record(event(brightness=1e999))).encode() + b"\n",
    json.dumps(record(event(latency_ms=float("nan")))).encode() + b"\n",
    line(event()).replace(b"2026-11-24", b"yesterday"),
    line(event())[:-40] + b"\n",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_line_that_is_no_record_is_counted_and_the_others_are_read(broken: bytes) -> None:
    rows, unreadable = parsed([line(event()), broken, b"\n", line(event())])
    assert (len(rows), unreadable) == (2, 1)


def test_every_way_to_tear_a_line_is_survived() -> None:
    whole = line(event(data=b"\x01" * 30))
    for cut in range(1, len(whole) - 2):
        rows, unreadable = parsed([whole, whole[:cut] + b"\n", whole])
        assert (len(rows), unreadable) == (2, 1), whole[:cut]


def test_a_line_longer_than_any_is_skipped_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_rows, "MAX_LINE_BYTES", 5000)
    rows, unreadable = parsed([line(event()), line(event(data=b"x" * 20_000)), line(event())])
    assert (len(rows), unreadable) == (2, 1)


def test_a_bucket_holds_its_hour() -> None:
    lines = [line(event(minutes_ago=90 + i, latency_ms=float(i), answer=answer(3, 0.5 + i / 100))) for i in range(11)]
    lines += [line(event(minutes_ago=10, status=400, answer={"code": 400})) for _ in range(2)]
    report = report_on([*lines, line(event(minutes_ago=60 * 25))])
    first, second = report.buckets
    assert (first.start, first.requests, first.errors) == ("2026-11-24T10:00:00Z", 11, 0)
    assert (first.confidence_mean, first.confidence_p10) == (0.55, 0.51)
    assert (first.latency_p50_ms, first.latency_p99_ms) == (5.0, 9.9)
    assert (second.requests, second.errors, second.confidence_mean, second.counts) == (2, 2, None, {})
    assert (report.totals.requests, report.totals.errors, report.records) == (13, 2, 13)
    assert report.model_versions == {"1": 13}
    assert json.dumps(report.to_json(), allow_nan=False)


def test_the_buckets_add_up_to_the_totals() -> None:
    report = report_on(drawn(5, 3000))
    for field in ("requests", "errors", "feedback", "not_a_bin"):
        assert sum(getattr(bucket, field) for bucket in report.buckets) == getattr(report.totals, field)
    for field in ("counts", "verdicts"):
        for name, number in getattr(report.totals, field).items():
            assert sum(getattr(bucket, field).get(name, 0) for bucket in report.buckets) == number
    assert sum(report.totals.counts.values()) == report.totals.requests - report.totals.errors
    assert list(report.totals.counts) == ["1", "2", "3", "4", "5"]


def test_verdicts_are_counted_by_what_they_rest_on_which_is_the_photo_where_a_capture_does_not_say() -> None:
    answers = [
        answer(verdict="match"),
        answer(verdict="match", evidence="photo"),
        answer(verdict="mismatch", evidence="photo+products"),
        answer(verdict="unsure", evidence="photo+products+weight"),
        answer(verdict="unsure", evidence=["of another version"]),
        answer(evidence="photo"),
    ]
    report = report_on([*(line(event(answer=content)) for content in answers), line(event(status=400, answer={}))])
    assert report.totals.verdicts_by_evidence == {
        "photo": {"match": 2, "mismatch": 0, "unsure": 1},
        "photo+products": {"match": 0, "mismatch": 1, "unsure": 0},
        "photo+products+weight": {"match": 0, "mismatch": 0, "unsure": 1},
    }
    assert report.totals.verdicts == {"match": 2, "mismatch": 1, "unsure": 2}


@pytest.mark.parametrize(
    ("verdict", "mark", "number"),
    [
        ("unsure", True, 1),
        ("match", True, 1),
        ("unsure", False, 0),
        ("unsure", None, 0),
        ("unsure", "yes", 0),
        (None, True, 0),
    ],
)
def test_verdicts_on_photos_of_no_bin_are_counted_as_their_answers_say(
    verdict: str | None, mark: object, number: int
) -> None:
    lines = [line(event(answer=answer(verdict=verdict, not_a_bin=mark))), line(event(answer=answer(verdict="unsure")))]
    assert report_on(lines).totals.not_a_bin == number


@pytest.mark.parametrize(("hours", "minutes"), [(1, 5), (8, 5), (9, 60), (24, 60), (96, 60), (101, 1440), (8760, 1440)])
def test_the_width_of_a_bucket_follows_the_span(hours: int, minutes: int) -> None:
    assert bucket_width(timedelta(hours=hours)) == timedelta(minutes=minutes)


def test_late_ground_truth_gives_the_accuracy_of_the_time_of_the_answer() -> None:
    old, new = event(minutes_ago=600), event(minutes_ago=5)
    top = event(minutes_ago=5, answer={"count": 8, "probabilities": {"1": 0.1, "8+": 0.9}})
    failed = event(minutes_ago=5, status=400, answer={"code": 400})
    truths = [
        (old.event_id, 3),
        (new.event_id, 3),
        (new.event_id, 2),
        (top.event_id, 11),
        (failed.event_id, 1),
        ("of another day", 1),
    ]
    report = report_on([line(captured) for captured in (old, new, top, failed)], truths)
    first, second = report.buckets
    assert (first.feedback, first.accuracy) == (1, 1.0)
    assert (second.feedback, second.accuracy) == (2, 0.5)  # the last count for ``new`` wins, and 11 is 8 and above
    assert (report.totals.accuracy_low, report.totals.accuracy_high) == (0.2077, 0.9385)  # Wilson, 2 of 3
    assert report_on([line(old)]).totals.accuracy is None


def test_only_answers_of_the_references_version_are_compared() -> None:
    report = report_on(drawn(1) + drawn(2, version="2", brightness=0.5), reference=reference())
    assert report.alerts == ()
    assert report.model_versions == {"1": 600, "2": 600}
    few = report_on(drawn(1, number=100), reference=reference())
    assert few.alerts == ()
    assert "200" in few.notes[0]


def test_without_a_reference_drift_is_left_out_with_a_note() -> None:
    report = report_on(drawn(1))
    assert report.drift == ()
    assert len(report.notes) == 1


def test_errors_and_slow_answers_of_the_last_hour_raise_alerts() -> None:
    lines = drawn(1, number=5000)
    lines += [
        line(
            event(
                minutes_ago=i / 10,
                latency_ms=3000.0,
                status=503 if i % 10 == 0 else 200,
                answer={} if i % 10 == 0 else answer(),
            )
        )
        for i in range(300)
    ]
    assert {alert.name for alert in report_on(lines).alerts} == {"errors", "latency"}


def write(capture: Path, event: Event, name: str = "a.jsonl", data: bytes | None = None) -> Path:
    path = capture / capture_rows.ANSWERS / f"{event.moment:%Y/%m/%d/%H}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(line(event) if data is None else data)
    return path


def new_monitor(capture: Path, out: Path, **more: Any) -> Monitor:
    return Monitor(reader.FolderSource(capture), FolderObjects(out), DAY, LIMITS, **more)


def test_a_half_written_last_line_is_left_for_the_next_report(tmp_path: Path) -> None:
    watching = new_monitor(tmp_path, tmp_path / "out")
    second = line(event(data=b"photo"))
    path = write(tmp_path, event())
    write(tmp_path, event(), data=second[:200])
    assert (watching.run_once(NOW).records, watching.run_once(NOW).unreadable) == (1, 0)
    write(tmp_path, event(), data=second[200:])
    assert (watching.run_once(NOW).records, watching.run_once(NOW).unreadable) == (2, 0)
    write(tmp_path, event(), data=second[:200])
    watching.run_once(NOW)
    os.utime(path, (time.time() - 3600,) * 2)  # nobody writes it any more
    assert (watching.run_once(NOW).records, watching.run_once(NOW).unreadable) == (2, 1)


def test_a_file_is_read_once_and_only_its_new_lines_after_that(tmp_path: Path) -> None:
    opened: list[tuple[str, int]] = []

    class CountingSource(reader.FolderSource):
        def open(self, name: str, offset: int) -> Any:
            opened.append((name[-7:], offset))
            return super().open(name, offset)

    watching = Monitor(CountingSource(tmp_path), FolderObjects(tmp_path / "out"), DAY, LIMITS)
    size = write(tmp_path, event(), "a.jsonl").stat().st_size
    write(tmp_path, event(), "b.jsonl")
    assert watching.run_once(NOW).records == 2
    assert watching.run_once(NOW).records == 2
    write(tmp_path, event(), "a.jsonl")
    assert watching.run_once(NOW).records == 3
    assert opened == [("a.jsonl", 0), ("b.jsonl", 0), ("a.jsonl", size)]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    watching = new_monitor(tmp_path, tmp_path / "out")
    path = write(tmp_path, event())
    write(tmp_path, event())
    assert watching.run_once(NOW).records == 2
    path.write_bytes(line(event()))
    assert watching.run_once(NOW).records == 1


def test_an_empty_or_missing_capture_gives_an_empty_report(tmp_path: Path) -> None:
    write(tmp_path, event(), data=b"")
    report = new_monitor(tmp_path, tmp_path / "out").run_once(NOW)
    assert (report.records, report.buckets, report.totals.confidence_mean) == (0, (), None)
    with pytest.raises(DataError, match=str(tmp_path / "nothing")):
        reader.open_source(str(tmp_path / "nothing"))


def test_the_report_has_the_fields_that_the_page_reads_and_replaces_the_last_one_whole(tmp_path: Path) -> None:
    write(tmp_path, event())
    truth = {
        "groundTruthData": {"data": "3", "encoding": "CSV"},
        "eventMetadata": {"eventId": "x"},
        "eventVersion": "0",
    }
    path = tmp_path / capture_rows.TRUTHS / f"{NOW:%Y/%m/%d/%H}" / "t.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(truth) + "\nforeign\n" + json.dumps({**truth, "groundTruthData": {"data": "-1"}}) + "\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / monitor.FILE).write_text("damaged")
    new_monitor(tmp_path, out).run_once(NOW)
    content = json.loads((out / monitor.FILE).read_text())
    assert content.keys() >= {
        "made_at",
        "from",
        "to",
        "records",
        "unreadable",
        "buckets",
        "totals",
        "drift",
        "alerts",
        "model_versions",
        "stations",
        "recounts",
    }
    assert content["totals"].keys() == {
        "start",
        "requests",
        "errors",
        "confidence_mean",
        "confidence_p10",
        "latency_p50_ms",
        "latency_p99_ms",
        "verdicts",
        "verdicts_by_evidence",
        "not_a_bin",
        "counts",
        "feedback",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "accuracy_estimated",
        "accuracy_estimated_low",
        "accuracy_estimated_high",
    }
    assert (content["from"], content["to"]) == ("2026-11-23T12:00:00Z", "2026-11-24T12:00:00Z")
    assert content["unreadable"] == 2
    assert [path.name for path in out.iterdir()] == [monitor.FILE]


def test_recounts_are_read_from_their_folder_and_an_undone_one_counts_no_longer(tmp_path: Path) -> None:
    write(tmp_path / "capture", event())
    recounts = FolderObjects(tmp_path / "recounts")
    watching = new_monitor(tmp_path / "capture", tmp_path / "out", recounts=recounts, alpha=0.1)
    assert watching.run_once(NOW).recounts is None
    settled = tmp_path / "recounts" / "settled"
    settled.mkdir(parents=True)
    for number in range(5):
        (settled / f"{number}.json").write_text(json.dumps(to_json(recount(number, alarm=number == 0))))
    (settled / "damaged.json").write_text("{")
    statistics = watching.run_once(NOW).recounts
    assert statistics is not None
    assert (statistics.alpha, statistics.alarms_on_right.share, statistics.alarms_on_right.total) == (0.1, 0.2, 5)
    (settled / "0.json").unlink()
    assert watching.run_once(NOW).to_json()["recounts"] == {
        **asdict(statistics),
        "alarms_on_right": {"share": 0.0, "low": 0.0, "high": 0.4899, "total": 4},
        "accuracy": {"share": 1.0, "low": 0.5101, "high": 1.0, "total": 4},
        "accuracy_compared": 4,
        "promise_e_value": pytest.approx(0.7, abs=0.2),
        "accuracy_e_value": pytest.approx(1.1, abs=0.2),
    }


def test_accuracy_is_estimated_from_confidence_with_what_is_known_of_its_calibration() -> None:
    confidence = np.array([0.6, 0.8] * 50)
    unknown = CalibrationQuality.of({}).estimate_accuracy(confidence)
    known = CalibrationQuality.of({"photos": {"confidence": 100}, "calibration_error": 0.02})
    assert unknown == (0.7, 0.6123, 0.7877)  # 1.96 standard deviations of 100 answers
    assert known.estimate_accuracy(confidence) == pytest.approx((0.7, 0.556, 0.844), abs=1e-4)
    assert known.estimate_accuracy(np.array([])) == (None, None, None)
    assert CalibrationQuality(None, 0.5).estimate_accuracy(confidence)[1:] == (0.1123, 1.0)


class DownJournal:
    """A journal that does not answer."""

    def reference(self) -> None:
        raise TrackingError("MLflow does not answer")

    def comparison(self) -> None:
        raise TrackingError("MLflow does not answer")

    def log(self, report: Any) -> None:
        raise AssertionError("no report is logged while MLflow does not answer")


def test_the_report_is_written_even_if_the_journal_does_not_answer(tmp_path: Path) -> None:
    write(tmp_path, event())
    with pytest.raises(TrackingError):
        new_monitor(tmp_path, tmp_path / "out", journal=DownJournal()).run_once(NOW)
    assert json.loads((tmp_path / "out" / monitor.FILE).read_text())["records"] == 1


def test_copies_of_photos_are_captured_and_are_no_traffic(tmp_path: Path) -> None:
    copy = event(attributes="expected_quantity=3,shadow=1", model_version="2", status=500, answer={"code": 500})
    marks = ("", "station=7, shadow=1", "shadow=11,station=shadow%3D1")
    for captured in (copy, *(event(attributes=mark) for mark in marks)):
        write(tmp_path, captured)
    report = new_monitor(tmp_path, tmp_path / "out").run_once(NOW)
    assert (report.records, report.unreadable, report.totals.errors) == (2, 0, 0)
    assert report.model_versions == {"1": 2}
    assert capture_rows.is_copy(line(copy))
    assert capture_rows.parse_answer(line(copy)).version == b"2"  # it can be found by its event id


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="--out"):
        new_monitor(tmp_path, tmp_path / "out").run_once(NOW)


def test_a_watch_goes_on_after_a_run_that_failed(tmp_path: Path) -> None:
    stop, heartbeat, beats = threading.Event(), tmp_path / "heartbeat", []

    def run_once() -> None:
        beats.append(heartbeat.exists())
        if len(beats) == 1:
            raise DataError("no")
        if len(beats) == 3:
            stop.set()

    monitor.watch(run_once, heartbeat, 0.01, stop)
    assert beats == [False, False, True]


@pytest.mark.parametrize(("text", "hours"), [("30m", 0.5), ("24h", 24), ("7d", 168)])
def test_a_window_is_minutes_hours_or_days(text: str, hours: float) -> None:
    assert monitor.parse_window(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "24", "0h", "-1h", "1w", "400d", "1.5h"])
def test_another_window_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(repr(text))):
        monitor.parse_window(text)


DARK, SLOW = Alert("drift of brightness", 0.5, 0.2, "it is dark"), Alert("latency", 2000.0, 1000.0, "it is slow")


def test_an_alert_is_notified_when_it_starts_and_when_it_ends() -> None:
    assert alerts.diff((), (DARK,)) == [("alert started", DARK)]
    assert alerts.diff((DARK,), (Alert(DARK.name, 0.6, 0.2, "darker"),)) == []
    assert alerts.diff((DARK,), (SLOW,)) == [("alert started", SLOW), ("alert ended", DARK)]


@contextmanager
def webhook(status_of: Callable[[int], int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that answers the n-th POST with the status ``status_of(n)``; its address, and what it received."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status = status_of(len(received))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Handler) as url:
        yield f"{url}/hook?token=secret", received


def test_the_webhook_is_notified_once_across_reports_and_restarts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(300):
        write(tmp_path, event(minutes_ago=i / 10, latency_ms=3000.0))
    with webhook(lambda _: 200) as (url, received):
        for _ in range(2):  # the second monitor is a restart
            watching = new_monitor(tmp_path, tmp_path / "out", webhook=url)
            watching.run_once(NOW)
            watching.run_once(NOW)
        new_monitor(tmp_path, tmp_path / "out", webhook=url).run_once(NOW + timedelta(hours=5))
    events = [(content["event"], content["name"]) for content in received]
    assert events == [("alert started", "latency"), ("alert ended", "latency")]
    assert received[0].keys() == {"event", "name", "value", "threshold", "message", "at"}
    assert [message for message in caplog.messages if message.startswith("alert")] == [
        f"{content['event']}: latency: {content['message']}" for content in received
    ]


def test_a_webhook_is_retried_once_and_one_that_is_down_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with webhook(lambda number: 500 if number == 1 else 204) as (url, received):
        alerts.notify([(AlertEvent.STARTED, DARK)], url, "now")
    assert len(received) == 2
    assert "500" not in caplog.text
    with webhook(lambda _: 302) as (url, received):
        alerts.notify([(AlertEvent.STARTED, DARK)], url, "now")
    assert len(received) == alerts.MAX_ATTEMPTS  # redirects are not followed
    alerts.notify([(AlertEvent.STARTED, DARK)], url, "now")
    assert "302" in caplog.text
    assert "ConnectionError" in caplog.text
    assert "secret" not in caplog.text
