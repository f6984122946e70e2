"""What was really in a bin, kept as SageMaker's ground truth: one JSON line a record, beside the captured answers.

    <capture>/ground-truth/yyyy/mm/dd/hh/<uuid>.jsonl    UTC; one file an hour and process

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-model-quality-merge.html
"""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

from serve.gateway.schemas import Refusal, later

FOLDER = "ground-truth"
MAX_HOUR_BYTES = 16 * 1024**2
"""Of one file: some 100,000 records, more than anybody counts by hand."""
MAX_DISK_USE = 0.95


def line(event_id: UUID, count: int) -> bytes:
    """One record."""
    record = {
        "groundTruthData": {"data": str(count), "encoding": "CSV"},
        "eventMetadata": {"eventId": str(event_id)},
        "eventVersion": "0",
    }
    return json.dumps(record).encode() + b"\n"


class GroundTruth:
    """Where records are kept: ``capture``, the capture's place as it is set; ``max_bytes`` of one file."""

    def __init__(self, capture: str, max_bytes: int = MAX_HOUR_BYTES) -> None:
        self._capture, self._max_bytes = capture, max_bytes
        self._name, self._lock = f"{uuid4()}.jsonl", Lock()

    def append(self, event_id: UUID, count: int, now: datetime) -> None:
        """Keep a record, whole or not at all. Raises Refusal where that cannot be."""
        path = self._folder() / now.strftime("%Y/%m/%d/%H") / self._name
        try:
            with self._lock:
                path.parent.mkdir(parents=True, exist_ok=True)
                _append(path, line(event_id, count), self._max_bytes)
        except OSError as error:
            raise later("NoRoom", f"the record cannot be written: {error.strerror or error}", 60) from error

    def _folder(self) -> Path:
        if not self._capture:
            text = "feedback is not kept, since data capture is off; name a folder in BINWATCH_CAPTURE"
            raise Refusal(409, "NoCapture", text)
        if "://" in self._capture:
            text = "feedback is kept in folders only, and BINWATCH_CAPTURE names a bucket; write ground truth there"
            raise Refusal(409, "NoCapture", text)
        return Path(self._capture) / FOLDER


def _append(path: Path, data: bytes, max_bytes: int) -> None:
    """Raises OSError, Refusal; what is there already stays as it was."""
    usage = shutil.disk_usage(path.parent)
    if usage.used > usage.total * MAX_DISK_USE:
        raise later("NoRoom", f"the disk is {usage.used / usage.total:.0%} full; make room, then send it again", 60)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        length = os.fstat(file).st_size
        if length + len(data) > max_bytes:
            raise later("NoRoom", f"{length} bytes of feedback came within this hour; no more are kept", 600)
        if os.write(file, data) < len(data):
            os.ftruncate(file, length)
            raise OSError(28, "No space left on device")
    finally:
        os.close(file)
