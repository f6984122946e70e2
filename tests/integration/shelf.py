"""A server without a model: it stores archives as the real one does, and serves what it is switched to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.rollout.model_store import ModelStore
from serve.rollout.probation import Observation


class Shelf:
    """Stands for TorchServe where the archives are too small to be served. ``version``: the one that answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.version = folder, ""
        folder.mkdir(exist_ok=True)
        self.archives = ModelStore(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def serving(self) -> str | None:
        return self.version or None

    def store_archive(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        self.archives.ensure(version, fetch, run_id)

    def load(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        self.store_archive(version, fetch, run_id)

    def canary(self, version: str) -> None:
        assert self.archives.path(version).is_file()

    def switch(self, version: str) -> None:
        self.version = version

    def observe(self, version: str) -> Observation:
        return Observation(over=True, fault="", summary="no time at all")

    def retire_others(self, version: str, fallback: str | None) -> None:
        self.archives.delete_all_but(version, *filter(None, [fallback]))

    def discard(self, version: str) -> None:
        self.archives.delete(version)
