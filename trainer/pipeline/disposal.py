"""Removes what the retention has chosen: files of runs in MLflow, hours of capture, files of the state folder.

Each removal returns how many bytes it frees, and is idempotent: after a kill it can be repeated.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.artifacts import ARCHIVE_FOLDER, DECISION, EVALUATION, EXECUTION, OUTCOME, PRUNED_TAG
from trainer.data import s3
from trainer.pipeline import execution_lock

if TYPE_CHECKING:
    from trainer.registry.mlflow_registry import Registry  # MLflow takes seconds to import


class Kind(StrEnum):
    """What can be removed; the first two are of a run in MLflow."""

    ARCHIVE = "archive"
    ARTIFACTS = "artifacts"
    CAPTURE = "capture"
    CACHE = "cache"
    CHECKPOINT = "checkpoint"


PERMANENT = frozenset({EVALUATION, DECISION, EXECUTION, OUTCOME})
"""Small artifacts that the history reads; they are never removed."""
_HOUR = re.compile(r"(?:^|/)((?:bin-counter/AllTraffic|ground-truth)/(\d{4})/(\d\d)/(\d\d)/(\d\d))/[^/]+\.jsonl$")


def remove_archive(registry: "Registry", run_id: str, dry_run: bool) -> int:
    """Remove the archive of a run; returns its bytes."""
    size = sum(registry.artifacts(run_id, ARCHIVE_FOLDER).values())
    if size and not dry_run:
        registry.delete_artifact(run_id, ARCHIVE_FOLDER)
    if not dry_run:
        _mark_pruned(registry, run_id, Kind.ARCHIVE)
    return size


def remove_artifacts(registry: "Registry", run_id: str, dry_run: bool) -> int:
    """Remove the artifacts of a run, except its archive and the PERMANENT ones; returns their bytes."""
    sizes = {
        name: size
        for name, size in registry.artifacts(run_id).items()
        if name not in PERMANENT and not name.startswith(f"{ARCHIVE_FOLDER}/")
    }
    if not dry_run:
        for name in sizes:
            registry.delete_artifact(run_id, name)
        _mark_pruned(registry, run_id, Kind.ARTIFACTS)
    return sum(sizes.values())


def _mark_pruned(registry: "Registry", run_id: str, kind: Kind) -> None:
    pruned = registry.tags(run_id).get(PRUNED_TAG, "")
    registry.reopen_run(run_id).set_tags({PRUNED_TAG: ", ".join(filter(None, (pruned, kind)))})


class Capture:
    """The hours of captured answers, in a folder or a bucket."""

    def __init__(self, place: str, endpoint_url: str | None = None) -> None:
        self._store = s3.S3Store(place, endpoint_url) if place.startswith("s3://") else None
        self._folder = Path(place)
        self._files: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def hours(self) -> Iterator[tuple[str, float]]:
        """Each hour that has files, and when it ended, in seconds since 1970."""
        ends_s = {}
        for name, size in self._list_files():
            match = _HOUR.search(name)
            if match:
                self._files[match[1]].append((name, size))
                year, month, day, hour = map(int, match.groups()[1:])
                ends_s[match[1]] = datetime(year, month, day, hour, tzinfo=UTC).timestamp() + 3600
        return iter(sorted(ends_s.items()))

    def _list_files(self) -> Iterator[tuple[str, int]]:
        if self._store:
            yield from self._store.sizes()
            return
        for path in self._folder.rglob("*.jsonl"):
            with suppress(FileNotFoundError):
                yield str(path.relative_to(self._folder)), path.stat().st_size

    def remove(self, hour: str, dry_run: bool) -> int:
        """Remove the files of an hour that ``hours`` has listed, and empty folders; returns the bytes."""
        files = self._files[hour]
        if not dry_run:
            for name, _ in files:
                if self._store:
                    self._store.remove(name)
                else:
                    (self._folder / name).unlink(missing_ok=True)
            if not self._store:
                _remove_empty(self._folder, self._folder / hour)
        return sum(size for _, size in files)


def _remove_empty(root: Path, folder: Path) -> None:
    """Remove ``folder`` and its parents below ``root`` that are parts of a date, as long as they are empty."""
    with suppress(OSError):
        while folder != root and folder.name.isdecimal():
            folder.rmdir()
            folder = folder.parent


def reproducible_files(state: Path) -> Iterator[tuple[Kind, Path, float]]:
    """The files of the state folder that can be made again: kind, path, and last use in seconds since 1970.

    A process that has a removed cache mapped into memory can go on using it. While an execution is unfinished no
    checkpoint is listed.
    """
    unfinished = (state / execution_lock.FILE).exists()
    patterns = {
        Kind.CACHE: ("prepared/*/cache/*.npy", "prepared/*/extra/cache/*.npy"),
        Kind.CHECKPOINT: () if unfinished else ("checkpoints/*/*",),
    }
    for kind, globs in patterns.items():
        for path in sorted(path for pattern in globs for path in state.glob(pattern)):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield kind, path, max(status.st_atime, status.st_mtime)


def remove_file(path: Path, dry_run: bool) -> int:
    """Remove a file, and its folder if that is empty then; returns its bytes."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if not dry_run:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    return size
