"""The model store: the folder from which TorchServe loads archives, each stamped with its version.

    bin-counter-4.mar           the archive of version 4
    bin-counter-4.mar.origin    its training run, its signature and its outline: what a promoter needs to verify it
    bin-counter-4.mar.records   what its training run recorded about it: evaluation, answers, reference for drift
    serving.json                the version that was switched to last, and its training run

So the store alone is enough to serve that version again, or to give MLflow back what it has lost.
"""

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from serve.archives import original
from serve.archives.archive import TORCHSERVE_MANIFEST, stamp, unpacked
from serve.errors import ArchiveError, BinwatchError, DataError
from serve.files import exclusive_lock, write_text
from serve.manifest import read_manifest
from serve.rollout.torchserve_client import MODEL

log = logging.getLogger(__name__)

T = TypeVar("T")

SIGNATURE_SUFFIX = ".sig"
SERVING, ORIGIN, RECORDS = "serving.json", ".origin", ".records"


@dataclass(frozen=True, kw_only=True)
class StoredVersion:
    """A version and its training run: a registry that was deleted numbers its versions from 1 again."""

    version: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an archive of the store is from. ``signature``: in base64, empty where it was not signed."""

    run_id: str
    signature: str
    outline: tuple[original.Part, ...]


_ORIGIN, _SERVING, _RECORDS = TypeAdapter(Origin), TypeAdapter(StoredVersion), TypeAdapter(dict[str, str])


class ModelStore:
    """A folder of archives. Only promoters write to it, one at a time (see ``lock``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: dict[Path, tuple[int, ...]] = {}

    def path(self, version: str) -> Path:
        """Where the archive of ``version`` is, if it is in the store."""
        return self.folder / f"{MODEL}-{version}.mar"

    def ensure(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Make sure that the archive of ``version`` is in the store, undamaged, and from the run ``run_id``.

        ``fetch`` returns its path and is called only if it is missing, damaged, or of another or an unknown run.
        Raises ArchiveError where the fetched one is damaged, and whatever ``fetch`` raises, unless the one in the store
        may be served.
        """
        intact, stored_run_id = self._is_intact(self.path(version), version), self.run_of(version)
        if intact and stored_run_id == run_id:
            return
        try:
            archive = fetch()
        except BinwatchError as error:
            if not intact or stored_run_id:
                raise
            log.debug("the store does not know where version %s is from: %s", version, error)
        else:
            self.put(version, archive, run_id)

    def put(self, version: str, archive: Path, run_id: str) -> None:
        """Store an archive, with its signature if there is one beside it.

        Raises ArchiveError where it is damaged, DataError where the store cannot be written.
        """
        try:
            self._write(version, archive, run_id)
        except OSError as error:
            raise DataError(f"the archive of version {version} cannot be stored in {self.folder}: {error}") from error

    def _write(self, version: str, archive: Path, run_id: str) -> None:
        path = self.path(version)
        stamp(archive, path, version)
        self._verified[path] = _file_identity(path)
        signature = archive.with_name(archive.name + SIGNATURE_SUFFIX)
        signed = base64.b64encode(signature.read_bytes()).decode() if signature.is_file() else ""
        origin = Origin(run_id=run_id, signature=signed, outline=original.outline(archive))
        write_text(_beside(path, ORIGIN), json.dumps(asdict(origin)))

    def run_of(self, version: str) -> str:
        """The training run of the archive of ``version``; empty where that is not known."""
        origin = self._origin(version)
        return origin.run_id if origin else ""

    def is_of_another_run(self, version: str, run_id: str) -> bool:
        """Whether the archive of ``version``, or the model that was switched to under this number, is not of that run.

        False where its run is not known.
        """
        serving = self.serving()
        runs = {self.run_of(version), serving.run_id if serving and serving.version == version else ""}
        return bool(run_id and runs - {"", run_id})

    def rebuild(self, version: str, folder: Path) -> Path:
        """The archive of ``version`` as it was fetched, in ``folder``, with its signature beside it if it had one.

        Raises ArchiveError where the store does not have it.
        """
        origin = self._origin(version)
        if origin is None:
            raise ArchiveError(f"the model store does not know where the archive of version {version} is from")
        archive = original.rebuild(self.path(version), origin.outline, folder / f"{MODEL}.mar")
        if origin.signature:
            archive.with_name(archive.name + SIGNATURE_SUFFIX).write_bytes(base64.b64decode(origin.signature))
        return archive

    def _origin(self, version: str) -> Origin | None:
        return _read(_ORIGIN, _beside(self.path(version), ORIGIN))

    def serving(self) -> StoredVersion | None:
        """The version that was switched to last; None where that is not known."""
        return _read(_SERVING, self.folder / SERVING)

    def remember_serving(self, serving: StoredVersion) -> None:
        """Remember the version that was switched to."""
        if self.serving() != serving:
            write_text(self.folder / SERVING, json.dumps(asdict(serving)))

    def records(self, version: str) -> dict[str, str]:
        """What the training run of ``version`` recorded about it, by name; empty where that is not in the store."""
        return _read(_RECORDS, _beside(self.path(version), RECORDS)) or {}

    def remember_records(self, version: str, records: dict[str, str]) -> None:
        """Store what the training run of ``version`` recorded about it."""
        write_text(_beside(self.path(version), RECORDS), json.dumps(records))

    def delete(self, version: str) -> None:
        """Delete the archive of ``version``, if it is there."""
        for path in (self.path(version), *_notes(self.path(version))):
            path.unlink(missing_ok=True)

    def delete_all_but(self, *versions: str) -> None:
        """Delete the archives of all other versions, and the partial files of interrupted copies."""
        archives = [self.path(version) for version in versions]
        needed = {*archives, *(note for archive in archives for note in _notes(archive))}
        for path in self.folder.glob(f"*{MODEL}-*.mar*"):
            if path not in needed:
                path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the exclusive lock on store and server; waits for another promoter. A kill releases it.

        Raises DataError where there is no such folder.
        """
        if not self.folder.is_dir():
            raise DataError(f"there is no model store {self.folder}; is it mounted?")
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


def _beside(archive: Path, suffix: str) -> Path:
    return archive.with_name(archive.name + suffix)


def _notes(archive: Path) -> tuple[Path, Path]:
    return _beside(archive, ORIGIN), _beside(archive, RECORDS)


def _read(adapter: TypeAdapter[T], path: Path) -> T | None:
    """The content of a JSON file; None where it is missing or damaged."""
    try:
        return adapter.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


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
