"""The model store: the folder from which TorchServe loads archives, each stamped with its version."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve.archives.archive import TORCHSERVE_MANIFEST, stamp, unpacked
from serve.errors import ArchiveError
from serve.files import exclusive_lock
from serve.manifest import read_manifest
from serve.rollout.torchserve_client import MODEL

log = logging.getLogger(__name__)


class ModelStore:
    """A folder of archives. Only promoters write to it, one at a time (see ``lock``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: dict[Path, tuple[int, ...]] = {}

    def path(self, version: str) -> Path:
        """Where the archive of ``version`` is, if it is in the store."""
        return self.folder / f"{MODEL}-{version}.mar"

    def ensure(self, version: str, fetch: Callable[[], Path]) -> None:
        """Make sure that the archive of ``version`` is in the store, undamaged.

        ``fetch`` returns its path and is called only if it is missing or damaged. Raises ArchiveError where the fetched
        one is damaged.
        """
        path = self.path(version)
        if self._is_intact(path, version):
            return
        stamp(fetch(), path, version)
        self._verified[path] = _file_identity(path)

    def delete(self, version: str) -> None:
        """Delete the archive of ``version``, if it is there."""
        self.path(version).unlink(missing_ok=True)

    def delete_all_but(self, *versions: str) -> None:
        """Delete the archives of all other versions, and the partial files of interrupted copies."""
        needed = {self.path(version) for version in versions}
        for path in self.folder.glob(f"*{MODEL}-*.mar*"):
            if path not in needed:
                path.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the exclusive lock on store and server; waits for another promoter. A kill releases it."""
        with exclusive_lock(self.folder, wait=False) as acquired:
            if acquired:
                yield
                return
        log.info("another promoter holds the lock on %s; waiting for it", self.folder)
        with exclusive_lock(self.folder):
            yield

    def _is_intact(self, path: Path, version: str) -> bool:
        """Whether the archive is there and undamaged. All bytes are read, but only once unless the file changes."""
        with suppress(FileNotFoundError):
            identity = _file_identity(path)
            if self._verified.get(path) == identity:
                return True
            try:
                _verify(path, version)
            except ArchiveError as error:
                log.warning("%s is fetched again: %s", path, error)
                return False
            self._verified[path] = identity
            return True
        return False


def _file_identity(path: Path) -> tuple[int, ...]:
    """What differs between two states of a file."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _verify(path: Path, version: str) -> None:
    """Raise ArchiveError where the archive is damaged, or of another version."""
    with unpacked(path) as folder:
        read_manifest(folder)
        stamped = json.loads((folder / TORCHSERVE_MANIFEST).read_bytes())["model"]["modelVersion"]
    if stamped != version:
        raise ArchiveError(f"it is of version {stamped}, not {version}")
