"""Objects as files of a folder; those that are being written begin with a dot."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.files import atomic_write, exclusive_lock
from serve.hour_files import disk_use
from serve.objects.object_store import MAX_DISK_USE, Entry, StoredObject


class FolderObjects:
    """The files below ``folder``, which need not be there yet. ``max_disk_use``: how full the disk may be (0-1)."""

    def __init__(self, folder: Path, max_disk_use: float = MAX_DISK_USE) -> None:
        self.folder, self._max_disk_use = folder, max_disk_use

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def entries(self, folder: str) -> dict[str, Entry]:
        """The files directly in ``folder``, by name."""
        try:
            with os.scandir(self.folder / folder) as files:
                visible = [file for file in files if not file.name.startswith(".") and file.is_file()]
                return {file.name: entry for file in visible if (entry := _entry(file))}
        except FileNotFoundError:
            return {}

    def read(self, key: str) -> StoredObject | None:
        """A file; None where there is none."""
        try:
            with (self.folder / key).open("rb") as file:
                return StoredObject(content=file.read(), stamp=_stamp(os.fstat(file.fileno())))
        except FileNotFoundError:
            return None

    def read_all(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Several files, in the order of their keys; those that are gone are left out."""
        for key in keys:
            if stored := self.read(key):
                yield key, stored.content

    def write(self, key: str, content: bytes) -> None:
        """Write a file atomically, and the folder that it is in."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as out:
            out.write(content)

    def replace(self, key: str, content: bytes, stamp: str | None) -> bool:
        """Write a file unless it has changed; call it inside of ``exclusive``."""
        path = self.folder / key
        if (_stamp(path.stat()) if path.exists() else None) != stamp:
            return False
        self.write(key, content)
        return True

    def copy(self, source: str, target: str) -> bool:
        """Copy a file; returns whether there was one."""
        stored = self.read(source)
        if stored:
            self.write(target, stored.content)
        return stored is not None

    def remove(self, *keys: str) -> None:
        """Remove files, as far as they are there."""
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads and processes out, by a lock on the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.folder):
            yield

    def check_room(self) -> None:
        """Raise OSError where the disk is almost full."""
        share = disk_use(self.folder)
        if share > self._max_disk_use:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({share:.0%} full)", str(self.folder))


def _entry(file: "os.DirEntry[str]") -> Entry | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None  # another process has taken it
    return Entry(stamp=_stamp(status), modified_s=status.st_mtime)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}-{status.st_ino}"
