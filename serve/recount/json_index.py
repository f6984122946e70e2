"""The JSON files of a folder, read once each: a file is read again only when it was replaced."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from serve.errors import DataError

Entity = TypeVar("Entity")
_log = logging.getLogger("binwatch.recounts")


class JsonIndex(Generic[Entity]):
    """What the files ``<folder>/<name>.json`` hold, by name. ``read`` raises DataError for a file that it cannot read.

    Not for several threads at the same time.
    """

    def __init__(self, folder: Path, read: Callable[[Path], Entity]) -> None:
        self._folder, self._read = folder, read
        self._stamps: dict[str, tuple[int, int]] = {}
        self._entities: dict[str, Entity] = {}

    def refresh(self) -> dict[str, Entity]:
        """What the files hold now; a file that cannot be read is logged once and left out."""
        stamps = _stamps(self._folder)
        for name in self._stamps.keys() - stamps.keys():
            self._entities.pop(name, None)
        for name, stamp in stamps.items():
            if self._stamps.get(name) != stamp:
                self._load(name)
        self._stamps = stamps
        return self._entities

    def _load(self, name: str) -> None:
        self._entities.pop(name, None)
        try:
            self._entities[name] = self._read(self._folder / f"{name}.json")
        except FileNotFoundError:
            return  # another process has taken it
        except DataError as error:
            _log.warning("left out: %s", error)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and inode of each file, by name without ``.json``; files that are being written begin with a dot."""
    stamps: dict[str, tuple[int, int]] = {}
    if not folder.is_dir():
        return stamps
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                status = entry.stat()
                stamps[entry.name.removesuffix(".json")] = (status.st_mtime_ns, status.st_ino)
    return stamps
