"""Where captured files lie, a folder or a bucket, and what was read of them already.

A file is read once: of one that has grown since only the new lines, so that looking again every minute costs little.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from serve import links
from serve.errors import DataError
from serve.monitoring import records

SETTLED_S = 60.0
"""A file that was not written to for so long has no line that is still being written."""


@dataclass(frozen=True)
class File:
    """A file as it is now. ``stamp``: changes when it is written; ``settled``: nobody seems to write it any more."""

    name: str
    size: int
    stamp: str
    settled: bool


class Place(Protocol):
    """A folder or a bucket."""

    def files(self, prefix: str) -> list[File]:
        """All files ``*.jsonl`` below a folder, by name."""

    def open(self, name: str, offset: int) -> AbstractContextManager[BinaryIO]:
        """A file from a byte on."""


@dataclass(frozen=True)
class Folder:
    """A folder of the file system."""

    root: Path

    def files(self, prefix: str) -> list[File]:
        """Files that go while they are listed are left out."""
        return [found for path in sorted((self.root / prefix).rglob("*.jsonl")) if (found := self._file(path))]

    def _file(self, path: Path) -> File | None:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        settled = datetime.now(UTC).timestamp() - stat.st_mtime > SETTLED_S
        return File(str(path.relative_to(self.root)), stat.st_size, str(stat.st_mtime_ns), settled)

    def open(self, name: str, offset: int) -> AbstractContextManager[BinaryIO]:
        """Raises OSError."""
        file = (self.root / name).open("rb", buffering=1 << 20)
        file.seek(offset)
        return file


class Bucket:
    """A bucket and a prefix, ``s3://bucket/prefix``, at ``endpoint_url`` or AWS."""

    def __init__(self, uri: str, endpoint_url: str | None = None, timeout_s: float = 20.0) -> None:
        self.uri = uri
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = links.client(endpoint_url, timeout_s, 3)

    def files(self, prefix: str) -> list[File]:
        """Raises DataError where the store does not answer."""
        with self._readable_errors():
            return list(self._listed(prefix))

    def _listed(self, prefix: str) -> Iterator[File]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}/"):
            for found in page.get("Contents", ()):
                name = found["Key"].removeprefix(self._prefix)
                if name.endswith(".jsonl"):  # an object is always whole
                    yield File(name, found["Size"], found["ETag"], settled=True)

    @contextmanager
    def open(self, name: str, offset: int) -> Iterator[BinaryIO]:
        """Raises DataError where the store does not answer, or stops before the end."""
        with self._readable_errors():
            found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=f"bytes={offset}-")
            with closing(found["Body"]) as body:
                yield cast(BinaryIO, io.BufferedReader(body, 1 << 20))

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise DataError(f"{self.uri} cannot be read: {error}; check the bucket and BINWATCH_S3_ENDPOINT") from error


def place_of(capture: str, endpoint_url: str | None = None) -> Place:
    """The place that a setting names. Raises DataError where there is no such folder."""
    if capture.startswith("s3://"):
        return Bucket(capture, endpoint_url)
    if not Path(capture).is_dir():
        raise DataError(f"there is no folder {capture}; name the one that BINWATCH_CAPTURE names for TorchServe")
    return Folder(Path(capture))


@dataclass(frozen=True)
class _Kept:
    file: File
    offset: int
    unreadable: int
    rows: tuple[records.Rows, ...]


class Reader:
    """Reads one kind of records of a place, day by day, and keeps what it has read."""

    def __init__(
        self, place: Place, prefix: str, parse: Callable[[bytes], tuple[Any, ...]], kind: "np.dtype[Any]"
    ) -> None:
        self._place, self._prefix, self._parse, self._kind = place, prefix, parse, kind
        self._kept: dict[str, _Kept] = {}

    def rows(self, first: date, last: date) -> tuple[records.Rows, int]:
        """All rows of the files of some days (UTC), and how many lines could not be read.

        Raises DataError where a file cannot be read. Files of other days are forgotten.
        """
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        files = [file for day in days for file in self._place.files(f"{self._prefix}/{day:%Y/%m/%d}")]
        self._kept = {file.name: self._read(file, self._kept.get(file.name)) for file in files}
        rows = [part for kept in self._kept.values() for part in kept.rows]
        found = np.concatenate(rows) if rows else np.empty(0, self._kind)
        return found, sum(kept.unreadable for kept in self._kept.values())

    def _read(self, file: File, kept: _Kept | None) -> _Kept:
        if kept and _same(file, kept.file) and (kept.offset == file.size or not file.settled):
            return kept
        if kept is None or file.size < kept.offset or (file.size == kept.file.size and not _same(file, kept.file)):
            kept = _Kept(file, 0, 0, ())
        if kept.offset == file.size:
            return kept
        try:
            with self._place.open(file.name, kept.offset) as lines:
                rows, tally = records.read(lines, self._parse, self._kind, file.settled, kept.offset)
        except OSError as error:
            raise DataError(f"{file.name} cannot be read: {error}; check its permissions") from error
        return _Kept(file, tally.offset, kept.unreadable + tally.unreadable, (*kept.rows, rows))


def _same(one: File, other: File) -> bool:
    return (one.size, one.stamp) == (other.size, other.stamp)
