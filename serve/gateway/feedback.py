"""Stores feedback, the real count in a bin, as SageMaker's ground truth: one JSON line per record.

    <capture>/ground-truth/yyyy/mm/dd/hh/<uuid>.jsonl    UTC; one file per hour and process

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-model-quality-merge.html
"""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

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


class GroundTruth:
    """Appends ground truth records below ``capture``, the value of BINWATCH_CAPTURE.

    ``max_bytes``: size limit of one file.
    """

    def __init__(self, capture: str, max_bytes: int = MAX_HOUR_BYTES) -> None:
        self._capture, self._max_bytes = capture, max_bytes
        self._name, self._lock = f"{uuid4()}.jsonl", Lock()

    def append(self, event_id: UUID, count: int, now: datetime) -> None:
        """Write one record, completely or not at all. Raises Refusal if it cannot be written."""
        path = self._folder() / now.strftime("%Y/%m/%d/%H") / self._name
        try:
            with self._lock:
                path.parent.mkdir(parents=True, exist_ok=True)
                _append(path, to_line(event_id, count), self._max_bytes)
        except OSError as error:
            raise retry_later("NoRoom", f"the record cannot be written: {error.strerror or error}", 60) from error

    def _folder(self) -> Path:
        if not self._capture:
            message = "feedback is not stored because data capture is off; set BINWATCH_CAPTURE to a folder"
            raise Refusal(409, "NoCapture", message)
        if "://" in self._capture:
            message = "feedback is only stored in folders, but BINWATCH_CAPTURE is a bucket; write ground truth there"
            raise Refusal(409, "NoCapture", message)
        return Path(self._capture) / FOLDER


def _append(path: Path, data: bytes, max_bytes: int) -> None:
    """Append ``data``; on an error the file stays as it was. Raises OSError, Refusal."""
    usage = shutil.disk_usage(path.parent)
    if usage.used > usage.total * MAX_DISK_USE:
        message = f"the disk is {usage.used / usage.total:.0%} full; free some space, then send it again"
        raise retry_later("NoRoom", message, 60)
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
