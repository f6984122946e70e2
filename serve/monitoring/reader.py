"""Reads captured files from a folder or a bucket, each line only once.

If a file has grown since the last time, only its new lines are read, so that polling every minute is cheap.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import numpy as np

from serve import links
from serve.errors import DataError
from serve.monitoring import capture_rows

SETTLED_S = 60.0
"""A file that was not written to for this time counts as complete, including its last line."""


@dataclass(frozen=True)
class CaptureFile:
    """A file as it was listed. ``stamp``: changes with each write; ``settled``: no process is writing it any more."""

    name: str
    size: int
    stamp: str
    settled: bool


class CaptureSource(Protocol):
    """The folder or bucket with captured files."""

    def files(self, prefix: str) -> list[CaptureFile]:
        """All files ``*.jsonl`` below the folder ``prefix``, sorted by name. Raises DataError."""

    def open(self, name: str, offset: int) -> AbstractContextManager[BinaryIO]:
        """Open a file at an offset in bytes. Raises DataError, OSError."""


@dataclass(frozen=True)
class FolderSource:
    """A folder of the file system."""

    root: Path

    def files(self, prefix: str) -> list[CaptureFile]:
        """All files ``*.jsonl`` below the folder ``prefix``, except those deleted meanwhile."""
        paths = sorted((self.root / prefix).rglob("*.jsonl"))
        return [file for path in paths if (file := self._file(path))]

    def _file(self, path: Path) -> CaptureFile | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        settled = datetime.now(UTC).timestamp() - stat.st_mtime > SETTLED_S
        return CaptureFile(str(path.relative_to(self.root)), stat.st_size, str(stat.st_mtime_ns), settled)

    def open(self, name: str, offset: int) -> AbstractContextManager[BinaryIO]:
        """Open a file at an offset in bytes. Raises OSError."""
        file = (self.root / name).open("rb", buffering=1 << 20)
        file.seek(offset)
        return file


class BucketSource:
    """A bucket and a prefix, ``s3://bucket/prefix``, at ``endpoint_url`` or AWS."""

    def __init__(self, uri: str, endpoint_url: str | None = None, timeout_s: float = 20.0) -> None:
        self.uri = uri
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = links.s3_client(endpoint_url, timeout_s, 3)

    def files(self, prefix: str) -> list[CaptureFile]:
        """All objects ``*.jsonl`` below the folder ``prefix``. Raises DataError if the store does not answer."""
        with self._wrap_errors():
            return list(self._list(prefix))

    def _list(self, prefix: str) -> Iterator[CaptureFile]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}/"):
            for item in page.get("Contents", ()):
                name = item["Key"].removeprefix(self._prefix)
                if name.endswith(".jsonl"):
                    yield CaptureFile(name, item["Size"], item["ETag"], settled=True)  # objects are always complete

    @contextmanager
    def open(self, name: str, offset: int) -> Iterator[BinaryIO]:
        """Open an object at an offset in bytes. Raises DataError if the store does not answer, or stops midway."""
        with self._wrap_errors():
            item = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=f"bytes={offset}-")
            with closing(item["Body"]) as body:
                yield cast(BinaryIO, io.BufferedReader(body, 1 << 20))

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        shapes = (KeyError, TypeError, ValueError, AttributeError)  # of an answer that is not S3's
        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError, *shapes) as error:
            raise DataError(f"{self.uri} cannot be read: {error}; check the bucket and BINWATCH_S3_ENDPOINT") from error


def open_source(capture: str, endpoint_url: str | None = None) -> CaptureSource:
    """The folder or bucket that ``capture`` names. Raises DataError if there is no such folder."""
    if capture.startswith("s3://"):
        return BucketSource(capture, endpoint_url)
    if not Path(capture).is_dir():
        raise DataError(f"there is no folder {capture}; give the folder in TorchServe's BINWATCH_CAPTURE")
    return FolderSource(Path(capture))


@dataclass(frozen=True)
class _FileProgress:
    """What was read of a file up to ``offset``."""

    file: CaptureFile
    offset: int
    unreadable: int
    rows: tuple[capture_rows.Rows, ...]


class Reader:
    """Reads the records of one kind from a source, day by day, and caches their rows.

    ``parse``: a line to the fields of ``dtype``, or None for one that does not count.
    """

    def __init__(
        self,
        source: CaptureSource,
        prefix: str,
        parse: Callable[[bytes], tuple[object, ...] | None],
        dtype: "np.dtype[np.void]",
    ) -> None:
        self._source, self._prefix, self._parse, self._dtype = source, prefix, parse, dtype
        self._progress: dict[str, _FileProgress] = {}

    def rows(self, first: date, last: date) -> tuple[capture_rows.Rows, int]:
        """All rows from the files of these days (UTC, both included), and the number of unreadable lines.

        Files of other days are dropped from the cache. Raises DataError if a file cannot be read.
        """
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        files = [file for day in days for file in self._source.files(f"{self._prefix}/{day:%Y/%m/%d}")]
        self._progress = {file.name: self._read(file, self._progress.get(file.name)) for file in files}
        parts = [part for progress in self._progress.values() for part in progress.rows]
        rows = np.concatenate(parts) if parts else np.empty(0, self._dtype)
        return rows, sum(progress.unreadable for progress in self._progress.values())

    def _read(self, file: CaptureFile, progress: _FileProgress | None) -> _FileProgress:
        unchanged = progress is not None and _version(file) == _version(progress.file)
        if progress and unchanged and (progress.offset == file.size or not file.settled):
            return progress
        if progress is None or file.size < progress.offset or (file.size == progress.file.size and not unchanged):
            progress = _FileProgress(file, 0, 0, ())  # new or rewritten: read it from its start
        if progress.offset == file.size:
            return progress
        try:
            with self._source.open(file.name, progress.offset) as lines:
                rows, read = capture_rows.read(lines, self._parse, self._dtype, file.settled, progress.offset)
        except OSError as error:
            raise DataError(f"{file.name} cannot be read: {error}; check its permissions") from error
        return _FileProgress(file, read.offset, progress.unreadable + read.unreadable, (*progress.rows, rows))


def _version(file: CaptureFile) -> tuple[int, str]:
    return file.size, file.stamp
