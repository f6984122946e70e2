"""The JSON objects of a folder, read once each: one is read again only when it was replaced."""

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from serve.errors import DataError
from serve.objects.object_store import ObjectStore

Entity = TypeVar("Entity")
SUFFIX = ".json"
_log = logging.getLogger("binwatch.recounts")


class JsonIndex(Generic[Entity]):
    """What the objects ``<folder>/<name>.json`` hold, by name.

    ``parse``: from an object's place and content; raises DataError where it cannot be read. Not for several threads at
    the same time.
    """

    def __init__(self, objects: ObjectStore, folder: str, parse: Callable[[str, bytes], Entity]) -> None:
        self._objects, self._folder, self._parse = objects, folder, parse
        self._stamps: dict[str, str] = {}
        self._entities: dict[str, Entity] = {}

    def refresh(self) -> dict[str, Entity]:
        """What the objects hold now; one that cannot be read is logged once and left out.

        Raises UnavailableError where a bucket does not answer.
        """
        entries = self._objects.entries(self._folder)
        stamps = {name.removesuffix(SUFFIX): entry.stamp for name, entry in entries.items() if name.endswith(SUFFIX)}
        changed = [name for name, stamp in stamps.items() if self._stamps.get(name) != stamp]
        contents = dict(self._objects.read_all(f"{self._folder}/{name}{SUFFIX}" for name in changed))
        for name in (*changed, *(self._stamps.keys() - stamps.keys())):
            self._entities.pop(name, None)
        for name in changed:
            self._add(name, contents.get(f"{self._folder}/{name}{SUFFIX}"))
        self._stamps = stamps
        return self._entities

    def _add(self, name: str, content: bytes | None) -> None:
        if content is None:
            return  # another process has taken it
        try:
            self._entities[name] = self._parse(f"{self._objects.place}/{self._folder}/{name}{SUFFIX}", content)
        except DataError as error:
            _log.warning("left out: %s", error)
