"""Files of whole lines, one a process and hour: ``<folder>/yyyy/mm/dd/hh/<uuid>.jsonl`` (UTC).

Each file has one writer, which holds a lock on it; the kernel frees the lock when the writer dies. A line that
was cut by ``kill -9`` or a full disk is taken off: by the writer itself, or by the next one that starts (``mend``).
It travels in every archive.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 16


class HourFiles:
    """Appends lines to the file of their hour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hour: Path | None = None
        self._file: int | None = None
        self._size = 0

    def append(self, moment: datetime, line: bytes) -> None:
        """Append a line, newline included, whole or not at all. Raises OSError."""
        hour = self.folder / moment.astimezone(UTC).strftime("%Y/%m/%d/%H")
        if self._file is None or hour != self._hour:
            self._open(hour)
        assert self._file is not None
        try:
            written = os.write(self._file, line)
        except OSError:
            self.close()
            raise
        if written < len(line):  # the disk is full
            os.ftruncate(self._file, self._size)
            self.close()
            raise OSError(f"{written} of {len(line)} bytes were written to {hour}; is the disk full?")
        self._size += len(line)

    def close(self) -> None:
        """Close the file; the next line opens another one."""
        if self._file is not None:
            os.close(self._file)
        self._file = self._hour = None

    def _open(self, hour: Path) -> None:
        self.close()
        hour.mkdir(parents=True, exist_ok=True)
        path = hour / f"{uuid.uuid4()}.jsonl"
        hidden = path.with_name(f".{path.name}.new")  # nobody takes it for abandoned before it is locked
        file = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        hidden.rename(path)
        self._file, self._hour, self._size = file, hour, 0


def drop_partial_lines(folder: Path) -> int:
    """Take the cut last line off every file of a writer that died; returns how many. Files in use are left alone."""
    return sum(_mend(path) for path in unlocked_files(folder))


def unlocked_files(folder: Path) -> Iterator[Path]:
    """The files that no writer holds any more."""
    for path in sorted(folder.rglob("*.jsonl")):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield path


def _mend(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = _end_of_last_line(file, size)
    if end < size:
        os.truncate(path, end)
    return end < size


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    end, block = size, 1  # mostly the last byte tells
    while end:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end, block = start, _BLOCK_BYTES
    return 0


def disk_use(folder: Path) -> float:
    """How full the file system of ``folder``, or of what there is of its path, is for ordinary users (0-1)."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    used = shutil.disk_usage(there)
    return used.used / (used.used + used.free)
