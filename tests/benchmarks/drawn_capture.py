"""Captured requests drawn at random, in the format of ``serve/capture_record.py``: for the monitoring and its tests."""

import base64
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

VARIANT = "bin-counter/AllTraffic"
NAMES = ("1", "2", "3", "4", "5")
Record = dict[str, Any]
"""One line of a capture file, parsed."""


def draw_records(
    number: int,
    seed: int,
    start: datetime,
    duration: timedelta,
    version: str = "1",
    brightness: float = 1.0,
    errors: float = 0.01,
) -> Iterator[tuple[datetime, Record]]:
    """Records of requests, spread evenly over ``duration``, without the input of the request.

    ``brightness``: factor on the brightness of the photos, 1 as in ``draw_reference``; ``errors``: share (0-1) of
    requests that failed.
    """
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet([1.2] * len(NAMES), number).round(6)
    bright = (rng.normal(110, 25, number).clip(1, 255) * brightness).round(3)
    sharp, latency = rng.lognormal(6, 0.5, number).round(3), rng.lognormal(3.5, 0.4, number).round(3)
    failed, has_quantity, verdicts = rng.random(number) < errors, rng.random(number) < 0.5, rng.random(number)
    for index in range(number):
        moment = start + duration * index / number
        answer = _answer(rows[index].tolist(), version, has_quantity[index], verdicts[index])
        if failed[index]:
            answer = {"code": 400, "type": "BadPhoto", "message": "the photo is empty"}
        metadata = {
            "latency_ms": latency[index],
            "model_version": version,
            "status": 400 if failed[index] else 200,
            "brightness": None if failed[index] else bright[index],
            "sharpness": None if failed[index] else sharp[index],
        }
        yield moment, _record(uuid.UUID(bytes=rng.bytes(16), version=4), moment, answer, metadata)


def _answer(row: Sequence[float], version: str, has_quantity: bool, verdict: float) -> Record:
    """An answer with the probabilities ``row``; ``verdict``: a random number (0-1) that chooses the verdict."""
    answer: Record = {
        "count": int(NAMES[int(np.argmax(row))]),
        "expected_count": round(float(np.array(row) @ np.arange(1, 6)), 4),
        "probabilities": dict(zip(NAMES, row, strict=True)),
        "fit": dict.fromkeys(NAMES, 0.5),
    }
    if has_quantity:
        answer |= {
            "expected_quantity": 3,
            "alpha": 0.05,
            "verdict": "match" if verdict < 0.6 else "unsure" if verdict < 0.9 else "mismatch",
            "reason": "a reason of usual length",
            "probability": 0.3,
            "counts_that_fit": ["2", "3"],
        }
    return {**answer, "model_version": version}


def _record(event: uuid.UUID, moment: datetime, answer: Record, metadata: Record) -> Record:
    output = {"observedContentType": "application/json", "mode": "OUTPUT", "data": json.dumps(answer)}
    return {
        "eventVersion": "0",
        "eventMetadata": {
            "eventId": str(event),
            "inferenceTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "customAttributes": [],
            "binwatch": metadata,
        },
        "captureData": {"endpointOutput": {**output, "encoding": "JSON"}},
    }


def with_input(record: Record, photo: str = "") -> str:
    """The line of a record, with its input last. ``photo``: in base64."""
    sent = {"observedContentType": "image/jpeg", "mode": "INPUT", "data": photo, "encoding": "BASE64"}
    return json.dumps({**record, "captureData": {**record["captureData"], "endpointInput": sent}}) + "\n"


def write_records(capture: Path, records: Iterator[tuple[datetime, Record]], photo_bytes: int = 0) -> None:
    """Write records, in the order of their times, to the files of their hours, with random bytes as photos."""
    photo = base64.b64encode(np.random.default_rng(0).bytes(photo_bytes)).decode()
    current, file = None, None
    for moment, record in records:
        path = capture / VARIANT / f"{moment:%Y/%m/%d/%H}" / "drawn.jsonl"
        if path != current:
            if file:
                file.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            current, file = path, path.open("a")
        assert file is not None
        file.write(with_input(record, photo))
    if file:
        file.close()


def draw_reference(photos: int, seed: int) -> dict[str, Any]:
    """The content of a run's reference.json for ``photos`` predictions drawn as by ``draw_records``."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    records = [record for _, record in draw_records(photos, seed, start, timedelta(1), errors=0)]
    answers = [json.loads(record["captureData"]["endpointOutput"]["data"]) for record in records]
    counts = [str(answer["count"]) for answer in answers]
    values = {"confidence": [max(answer["probabilities"].values()) for answer in answers]}
    for name in ("brightness", "sharpness"):
        values[name] = [record["eventMetadata"]["binwatch"][name] for record in records]
    deciles = {name: np.quantile(sample, np.linspace(0, 1, 11)).tolist() for name, sample in values.items()}
    return {"counts": {name: counts.count(name) / photos for name in NAMES}, **deciles}
