"""Which labelled photos have come to a source, at a price that one can pay every few seconds.

A folder's own time of change says whether any file came or went: while it stays, a look costs two calls. Where it has
changed, the names are listed (1.3 s of processor time for 500,000 photos), and only of photos that were not there
before is the record read. A bucket has no such time: listing 500,000 photos and their records takes 1,000 requests, so
it is looked at less often. A photo counts when its record and itself are there, its count is one that is told apart,
and neither was written to for a minute: by the time of change of the file's node, which copying with the old times
does not set back.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from serve.errors import DataError
from serve.files import write_text
from trainer.data import prepared, s3
from trainer.data.abid import MAX_QUANTITY
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.layouts import count_folders, read_source

SETTLED_S = 60.0
FOLDER_EVERY_S, BUCKET_EVERY_S = 0.0, 3600.0
"""Seconds between two looks at a source."""


@dataclass(frozen=True)
class Arrived:
    """Ids of the photos that can be learned from. ``settling``: how many more are still being written."""

    ids: frozenset[str] = frozenset()
    settling: int = 0


class NewPhotos:
    """Looks at the source of ``spec``, or at the bucket ``uri``; remembers what it has read."""

    def __init__(
        self, spec: DataSpec, uri: str = "", settled_s: float = SETTLED_S, every_s: float | None = None
    ) -> None:
        self._source, self._counts, self._uri, self._settled_s = spec.source, spec.counts, uri, settled_s
        self._every_s = every_s if every_s is not None else BUCKET_EVERY_S if uri else FOLDER_EVERY_S
        self._labelled: dict[str, bool] = {}
        self._stamp: tuple[int, ...] = ()
        self._found, self._next_s = Arrived(), 0.0

    def look(self, seen: frozenset[str]) -> Arrived:
        """What is there. ``seen``: ids that counted before, of which nothing is read. Raises DataError."""
        if time.monotonic() < self._next_s:
            return self._found
        self._next_s = time.monotonic() + min(self._every_s, SETTLED_S)  # where it fails
        if self._uri:
            found = self._of_bucket(seen)
        else:
            stamp = self._stamp_now()
            if stamp and stamp == self._stamp:
                return self._found
            found = self._of_files(seen)
            quiet = not found.settling and time.time() - max(stamp, default=0) / 1e9 > self._settled_s
            self._stamp = stamp if quiet else ()  # what comes within the clock's step would be missed
        self._found, self._next_s = found, time.monotonic() + self._every_s
        return found

    def _stamp_now(self) -> tuple[int, ...]:
        """The times of change, in ns, of whatever changes when a photo comes."""
        source = self._source
        if prepared.is_prepared(source):
            places: Iterable[Path] = [source / prepared.DESCRIPTION]
        elif source.is_dir() and not is_abid(source):
            places = [source, *count_folders(source)]
        else:
            places = [source / "bin-images", source / "metadata"] if source.is_dir() else [source]
        try:
            return tuple(place.stat().st_mtime_ns for place in places)
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error}; is it still mounted?") from error

    def _of_files(self, seen: frozenset[str]) -> Arrived:
        source = self._source
        if prepared.is_prepared(source):
            return Arrived(frozenset(row.id for row in prepared.read(source).rows))
        if is_abid(source):
            present = _stems(source / "bin-images", ".jpg") & _stems(source / "metadata", ".json")
            paths = {
                each: (source / "bin-images" / f"{each}.jpg", source / "metadata" / f"{each}.json")
                for each in present - seen
            }
            settled = {each for each, pair in paths.items() if all(is_settled(path, self._settled_s) for path in pair)}
            self._read(settled, lambda each: paths[each][1].read_bytes())
        else:
            if source.is_file() and not is_settled(source, self._settled_s):
                return Arrived(self._found.ids & seen, 1)
            photos = {each.id: each.path for each in read_source(source, self._counts, every=False).photos}
            present = frozenset(photos)
            settled = {each for each in present - seen if is_settled(photos[each], self._settled_s)}
            self._labelled |= dict.fromkeys(settled, True)
        return Arrived((present & seen) | self._usable(settled), len(present - seen) - len(settled))

    def _of_bucket(self, seen: frozenset[str]) -> Arrived:
        """Objects are whole as soon as they are there."""
        store = s3.S3Store(self._uri, os.environ.get("BINWATCH_S3_ENDPOINT") or None)
        try:
            photos, records = (
                frozenset(Path(key).stem for key in store.keys(prefix)) for prefix in ("bin-images/", "metadata/")
            )
        except s3.Missing as error:
            raise DataError(f"{self._uri} cannot be listed; check the bucket's name and your rights") from error
        present = photos & records
        self._read(present - seen, lambda each: store.read(f"metadata/{each}.json"))
        return Arrived((present & seen) | self._usable(present - seen))

    def _read(self, ids: Iterable[str], record: Callable[[str], bytes]) -> None:
        for each in ids:
            if each not in self._labelled:
                self._labelled[each] = _is_labelled(record, each, self._counts)

    def _usable(self, ids: Iterable[str]) -> frozenset[str]:
        return frozenset(each for each in ids if self._labelled.get(each))


def is_settled(path: Path, settled_s: float) -> bool:
    """Whether a file is not empty, and nobody has written to it for ``settled_s`` seconds."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size > 0 and time.time() - found.st_ctime >= settled_s


def is_abid(source: Path) -> bool:
    """Whether a folder has the dataset's own layout."""
    return (source / "bin-images").is_dir() or (source.is_dir() and not count_folders(source))


def _stems(folder: Path, suffix: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            names = [each.name for each in entries]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; is it still mounted?") from error
    return frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix) and name[0] != ".")


def _is_labelled(record: Callable[[str], bytes], photo_id: str, counts: Counts) -> bool:
    try:
        quantity = json.loads(record(photo_id))["EXPECTED_QUANTITY"]
    except (s3.Missing, OSError, ValueError, KeyError, TypeError):
        return False
    return type(quantity) is int and 0 <= quantity <= MAX_QUANTITY and counts.of(quantity) is not None


class Seen:
    """The ids that the last execution of a source had, in a file; none where there was no execution, or it is lost.

    They are proposed when an execution begins and accepted when it came to a decision: one that fails has seen nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._proposed = path, path.with_suffix(".proposed")
        self._stamp, self._ids = 0, frozenset[str]()

    def ids(self) -> frozenset[str]:
        """Read again where the file has changed."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._ids, self._stamp = frozenset(json.loads(self._path.read_text())), stamp
        except (OSError, ValueError, TypeError):
            self._ids, self._stamp = frozenset(), 0
        return self._ids

    def propose(self, ids: frozenset[str]) -> None:
        """Note what the execution that begins has."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._proposed, json.dumps(sorted(ids)))

    def accept(self) -> None:
        """The execution came to a decision."""
        if self._proposed.is_file():
            self._proposed.replace(self._path)
