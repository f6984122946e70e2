"""The records of data capture and of ground truth: files of lines in, rows of numbers out.

    <place>/bin-counter/AllTraffic/yyyy/mm/dd/hh/<name>.jsonl    what was answered (serve/event.py)
    <place>/ground-truth/yyyy/mm/dd/hh/<name>.jsonl              what was really there, often later

A place is a folder or ``s3://bucket/prefix``. Lines are read one after another and never held: with 8 KB photos in
them a line is parsed in about the time of one without, because reading stops at the input, which our own capture
writes last. Other orders of keys, as SageMaker's, are read too.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ANSWERS, TRUTHS = "bin-counter/AllTraffic", "ground-truth"
VERDICTS = ("match", "mismatch", "unsure")
MAX_LINE_BYTES = 16 * 1024**2
"""Longest line that is read: TorchServe takes 6.5 MB, which is 8.8 MB in base64."""

ANSWER = np.dtype(
    [
        ("time_s", "f8"),
        ("event", "i8"),
        ("status", "i2"),
        ("count", "S8"),
        ("version", "S16"),
        ("verdict", "S8"),
        ("confidence", "f8"),
        ("latency_ms", "f8"),
        ("brightness", "f8"),
        ("sharpness", "f8"),
    ]
)
"""One answer. ``time_s``: since 1970; ``event``: hash of its id; ``count``: its name, ``8+`` for 8 and above, empty
where there was an error; ``confidence``: probability of that count, 0-1; numbers that a record lacks are NaN."""
TRUTH = np.dtype([("event", "i8"), ("count", "i4")])
"""One ground truth: the hash of the event's id, and the number of objects."""

Rows = NDArray[Any]
_INPUT = b'"endpointInput"'


@dataclass
class Tally:
    """Lines that could not be read, and how far a file was read."""

    unreadable: int = 0
    offset: int = 0


def read(
    file: BinaryIO, parse: Callable[[bytes], tuple[Any, ...]], kind: np.dtype[Any], settled: bool, offset: int = 0
) -> tuple[Rows, Tally]:
    """The rows of a file that stands at ``offset``; what cannot be parsed is counted.

    A last line without its end is left for the next time, unless the file is ``settled``: nobody writes it any more.
    """
    tally = Tally(offset=offset)
    return np.fromiter(_parsed(file, parse, settled, tally), dtype=kind), tally


def _parsed(
    file: BinaryIO, parse: Callable[[bytes], tuple[Any, ...]], settled: bool, tally: Tally
) -> Iterator[tuple[Any, ...]]:
    for line, length in _lines(file, settled):
        tally.offset += length
        if line.isspace():
            continue
        try:
            yield parse(line)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
            tally.unreadable += 1


def _lines(file: BinaryIO, settled: bool) -> Iterator[tuple[bytes, int]]:
    """Whole lines and their lengths in bytes; one that is too long comes as its beginning."""
    while line := file.readline(MAX_LINE_BYTES):
        length, end = len(line), line[-1:]
        while end != b"\n" and (more := file.readline(MAX_LINE_BYTES)):
            length, end = length + len(more), more[-1:]
        if end == b"\n" or settled:
            yield line, length


def parse_answer(line: bytes) -> tuple[Any, ...]:
    """A line of data capture -> the fields of ANSWER. Raises ValueError, TypeError, LookupError for what is none."""
    record = _load(line)
    metadata = record["eventMetadata"]
    measured = metadata.get("binwatch") or {}
    status = int(measured.get("status", 200))
    if not 100 <= status <= 599:
        raise ValueError(status)
    answer = _output(record["captureData"]["endpointOutput"])
    count, confidence = _counted(answer) if status < 400 else ("", math.nan)
    verdict = str(answer.get("verdict") or "")
    version = str(measured.get("model_version") or answer.get("model_version") or "")
    return (
        _seconds(metadata["inferenceTime"]),
        hash(str(metadata["eventId"])),
        status,
        count.encode("ascii"),
        version.encode("ascii"),
        verdict.encode() if verdict in VERDICTS and status < 400 else b"",
        confidence,
        *(_number(measured.get(name)) for name in ("latency_ms", "brightness", "sharpness")),
    )


def parse_truth(line: bytes) -> tuple[int, int]:
    """A line of ground truth -> the fields of TRUTH. Raises ValueError, TypeError, LookupError for what is none."""
    record = json.loads(line)
    count = int(str(record["groundTruthData"]["data"]).split(",")[0])
    if not 0 <= count <= 99_999:
        raise ValueError(count)
    return hash(str(record["eventMetadata"]["eventId"])), count


def _load(line: bytes) -> Any:
    """A record without its input where that comes last: one brace is opened from there, and three are closed."""
    cut = line.find(_INPUT)
    line = line.rstrip()
    if cut > 0 and line.count(b"{", cut) == 1 and line.endswith(b"}}}"):
        try:
            return json.loads(line[: line.rfind(b",", 0, cut)] + b"}}")
        except ValueError:
            pass
    return json.loads(line)


def _output(part: dict[str, Any]) -> Any:
    data = part["data"]
    answer = json.loads(base64.b64decode(data) if part.get("encoding") == "BASE64" else data)
    if not isinstance(answer, dict):
        raise ValueError(f"an answer is an object, not {answer!r:.100}")
    return answer


def _counted(answer: dict[str, Any]) -> tuple[str, float]:
    probabilities = answer["probabilities"]
    name = str(int(answer["count"]))
    name = name if name in probabilities else f"{name}+"
    confidence = float(probabilities[name])
    if not 0 <= confidence <= 1 or len(name) > ANSWER["count"].itemsize:
        raise ValueError(answer)
    return name, confidence


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number
