"""Captured lines, drawn at random, and the reports on them."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from serve.capture_record import Event, record
from serve.monitoring import capture_rows
from serve.monitoring.monitor_settings import Thresholds
from serve.monitoring.report import Reference, Report, summarise
from serve.recount.recount_entities import Outcome, Recount, utc_text
from tests.benchmarks.drawn_capture import draw_records, draw_reference, with_input

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
LIMITS = Thresholds()


def parsed(lines: list[bytes]) -> tuple[capture_rows.Rows, int]:
    """The rows of some lines, and the number of unreadable ones."""
    file = io.BytesIO(b"".join(lines))
    rows, progress = capture_rows.read(file, capture_rows.parse_answer, capture_rows.ANSWER_DTYPE, settled=True)
    return rows, progress.unreadable


def answer(count: int = 3, p: float = 0.7, **more: Any) -> dict[str, Any]:
    others = {str(number): round((1 - p) / 4, 6) for number in range(1, 6) if number != count}
    return {"count": count, "probabilities": {**others, str(count): p}, "model_version": "1", **more}


def event(minutes_ago: float = 0.0, status: int = 200, latency_ms: float = 20.0, **more: Any) -> Event:
    fields = {"answer": answer(), "model_version": "1", "brightness": 100.0, "sharpness": 50.0, **more}
    moment = NOW - timedelta(minutes=minutes_ago)
    return Event(status=status, latency_ms=latency_ms, moment=moment, **fields)


def line(event: Event) -> bytes:
    return json.dumps(record(event)).encode() + b"\n"


def report_on(
    lines: list[bytes],
    truths: list[tuple[str, int]] | None = None,
    reference: Reference | None = None,
    recounts: Sequence[Recount] = (),
) -> Report:
    """The report on the last day. ``truths``: event_id and count."""
    rows, unreadable = parsed(lines)
    counts = np.array([(hash(event_id), count) for event_id, count in truths or []], capture_rows.TRUTH_DTYPE)
    return summarise(rows, counts, unreadable, NOW, DAY, reference, LIMITS, recounts)


def recount(number: int, count: int = 3, **more: Any) -> Recount:
    """The recount of a random bin, the ``number``-th that was settled, of version 1; its record says 3."""
    fields: dict[str, Any] = {"recorded_quantity": 3, "predicted_count": 3, "confidence": 0.7, "model_version": "1"}
    fields["p_value"] = 0.02 if more.get("alarm") else 0.5
    return Recount(
        event_id=f"event-{number:05}",
        seen_at=utc_text(NOW - DAY),
        settled_at=utc_text(NOW - DAY + timedelta(seconds=number)),
        outcome=Outcome.COUNT,
        **{"random": True, "count": count, **fields, **more},
    )


def reference(photos: int = 1000, seed: int = 77) -> Reference:
    return Reference("1", draw_reference(photos, seed))


def drawn(seed: int, number: int = 600, **options: Any) -> list[bytes]:
    """Random lines of almost a day."""
    answers = draw_records(number, seed, NOW - timedelta(hours=23), timedelta(hours=22.9), **options)
    return [with_input(content).encode() for _, content in answers]
