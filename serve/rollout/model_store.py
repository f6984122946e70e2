"""The model store: the archives that TorchServe loads, each stamped with its version, and who may change them."""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve.archives.archive import TORCHSERVE_MANIFEST, stamp, unpacked
from serve.errors import ArchiveError
from serve.manifest import read_manifest
from serve.rollout.torchserve_client import MODEL

log = logging.getLogger(__name__)


class ModelStore:
    """A folder of archives. It is written by promoters only, and by one of them at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checked: dict[Path, tuple[int, ...]] = {}

    def path(self, version: str) -> Path:
        """Where the archive of ``version`` is, if it is there."""
        return self.folder / f"{MODEL}-{version}.mar"

    def put(self, version: str, fetch: Callable[[], Path]) -> None:
        """Have the archive of ``version``, whole; ``fetch`` gives it and is called only where it is not there.

        Raises ArchiveError where what is fetched is damaged.
        """
        path = self.path(version)
        if self._is_whole(path, version):
            return
        stamp(fetch(), path, version)
        self._checked[path] = _identity(path)

    def drop(self, version: str) -> None:
        """Remove the archive of ``version``."""
        self.path(version).unlink(missing_ok=True)

    def keep(self, *versions: str) -> None:
        """Remove all archives but these, and copies that were cut off."""
        kept = {self.path(version) for version in versions}
        for path in self.folder.glob(f"*{MODEL}-*.mar*"):
            if path not in kept:
                path.unlink()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only one who changes store and server; waits for another one. The kernel frees it at a kill."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another promoter works on %s; waiting for it", self.folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _is_whole(self, path: Path, version: str) -> bool:
        """Every byte is read once, and again where the file has changed."""
        with suppress(FileNotFoundError):
            found = _identity(path)
            if self._checked.get(path) == found:
                return True
            try:
                _check(path, version)
            except ArchiveError as error:
                log.warning("%s is fetched again: %s", path, error)
                return False
            self._checked[path] = found
            return True
        return False


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _check(path: Path, version: str) -> None:
    """Raises ArchiveError where the archive is not whole, or not of ``version``."""
    with unpacked(path) as folder:
        read_manifest(folder)
        found = json.loads((folder / TORCHSERVE_MANIFEST).read_bytes())["model"]["modelVersion"]
    if found != version:
        raise ArchiveError(f"it is of version {found}, not {version}")
