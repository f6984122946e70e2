"""Benchmark of the monitoring: a day of capture, drawn by lot, summarised by us and by the loop that comes to mind."""

import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.benches import Result, Server, result

ANSWERS, TRUTHS = "bin-counter/AllTraffic", "ground-truth"
NAMES = ("1", "2", "3", "4", "5")
MOST_S, MOST_MIB = 10.0, 500.0
PHOTO_BYTES = 8192
PEER = "json.loads of every line and one pandas DataFrame"
Record = dict[str, Any]


def draw(
    number: int,
    seed: int,
    start: datetime,
    over: timedelta,
    version: str = "1",
    brightness: float = 1.0,
    errors: float = 0.01,
) -> Iterator[tuple[datetime, Record]]:
    """Captured answers without their input, spread evenly ``over`` a time. ``brightness``: factor, 1 as reference."""
    lot = np.random.default_rng(seed)
    rows = lot.dirichlet([1.2] * len(NAMES), number).round(6)
    bright = (lot.normal(110, 25, number).clip(1, 255) * brightness).round(3)
    sharp, latency = lot.lognormal(6, 0.5, number).round(3), lot.lognormal(3.5, 0.4, number).round(3)
    failed, judged, words = lot.random(number) < errors, lot.random(number) < 0.5, lot.random(number)
    for index in range(number):
        moment = start + over * index / number
        answer = _answer(rows[index], version, judged[index], words[index])
        if failed[index]:
            answer = {"code": 400, "type": "BadPhoto", "message": "the photo is empty"}
        measured = {
            "latency_ms": latency[index],
            "model_version": version,
            "status": 400 if failed[index] else 200,
            "brightness": None if failed[index] else bright[index],
            "sharpness": None if failed[index] else sharp[index],
        }
        yield moment, _record(uuid.UUID(bytes=lot.bytes(16), version=4), moment, answer, measured)


def _answer(row: Any, version: str, judged: bool, word: float) -> Record:
    made: Record = {
        "count": int(NAMES[int(row.argmax())]),
        "expected_count": round(float(row @ np.arange(1, 6)), 4),
        "probabilities": dict(zip(NAMES, row.tolist(), strict=True)),
        "fit": dict.fromkeys(NAMES, 0.5),
    }
    if judged:
        verdict = "match" if word < 0.6 else "unsure" if word < 0.9 else "mismatch"
        made |= {
            "expected_quantity": 3,
            "alpha": 0.05,
            "verdict": verdict,
            "reason": "a reason of usual length",
            "probability": 0.3,
            "counts_that_fit": ["2", "3"],
        }
    return {**made, "model_version": version}


def _record(event: uuid.UUID, moment: datetime, answer: Record, measured: Record) -> Record:
    time_text = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    output = {"observedContentType": "application/json", "mode": "OUTPUT", "data": json.dumps(answer)}
    return {
        "eventVersion": "0",
        "eventMetadata": {
            "eventId": str(event),
            "inferenceTime": time_text,
            "customAttributes": [],
            "binwatch": measured,
        },
        "captureData": {"endpointOutput": {**output, "encoding": "JSON"}},
    }


def with_input(record: Record, photo: str = "") -> str:
    """The line of a record, its input last. ``photo``: in base64."""
    sent = {"observedContentType": "image/jpeg", "mode": "INPUT", "data": photo, "encoding": "BASE64"}
    return json.dumps({**record, "captureData": {**record["captureData"], "endpointInput": sent}}) + "\n"


def write(capture: Path, records: Iterator[tuple[datetime, Record]], photo_bytes: int = 0) -> None:
    """Write records into the files of their hours, with random bytes for photos."""
    photo = base64.b64encode(np.random.default_rng(0).bytes(photo_bytes)).decode()
    path, file = None, None
    for moment, record in records:
        mine = capture / ANSWERS / f"{moment:%Y/%m/%d/%H}" / "drawn.jsonl"
        if mine != path:
            if file:
                file.close()
            mine.parent.mkdir(parents=True, exist_ok=True)
            path, file = mine, mine.open("a")
        assert file is not None
        file.write(with_input(record, photo))
    if file:
        file.close()


def reference(photos: int, seed: int) -> dict[str, Any]:
    """What a run records as reference.json, from ``photos`` answers drawn as above."""
    records = [record for _, record in draw(photos, seed, datetime(2026, 1, 1, tzinfo=UTC), timedelta(1), errors=0)]
    answers = [json.loads(each["captureData"]["endpointOutput"]["data"]) for each in records]
    counts = [str(each["count"]) for each in answers]
    values = {"confidence": [max(each["probabilities"].values()) for each in answers]}
    for name in ("brightness", "sharpness"):
        values[name] = [each["eventMetadata"]["binwatch"][name] for each in records]
    tenths = {name: np.quantile(each, np.linspace(0, 1, 11)).tolist() for name, each in values.items()}
    return {"counts": {name: counts.count(name) / photos for name in NAMES}, **tenths}


def bench_monitor(_data: Path, _server: Server, number: int = 100_000) -> Result:
    """A day of capture, 100,000 records, without photos; whole processes, from start to monitoring.json.

    Peer: every line through json.loads, its answer too, everything into one DataFrame, grouped by hour: what is shown
    for SageMaker's data capture. It holds when ours is faster and below 10 s and 500 MiB (VmHWM) of its own. Beside it,
    ours with photos of 8 KB in the lines, 1.2 GB.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        runs: dict[str, list[tuple[float, float]]] = {PEER: [], "ours": []}
        ours, theirs = _day(Path(folder, "plain"), number, 0)
        for _ in range(3):
            runs[PEER].append(measured(theirs))
            runs["ours"].append(measured(ours))
        with_photos, _ = _day(Path(folder, "photos"), number, PHOTO_BYTES)
        photos = [measured(with_photos)]
        for out in Path(folder).glob("*/out/monitoring.json"):
            found = json.loads(out.read_text())
            assert (found["records"], found["unreadable"]) == (number, 0), f"{found['records']} of {number} were found"
    made = result("monitor", 1.5, {name: [seconds for seconds, _ in times] for name, times in runs.items()})
    memory = {f"{name}, MiB": [round(mib, 1) for _, mib in times] for name, times in runs.items()}
    beside = {"ours with photos": [round(photos[0][0], 3)], "ours with photos, MiB": [round(photos[0][1], 1)]}
    within = statistics.median(made.runs["ours"]) < MOST_S and max(memory["ours, MiB"]) < MOST_MIB
    return replace(made, holds=made.holds and within, runs={**made.runs, **memory, **beside})


def _day(folder: Path, number: int, photo_bytes: int) -> tuple[list[object], list[object]]:
    """Draw a day of capture; our command, and the peer's."""
    capture = folder / "capture"
    write(capture, draw(number, 1, datetime.now(UTC) - timedelta(hours=23.9), timedelta(hours=23.8)), photo_bytes)
    ours = [sys.executable, "scripts/monitor.py", "--capture", capture, "--out", folder / "out", "--no-tracking"]
    return ours, [sys.executable, "-m", "tests.benchmarks.monitoring_benches", capture]


def measured(command: Sequence[object]) -> tuple[float, float]:
    """Seconds that a command takes, and the most memory (MiB) that it held at a time."""
    start = time.perf_counter()
    words = [str(word) for word in command]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=env) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return time.perf_counter() - start, peak


def _peak_mib(pid: int) -> float:
    """VmHWM of a process, which only grows; 0 where it has ended. Its ru_maxrss would be the starter's too."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def peer(capture: Path) -> Mapping[str, Any]:
    """The plain way: everything parsed, everything in one table."""
    import pandas  # type: ignore[import-untyped]

    rows = []
    for path in sorted(capture.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            answer = json.loads(record["captureData"]["endpointOutput"]["data"])
            rows.append(
                {
                    **record["eventMetadata"],
                    **record["eventMetadata"]["binwatch"],
                    **answer,
                    "input": record["captureData"]["endpointInput"]["data"],
                }
            )
    table = pandas.DataFrame(rows)
    table["time"] = pandas.to_datetime(table["inferenceTime"])
    table["confidence"] = [max(each.values()) if isinstance(each, dict) else None for each in table["probabilities"]]
    hours = table.groupby(table["time"].dt.floor("h"))
    return {
        "requests": hours.size().to_dict(),
        "errors": int((table["status"] >= 400).sum()),
        "confidence_mean": hours["confidence"].mean().to_dict(),
        "confidence_p10": hours["confidence"].quantile(0.1).to_dict(),
        "latency_p50_ms": hours["latency_ms"].quantile(0.5).to_dict(),
        "latency_p99_ms": hours["latency_ms"].quantile(0.99).to_dict(),
        "counts": table.groupby([table["time"].dt.floor("h"), "count"]).size().to_dict(),
        "verdicts": table.groupby([table["time"].dt.floor("h"), "verdict"]).size().to_dict(),
        "model_versions": table["model_version"].value_counts().to_dict(),
    }


BENCHES = {"monitor": bench_monitor}

if __name__ == "__main__":
    peer(Path(sys.argv[1]))
