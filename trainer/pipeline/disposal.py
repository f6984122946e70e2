"""Removing what the retention has chosen: a run's files in MLflow, hours of capture, files of the state folder.

Each removal says how many bytes it frees, and can be repeated after a kill: what has gone already frees none.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.artifacts import ARCHIVE
from trainer.data import s3
from trainer.registry.mlflow_registry import Registry

PRUNED = "binwatch.pruned"
"""A tag of a run: which of its files were removed."""
KEPT = frozenset({"evaluation.json", "decision.json", "execution.json", "outcome.json"})
"""Small files that the history reads; they stay."""
_HOUR = re.compile(r"(?:^|/)((?:bin-counter/AllTraffic|ground-truth)/(\d{4})/(\d\d)/(\d\d)/(\d\d))/[^/]+\.jsonl$")
_ARCHIVE_FOLDER = str(Path(ARCHIVE).parent)


def remove_archive(registry: Registry, run_id: str, dry_run: bool) -> int:
    """Remove the archive of a run; bytes."""
    size = sum(registry.artifacts(run_id, _ARCHIVE_FOLDER).values())
    if size and not dry_run:
        registry.delete_artifact(run_id, _ARCHIVE_FOLDER)
    if not dry_run:
        _note(registry, run_id, "archive")
    return size


def remove_artifacts(registry: Registry, run_id: str, dry_run: bool) -> int:
    """Remove pictures, tables and whatever else a run has beside its archive and the files KEPT; bytes."""
    found = {
        name: size
        for name, size in registry.artifacts(run_id).items()
        if name not in KEPT and not name.startswith(f"{_ARCHIVE_FOLDER}/")
    }
    if not dry_run:
        for name in found:
            registry.delete_artifact(run_id, name)
        _note(registry, run_id, "artifacts")
    return sum(found.values())


def _note(registry: Registry, run_id: str, what: str) -> None:
    before = registry.tags(run_id).get(PRUNED, "")
    registry.reopen_run(run_id).set_tags({PRUNED: ", ".join(filter(None, (before, what)))})


class Capture:
    """The hours of a capture, in a folder or a bucket."""

    def __init__(self, place: str, endpoint_url: str | None = None) -> None:
        self._store = s3.S3Store(place, endpoint_url) if place.startswith("s3://") else None
        self._folder = Path(place)
        self._files: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def hours(self) -> Iterator[tuple[str, float]]:
        """Each hour that has files, and when it was over, seconds since 1970."""
        ends = {}
        for name, size in self._listed():
            match = _HOUR.search(name)
            if match:
                self._files[match[1]].append((name, size))
                year, month, day, hour = map(int, match.groups()[1:])
                ends[match[1]] = datetime(year, month, day, hour, tzinfo=UTC).timestamp() + 3600
        return iter(sorted(ends.items()))

    def _listed(self) -> Iterator[tuple[str, int]]:
        if self._store:
            yield from self._store.sizes()
            return
        for path in self._folder.rglob("*.jsonl"):
            with suppress(FileNotFoundError):
                yield str(path.relative_to(self._folder)), path.stat().st_size

    def remove(self, hour: str, dry_run: bool) -> int:
        """Remove an hour's files, and the folders that are empty then; bytes."""
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
    """Remove ``folder`` and the ones above it below ``root``'s variant, as long as they are empty."""
    with suppress(OSError):
        while folder != root and folder.name.isdecimal():
            folder.rmdir()
            folder = folder.parent


def kept_files(state: Path) -> Iterator[tuple[str, Path, float]]:
    """Kind, path and time of last use of what the state folder keeps and can make again.

    A decoded-photo cache that is mapped into memory stays usable there. No checkpoint is named while an execution waits
    to go on.
    """
    waiting = (state / "underway.json").exists()
    patterns = {
        "cache": ("prepared/*/cache/*.npy", "prepared/*/extra/cache/*.npy"),
        "checkpoint": () if waiting else ("checkpoints/*/*",),
    }
    for kind, globs in patterns.items():
        for path in sorted(each for pattern in globs for each in state.glob(pattern)):
            with suppress(FileNotFoundError):
                found: Any = path.stat()
                yield kind, path, max(found.st_atime, found.st_mtime)


def remove_file(path: Path, dry_run: bool) -> int:
    """Remove one file; bytes."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if not dry_run:
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
    return size
