"""The archive as it was signed, from its stamped copy in a model store.

A signature covers the bytes of the archive that the trainer made, and the copy that TorchServe loads is another zip
with the same files and its version (``archive.stamp``). An outline holds the bytes of the first zip except those of
its files, a few kilobytes, so that it can be put together again, and its signature verified, without MLflow.
"""

import base64
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serve.archives import safe_zip
from serve.archives.archive import TORCHSERVE_MANIFEST
from serve.errors import ArchiveError
from serve.files import atomic_write

_HEADER = struct.Struct("<26x2H")
"""The local header of a file in a zip ends with the lengths of its name and of its extra field, which follow."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a zip: the content of one of its files, or other bytes, in base64."""

    file: str = ""
    content: str = ""


def outline(archive: Path) -> tuple[Part, ...]:
    """The parts of an archive, in their order. Raises ArchiveError."""
    with safe_zip.opened(archive) as content, archive.open("rb") as data:
        entries = [(entry.header_offset, entry.filename, entry.file_size) for entry in content.infolist()]
        try:
            return tuple(_parts(data, sorted(entries)))
        except struct.error as error:
            raise ArchiveError(f"{archive} is not a whole archive: {error}") from error


def _parts(data: IO[bytes], entries: Sequence[tuple[int, str, int]]) -> Iterator[Part]:
    position = 0
    for offset, name, size in entries:
        if name == TORCHSERVE_MANIFEST:  # the one file that the stamp changes
            continue
        data.seek(offset)
        start = offset + _HEADER.size + sum(_HEADER.unpack(data.read(_HEADER.size)))
        yield _other(data, position, start)
        yield Part(file=name)
        position = start + size
    yield _other(data, position, data.seek(0, 2))


def _other(data: IO[bytes], start: int, end: int) -> Part:
    if end < start:
        raise ArchiveError("the files of the archive overlap: damaged")
    data.seek(start)
    return Part(content=base64.b64encode(data.read(end - start)).decode())


def rebuild(stamped: Path, parts: Sequence[Part], target: Path) -> Path:
    """Write the archive whose outline is ``parts`` to ``target``, and return it. Raises ArchiveError."""
    with safe_zip.opened(stamped) as content, atomic_write(target) as out:
        for part in parts:
            out.write(base64.b64decode(part.content))
            if part.file not in ("", *content.namelist()):
                raise ArchiveError(f"{stamped} has no {part.file}: damaged")
            if part.file:
                with content.open(part.file) as data:
                    shutil.copyfileobj(data, out)
    return target
