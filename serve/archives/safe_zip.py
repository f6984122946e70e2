"""Opening zips from untrusted sources: everything that could do harm when it is read or unpacked is refused first.

The entries must be stored, not compressed, so that a zip cannot unpack to more than its own size; they must be regular
files with plain, unique names inside the target folder. Raises ArchiveError, and nothing else, for every other zip.
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
"""Largest archive in bytes: the limit of zips without the ZIP64 extension, which is not accepted."""
MAX_ENTRIES = 200
"""Most files in an archive; an export has about 30."""
MAX_NAME = 100

_END = struct.Struct("<4s4H2LH")
"""The end record of a zip: signature, two disk numbers, entries on this disk and in total, size and start of the
central directory, size of the comment.
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16"""
_LOCATOR = 20
"""Size of the ZIP64 locator before the end record: Python reads it whatever the end record says."""
_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the zip at ``path`` after checking that it is safe to read and unpack. Raises ArchiveError."""
    try:
        _check_end(path)
        with zipfile.ZipFile(path) as content:
            _check_entries(content.infolist(), path.stat().st_size)
            yield content
    except FileNotFoundError as error:
        raise ArchiveError(f"there is no archive {path}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path} is not a whole archive: {error}") from error


def _check_end(path: Path) -> None:
    """Check the sizes of file and central directory before Python reads the latter into memory."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ArchiveError(f"the archive has {size} bytes; at most {MAX_BYTES} are allowed")
    with path.open("rb") as data:
        data.seek(-min(size, _END.size + _LOCATOR), 2)
        tail = data.read()
    if len(tail) < _END.size:
        raise ArchiveError(f"{path} is not a whole archive: it has {size} bytes")
    signature, *_, entries, directory_size, directory_start, comment_size = _END.unpack(tail[-_END.size :])
    ends_right = signature == b"PK\x05\x06" and not comment_size and not tail.startswith(b"PK\x06\x07")
    if not ends_right or directory_start + directory_size != size - _END.size:
        raise ArchiveError(f"{path} is not a whole archive: its end record does not match its size")
    if entries > MAX_ENTRIES or directory_size > MAX_ENTRIES * (MAX_NAME + 200):  # 200: ample for an entry's fields
        raise ArchiveError(
            f"the archive has {entries} entries, listed in {directory_size} bytes; at most {MAX_ENTRIES} "
            f"with names of {MAX_NAME} characters are allowed"
        )


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Check each entry, then that none overlap or have the same place; ``size``: of the archive, in bytes."""
    for entry in entries:
        _check_name(entry.orig_filename)
        _check_kind(entry, size)
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise ArchiveError(f"the archive unpacks to {total} bytes, more than its own {size}: entries overlap")
    names = [entry.filename for entry in entries]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ArchiveError(f"the archive holds {min(repeated)!r} more than once")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents} & set(names)
    if folders:
        raise ArchiveError(f"the archive holds {min(folders)!r} both as a file and as a folder")


def _check_name(name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise ArchiveError(f"the archive holds {name[:MAX_NAME]!r}, which would leave its folder")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or "." in parts:
        raise ArchiveError(f"the archive holds {name[:MAX_NAME]!r}, which is not a valid file name in an archive")


def _check_kind(entry: zipfile.ZipInfo, size: int) -> None:
    """Accept only a regular file, stored, without flags, inside the ``size`` bytes of the archive."""
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise ArchiveError(f"{entry.filename!r} in the archive is {kind}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ArchiveError(f"{entry.filename!r} in the archive is compressed; the files of an archive must be stored")
    if entry.flag_bits:  # reading it would raise RuntimeError or NotImplementedError
        raise ArchiveError(f"{entry.filename!r} in the archive is encrypted, or has flags that are not supported")
    if not 0 <= entry.header_offset <= size - entry.file_size:
        raise ArchiveError(f"{entry.filename!r} lies outside the archive: it is not complete")
