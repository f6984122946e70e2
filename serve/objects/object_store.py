"""What a folder and a bucket can do: read, list, and replace whole objects.

A key is a name, or a folder's name and a name: ``leases.json``, ``queue/EVENT.json``. Both kinds replace objects
atomically. Where a folder fails they raise OSError; a bucket that does not answer raises UnavailableError, and one that
refuses DataError.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

MAX_DISK_USE = 0.95


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object in a list. ``stamp``: changes with each write; ``modified_s``: seconds since the epoch."""

    stamp: str
    modified_s: float


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object as it was read. ``stamp``: as in its Entry."""

    content: bytes
    stamp: str


class ObjectStore(Protocol):
    """A folder, or a prefix of a bucket."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    def entries(self, folder: str) -> dict[str, Entry]:
        """The objects directly in ``folder``, by name."""

    def read(self, key: str) -> StoredObject | None:
        """An object; None where there is none."""

    def read_all(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Several objects, in the order of their keys; those that are gone are left out."""

    def write(self, key: str, content: bytes) -> None:
        """Write an object, whatever was there."""

    def replace(self, key: str, content: bytes, stamp: str | None) -> bool:
        """Write an object unless it has changed since it was read with ``stamp``, None for not being there.

        Returns whether it was written.
        """

    def copy(self, source: str, target: str) -> bool:
        """Copy an object; returns whether there was one."""

    def remove(self, *keys: str) -> None:
        """Remove objects, as far as they are there."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep other threads out, and other processes from a folder; of a bucket, ``replace`` alone does that."""

    def check_room(self) -> None:
        """Raise OSError where a disk is almost full."""
