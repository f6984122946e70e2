"""Parses data capture and ground truth: files of JSON lines to arrays of rows.

    <capture>/bin-counter/AllTraffic/yyyy/mm/dd/hh/<name>.jsonl    captured answers (serve/capture_record.py)
    <capture>/ground-truth/yyyy/mm/dd/hh/<name>.jsonl              manual counts, often days later

The capture is a folder or ``s3://bucket/prefix``. Lines are parsed one by one and not kept in memory. A line with an
8 KB photo takes about as long as one without, because parsing stops at the input, which binwatch writes last. Other
orders of keys, such as SageMaker's, are supported too.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple, TypeAlias
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from serve.evidence import Evidence
from serve.routing.route_table import SHADOW

ANSWERS, TRUTHS = "bin-counter/AllTraffic", "ground-truth"
VERDICTS = ("match", "mismatch", "unsure")
MAX_LINE_BYTES = 16 * 1024**2
"""Longest line that is read: TorchServe accepts 6.5 MB, which is 8.8 MB in base64."""
PARSE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What parsing raises for a line that is not a record."""

ANSWER_DTYPE = np.dtype(
    [
        ("time_s", "f8"),
        ("event", "i8"),
        ("status", "i2"),
        ("count", "S8"),
        ("version", "S16"),
        ("verdict", "S8"),
        ("evidence", "S24"),
        ("not_a_bin", "?"),
        ("confidence", "f8"),
        ("latency_ms", "f8"),
        ("brightness", "f8"),
        ("sharpness", "f8"),
        ("station", "S64"),
    ]
)
TRUTH_DTYPE = np.dtype([("event", "i8"), ("count", "i4")])

Rows: TypeAlias = NDArray[np.void]
"""A structured array of ANSWER_DTYPE or TRUTH_DTYPE, shape ``(N,)``."""
JsonObject: TypeAlias = dict[str, Any]
_INPUT = b'"endpointInput"'


class AnswerRow(NamedTuple):
    """A captured answer, in the order of ANSWER_DTYPE. Numbers that a record lacks are NaN.

    ``time_s``: since 1970; ``event``: hash of the event_id; ``count_name``: ``8+`` for 8 and above, empty if there was
    an error; ``evidence``: what the verdict rests on, empty without a verdict; ``not_a_bin``: whether the photo
    of a verdict was taken for something else than a bin; ``confidence``: the probability of
    that count, 0-1; ``station``: the first 64 bytes of its name in UTF-8, empty if none is known.
    """

    time_s: float
    event: int
    status: int
    count_name: bytes
    version: bytes
    verdict: bytes
    evidence: bytes
    not_a_bin: bool
    confidence: float
    latency_ms: float
    brightness: float
    sharpness: float
    station: bytes


class TruthRow(NamedTuple):
    """A manual count, in the order of TRUTH_DTYPE. ``event``: hash of the event_id."""

    event: int
    number: int


@dataclass
class ReadProgress:
    """The number of lines that could not be parsed, and the offset up to which a file was read."""

    unreadable: int = 0
    offset: int = 0


def read(
    file: BinaryIO,
    parse: Callable[[bytes], tuple[object, ...] | None],
    dtype: "np.dtype[np.void]",
    settled: bool,
    offset: int = 0,
) -> tuple[Rows, ReadProgress]:
    """Parse the rest of a file that is positioned at ``offset``; a line for which ``parse`` returns None is left out.

    An incomplete last line is left for the next time, unless the file is ``settled``: nobody is writing it any more.
    """
    progress = ReadProgress(offset=offset)
    return np.fromiter(_parse_lines(file, parse, settled, progress), dtype=dtype), progress


def _parse_lines(
    file: BinaryIO, parse: Callable[[bytes], tuple[object, ...] | None], settled: bool, progress: ReadProgress
) -> Iterator[tuple[object, ...]]:
    for line, length in _lines(file, settled):
        progress.offset += length
        if line.isspace():
            continue
        try:
            row = parse(line)
        except PARSE_ERRORS:
            progress.unreadable += 1
        else:
            if row is not None:
                yield row


def _lines(file: BinaryIO, settled: bool) -> Iterator[tuple[bytes, int]]:
    """Complete lines and their lengths in bytes; of a line that is too long only the start."""
    while line := file.readline(MAX_LINE_BYTES):
        length, end = len(line), line[-1:]
        while end != b"\n" and (rest := file.readline(MAX_LINE_BYTES)):
            length, end = length + len(rest), rest[-1:]
        if end == b"\n" or settled:
            yield line, length


def parse_answer(line: bytes) -> AnswerRow:
    """Parse a line of data capture. Raises PARSE_ERRORS."""
    record = _load(line)
    metadata = record["eventMetadata"]
    measured = metadata.get("binwatch") or {}
    status = int(measured.get("status", 200))
    if not 100 <= status <= 599:
        raise ValueError(status)
    answer = _output(record["captureData"]["endpointOutput"])
    count, confidence = _count_and_confidence(answer) if status < 400 else ("", math.nan)
    verdict = str(answer.get("verdict") or "") if status < 400 else ""
    verdict = verdict if verdict in VERDICTS else ""
    version = str(measured.get("model_version") or answer.get("model_version") or "")
    return AnswerRow(
        time_s=_seconds(metadata["inferenceTime"]),
        event=hash(str(metadata["eventId"])),
        status=status,
        count_name=count.encode("ascii"),
        version=version.encode("ascii"),
        verdict=verdict.encode(),
        evidence=Evidence.of(answer).encode() if verdict else b"",
        not_a_bin=bool(verdict) and answer.get("not_a_bin") is True,
        confidence=confidence,
        latency_ms=_number(measured.get("latency_ms")),
        brightness=_number(measured.get("brightness")),
        sharpness=_number(measured.get("sharpness")),
        station=_station(measured, metadata.get("customAttributes") or ()),
    )


def parse_traffic(line: bytes) -> AnswerRow | None:
    """Parse a line of data capture; None for a copy, whose answer no client got. Raises PARSE_ERRORS."""
    return None if is_copy(line) else parse_answer(line)


def is_copy(line: bytes) -> bool:
    """Whether a line is the answer to a copy that the gateway made of a photo. Raises PARSE_ERRORS."""
    if SHADOW.encode() not in line:  # parsing every line twice would be slow
        return False
    attributes = _load(line)["eventMetadata"].get("customAttributes") or ()
    return any(part.strip() == SHADOW for text in attributes for part in str(text).split(","))


def parse_truth(line: bytes) -> TruthRow:
    """Parse a line of ground truth. Raises PARSE_ERRORS."""
    record = json.loads(line)
    count = int(str(record["groundTruthData"]["data"]).split(",")[0])
    if not 0 <= count <= 99_999:
        raise ValueError(count)
    return TruthRow(event=hash(str(record["eventMetadata"]["eventId"])), number=count)


def _load(line: bytes) -> JsonObject:
    """Parse a record, without its input if that comes last: it opens one brace, and three braces end the line."""
    cut = line.find(_INPUT)
    line = line.rstrip()
    if cut > 0 and line.count(b"{", cut) == 1 and line.endswith(b"}}}"):
        try:
            shortened: JsonObject = json.loads(line[: line.rfind(b",", 0, cut)] + b"}}")
            return shortened
        except ValueError:
            pass
    record: JsonObject = json.loads(line)
    return record


def _station(measured: JsonObject, attributes: Sequence[object]) -> bytes:
    """The station that a record names, else its custom attributes: all that archives without stations capture of it."""
    name = str(measured.get("station") or "")
    if not name:
        pairs = [pair.strip() for text in attributes for pair in str(text).split(",")]
        name = next((unquote(pair.partition("=")[2]) for pair in pairs if pair.startswith("station=")), "")
    return name.encode()[: ANSWER_DTYPE["station"].itemsize] if name.isprintable() else b""


def _output(part: JsonObject) -> JsonObject:
    data = part["data"]
    answer = json.loads(base64.b64decode(data) if part.get("encoding") == "BASE64" else data)
    if not isinstance(answer, dict):
        raise ValueError(f"an answer is an object, not {answer!r:.100}")
    return answer


def _count_and_confidence(answer: JsonObject) -> tuple[str, float]:
    probabilities = answer["probabilities"]
    name = str(int(answer["count"]))
    name = name if name in probabilities else f"{name}+"
    confidence = float(probabilities[name])
    if not 0 <= confidence <= 1 or len(name) > ANSWER_DTYPE["count"].itemsize:
        raise ValueError(answer)
    return name, confidence


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: float | str | None) -> float:
    if value is None:
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(number)
    return number
