"""The server side of a promotion, as the promoter sees it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from serve.rollout.model_store import ModelStore
from serve.rollout.probation import Observation


class Server(Protocol):
    """A model server and its model store; ``serve.rollout.rollout.Rollout`` is the real one."""

    @property
    def archives(self) -> ModelStore:
        """The model store."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other promoters away."""

    def serving(self) -> str | None:
        """The version that answers, if one does."""

    def store_archive(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Make sure that the version's archive is in the store; ``fetch`` returns it where it is missing or damaged."""

    def load(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Load a version beside the others; ``fetch`` returns its archive, ``run_id`` is its training run."""

    def canary(self, version: str) -> None:
        """Test a loaded version with its golden photos. Raises CanaryError."""

    def switch(self, version: str) -> None:
        """Make a loaded version the one that answers."""

    def observe(self, version: str) -> Observation:
        """Assess the version that answers, while it is on probation."""

    def retire_others(self, version: str, fallback: str | None) -> None:
        """Drain and unload all other versions; the archive of ``fallback`` stays in the store."""

    def discard(self, version: str) -> None:
        """Unload a version that does not answer."""
