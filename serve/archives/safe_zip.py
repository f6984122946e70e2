"""Zips that may be anybody's: opened only where reading them can do no harm, whatever they hold.

An archive's entries are stored, never compressed, so that a zip cannot unpack to more than it takes itself; they are
ordinary files with plain names, each once, within the folder that they are unpacked to. Raises ArchiveError, and
nothing else, for every other zip.
"""

import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from serve.errors import ArchiveError

MAX_BYTES = 2**31 - 1
"""Largest archive in bytes: as large as a zip gets without its 64-bit form, which is not read."""
MAX_ENTRIES = 200
"""Most files in an archive; ours have about 30."""
MAX_NAME = 100

_END = struct.Struct("<4s4H2LH")
"""The end of a zip: signature, two disks, entries here and in all, bytes and start of the directory, comment's bytes.
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16"""
_LOCATOR = 20
"""Bytes before the end where the 64-bit form would begin: Python reads it whatever the end says."""
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip at ``path``, whose entries can be read and unpacked without harm. Raises ArchiveError."""
    try:
        _refuse_end(path)
        with zipfile.ZipFile(path) as content:
            _refuse_entries(content.infolist(), path.stat().st_size)
            yield content
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no archive {path}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path} is not a whole archive: {error}") from error


def _refuse_end(path: Path) -> None:
    """Refuse by size and by the directory's, before Python reads all of that into memory."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArchiveError(f"the archive has {size} bytes; at most {MAX_BYTES} are allowed")
    with path.open("rb") as data:
        data.seek(-min(size, _END.size + _LOCATOR), 2)
        tail = data.read()
    if len(tail) < _END.size:
        raise ArchiveError(f"{path} is not a whole archive: it has {size} bytes")
    mark, *_, entries, length, start, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\x05\x06" or comment or start + length != size - _END.size or tail.startswith(b"PK\x06\x07"):
        raise ArchiveError(f"{path} is not a whole archive: it does not end as a zip of this size does")
    if entries > MAX_ENTRIES or length > MAX_ENTRIES * (MAX_NAME + 200):
        raise ArchiveError(
            f"the archive has {entries} entries, listed in {length} bytes; at most {MAX_ENTRIES} "
            f"with names of {MAX_NAME} characters are allowed"
        )


def _refuse_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    for each in entries:
        _refuse_name(each.orig_filename)
        _refuse_kind(each, size)
    total = sum(each.file_size for each in entries)
    if total > size:
        raise ArchiveError(f"the archive unpacks to {total} bytes, more than its own {size}: entries overlap")
    names = [each.filename for each in entries]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ArchiveError(f"the archive holds {min(twice)!r} more than once")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} & set(names)
    if folders:
        raise ArchiveError(f"the archive holds {min(folders)!r} both as a file and as a folder")


def _refuse_name(name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise ArchiveError(f"the archive holds {name[:MAX_NAME]!r}, which would leave its folder")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or "." in parts:
        raise ArchiveError(f"the archive holds {name[:MAX_NAME]!r}, which is no name of a file in an archive")


def _refuse_kind(entry: zipfile.ZipInfo, size: int) -> None:
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "no ordinary file"
        raise ArchiveError(f"{entry.filename!r} in the archive is {kind}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ArchiveError(
            f"{entry.filename!r} in the archive is compressed; an archive's files are stored as they are"
        )
    if entry.flag_bits:  # a bad password would be a RuntimeError, a patch NotImplementedError
        raise ArchiveError(f"{entry.filename!r} in the archive is encrypted, or of a form that is not read")
    if not 0 <= entry.header_offset <= size - entry.file_size:
        raise ArchiveError(f"{entry.filename!r} lies outside the archive: it is not whole")
