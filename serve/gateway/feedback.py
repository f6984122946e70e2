"""Stores feedback, the real count in a bin, as SageMaker's ground truth: one JSON line per record.

    <capture>/ground-truth/yyyy/mm/dd/hh/<uuid>.jsonl    UTC; one file per hour and process

Where the capture is a bucket, records wait in files of the local folder BINWATCH_CAPTURE_SPOOL, also while the store is
away, and are uploaded every minute (``serve/hour_files.py``).

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-model-quality-merge.html
"""

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import UUID, uuid4

from serve import hour_files
from serve.gateway.schemas import Refusal, retry_later

FOLDER = "ground-truth"
MAX_HOUR_BYTES = 16 * 1024**2
"""Size limit of one file: about 100,000 records, more than anybody counts by hand in an hour."""
MAX_DISK_USE = 0.95


def to_line(event_id: UUID, count: int) -> bytes:
    """One record as a JSON line."""
    record = {
        "groundTruthData": {"data": str(count), "encoding": "CSV"},
        "eventMetadata": {"eventId": str(event_id)},
        "eventVersion": "0",
    }
    return json.dumps(record).encode() + b"\n"


class TruthSink(Protocol):
    """A place for lines of ground truth."""

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line, or nothing of it. Raises OSError, Refusal."""

    def close(self) -> None:
        """Finish writing the lines that were appended."""


class GroundTruth:
    """Appends ground truth records below ``capture``, the value of BINWATCH_CAPTURE: a folder or a bucket.

    ``max_bytes``: size limit of a file in a folder; ``spool``: where records for a bucket wait; ``endpoint_url``: of
    its store, if that is not AWS's.
    """

    def __init__(
        self,
        capture: str,
        max_bytes: int = MAX_HOUR_BYTES,
        spool: Path | None = None,
        endpoint_url: str | None = None,
        upload_s: float = hour_files.UPLOAD_S,
    ) -> None:
        self._sink: TruthSink | None = None
        if capture.startswith("s3://"):
            folder = (spool or default_spool()) / FOLDER
            target = f"{capture.rstrip('/')}/{FOLDER}"
            self._sink = BucketSink(hour_files.Spool(folder, target, endpoint_url, upload_s))
        elif capture:
            self._sink = FolderSink(Path(capture) / FOLDER, max_bytes)

    def append(self, event_id: UUID, count: int, now: datetime) -> None:
        """Write one record, completely or not at all. Raises Refusal if it cannot be written."""
        if self._sink is None:
            message = "feedback is not stored because data capture is off; set BINWATCH_CAPTURE to a folder or bucket"
            raise Refusal(409, "NoCapture", message)
        try:
            self._sink.append(now, to_line(event_id, count))
        except OSError as error:
            raise retry_later("NoRoom", f"the record cannot be written: {error.strerror or error}", 60) from error

    def close(self) -> None:
        """Upload what waits for a bucket; what cannot be uploaded in time is left to the next process."""
        if self._sink is not None:
            self._sink.close()


class FolderSink:
    """One file per hour in a folder. ``max_bytes``: its size limit."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._name, self._lock = f"{uuid4()}.jsonl", Lock()

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line, or nothing of it. Raises OSError, Refusal."""
        path = self._folder / moment.strftime("%Y/%m/%d/%H") / self._name
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, line, self._max_bytes)

    def close(self) -> None:
        """Nothing: each line is written at once."""


class BucketSink:
    """Files that are uploaded to a bucket; as many bytes wait for it as the spool takes."""

    def __init__(self, spool: hour_files.Spool) -> None:
        self._spool = spool

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line, or nothing of it. Raises OSError, Refusal."""
        _check_room(self._spool.folder)
        if reason := self._spool.full_reason():
            raise retry_later("NoRoom", f"{reason}, which cannot be reached; check it, then send this again", 600)
        self._spool.append(moment, line)

    def close(self) -> None:
        """Upload what is there."""
        self._spool.close()


def default_spool() -> Path:
    """Where records wait for a bucket if no folder is set."""
    return Path(tempfile.gettempdir()) / "binwatch-feedback"


def _append(path: Path, data: bytes, max_bytes: int) -> None:
    """Append ``data``; on an error the file stays as it was. Raises OSError, Refusal."""
    _check_room(path.parent)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        length = os.fstat(file).st_size
        if length + len(data) > max_bytes:
            message = f"this hour's feedback file has reached its limit with {length} bytes; try again next hour"
            raise retry_later("NoRoom", message, 600)
        if os.write(file, data) < len(data):
            os.ftruncate(file, length)
            raise OSError(28, "No space left on device")
    finally:
        os.close(file)


def _check_room(folder: Path) -> None:
    """Raises Refusal where the disk is almost full."""
    use = hour_files.disk_use(folder)
    if use > MAX_DISK_USE:
        raise retry_later("NoRoom", f"the disk is {use:.0%} full; free some space, then send it again", 60)
