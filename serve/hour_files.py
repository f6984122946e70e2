"""JSON Lines files, one per process and hour: ``<folder>/yyyy/mm/dd/hh/<uuid>.jsonl`` (UTC).

Each file has one writer, which holds a lock on it; the kernel releases the lock when the writer dies. A last line that
was cut off by ``kill -9`` or a full disk is removed: by the writer itself, or by the next process that starts
(``drop_partial_lines``).

Where the target is S3, the files are local, and every minute each closed one becomes one object (``Spool``). While the
store is unavailable the files stay, also those of a process that died, up to MAX_BYTES together.
"""

import fcntl
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from serve import links

if TYPE_CHECKING:
    from botocore.client import BaseClient

UPLOAD_S = 60.0
TIMEOUT_S = 20.0
MAX_BYTES = 1024**3
_BLOCK_BYTES = 1 << 16

_log = logging.getLogger("binwatch.capture")


class HourFiles:
    """Appends lines to the file of their hour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hour: Path | None = None
        self._descriptor: int | None = None
        self._size = 0

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a line, newline included, whole or not at all. Raises OSError."""
        hour = self.folder / moment.astimezone(UTC).strftime("%Y/%m/%d/%H")
        if self._descriptor is None or hour != self._hour:
            self._open(hour)
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            self.close()
            raise
        if written < len(line):  # the disk is full
            os.ftruncate(self._descriptor, self._size)
            self.close()
            raise OSError(f"{written} of {len(line)} bytes were written to {hour}; is the disk full?")
        self._size += len(line)

    def close(self) -> None:
        """Close the file; the next ``append`` opens another one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._hour = None

    def _open(self, hour: Path) -> None:
        self.close()
        hour.mkdir(parents=True, exist_ok=True)
        path = hour / f"{uuid.uuid4()}.jsonl"
        hidden = path.with_name(f".{path.name}.new")  # visible only once it is locked, or it would look abandoned
        descriptor = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
        self._descriptor, self._hour, self._size = descriptor, hour, 0


def drop_partial_lines(folder: Path) -> int:
    """Remove the partial last line of every file whose writer died; returns how many there were."""
    return sum(_drop_partial_line(path) for path in unlocked_files(folder))


def unlocked_files(folder: Path) -> Iterator[Path]:
    """The files that no writer holds any more."""
    for path in sorted(folder.rglob("*.jsonl")):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield path


def _drop_partial_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = _end_of_last_line(file, size)
    if end < size:
        os.truncate(path, end)
    return end < size


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    end, block_bytes = size, 1  # in most files the last byte is the newline
    while end:
        start = max(0, end - block_bytes)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end, block_bytes = start, _BLOCK_BYTES
    return 0


def disk_use(folder: Path) -> float:
    """How full the file system of ``folder`` is for ordinary users (0-1); the folder itself may not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return usage.used / (usage.used + usage.free)


class Spool:
    """Local files below ``folder``, uploaded to ``target``, ``s3://bucket/prefix``, by a thread of its own."""

    def __init__(
        self, folder: Path, target: str, endpoint_url: str | None, every_s: float = UPLOAD_S, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._bucket, _, self._prefix = target.removeprefix("s3://").partition("/")
        self._endpoint_url, self._every_s, self._max_bytes = endpoint_url, every_s, max_bytes
        self._files = HourFiles(folder)
        self._lock = threading.Lock()
        self._client: BaseClient | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture-upload", daemon=True)
        self._thread.start()

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a whole line. Raises OSError."""
        with self._lock:
            self._files.append(moment, line)

    def full_reason(self) -> str:
        """Why no more lines are accepted: too many bytes wait for the store. Empty otherwise."""
        size = sum(path.stat().st_size for path in self.folder.rglob("*.jsonl") if path.exists())
        return f"{size} bytes wait for s3://{self._bucket}" if size > self._max_bytes else ""

    def close(self, timeout_s: float = 4.0) -> None:
        """Upload what is there; what cannot be uploaded in time is left to the next process."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._upload()
        self._upload()

    def _upload(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            self._files.close()
        try:
            drop_partial_lines(self.folder)
            for path in unlocked_files(self.folder):
                with suppress(FileNotFoundError):  # another process uploaded it first
                    self._upload_file(path)
            self._failing = False
        except (BotoCoreError, ClientError, OSError) as error:
            if not self._failing:  # one warning per outage, not one per minute
                _log.warning("captured answers cannot be uploaded to s3://%s; will retry: %s", self._bucket, error)
            self._failing = True

    def _upload_file(self, path: Path) -> None:
        self._client = self._client or links.s3_client(self._endpoint_url, TIMEOUT_S, 1)
        key = f"{self._prefix}/{path.relative_to(self.folder)}".lstrip("/")
        if path.stat().st_size:
            with path.open("rb") as body:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType="application/x-ndjson")
        path.unlink()
