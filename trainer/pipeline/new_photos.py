"""Which labelled photos a source has, cheaply enough to be polled every few seconds.

The modification time of a folder shows whether files came or went: while it is the same, a poll costs two stat calls.
Once it has changed, the names are listed (1.3 s of CPU time for 500,000 photos), and only the records of photos that
were not there before are read. A bucket has no such time, and listing 500,000 photos with their records takes 1,000
requests, so it is polled less often.

Recounts count, too. Their folder has the same layout, and is polled in the same way.

A photo counts when it has a record whose count the model can predict, and neither file was written to in the last
minute. That is measured by ctime, which a copy that preserves the modification time does not set back.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError
from serve.files import write_text
from serve.settings import read
from serve.settings.common import StoreSettings
from trainer.data import prepared, s3
from trainer.data.abid import MAX_QUANTITY
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.layouts import DESCRIPTION, count_folders, is_prepared, read_source
from trainer.data.mirrors import recount_mirror
from trainer.data.recounts import PREFIX

_IDS = TypeAdapter(list[str])
SETTLED_S = 60.0
FOLDER_INTERVAL_S, BUCKET_INTERVAL_S = 0.0, 3600.0
"""Seconds between two polls of a source."""


@dataclass(frozen=True)
class LabelledPhotos:
    """Ids of the photos that can be trained on. ``settling``: how many more are still being written."""

    ids: frozenset[str] = frozenset()
    settling: int = 0


class NewPhotos:
    """Polls the source of ``spec``, or the bucket ``uri``, and its recounts, and caches which records it has read."""

    def __init__(
        self,
        spec: DataSpec,
        uri: str = "",
        settled_s: float = SETTLED_S,
        interval_s: float | None = None,
        prefix: str = "",
    ) -> None:
        """``settled_s``: how long files must have been unchanged; ``interval_s``: at least so long between polls;
        ``prefix``: of the ids, where ``spec`` is a folder of recounts."""
        self._spec, self._uri, self._settled_s = spec, uri, settled_s
        self._source, self._counts = spec.source, spec.counts
        default_s = BUCKET_INTERVAL_S if uri else FOLDER_INTERVAL_S
        self._interval_s = default_s if interval_s is None else interval_s
        self._labelled: dict[str, bool] = {}
        self._mtimes_ns: tuple[int, ...] = ()
        self._photos, self._next_s, self._prefix = LabelledPhotos(), 0.0, prefix
        self._recounts: NewPhotos | None = None
        if spec.recounts and (uri or not is_prepared(spec.source)):  # a prepared dataset has its own
            recounts = DataSpec(spec.recounts, counts=spec.counts)
            self._recounts = NewPhotos(recounts, settled_s=settled_s, interval_s=interval_s, prefix=PREFIX)

    def poll(self, known_ids: frozenset[str]) -> LabelledPhotos:
        """The photos and recounts now. ``known_ids``: counted before, so not read again. Raises DataError."""
        photos = self._poll_source(known_ids)
        if self._recounts is None:
            return photos
        recount_mirror.refresh(self._recounts._source, recount_mirror.POLL_S)
        if not _has_layout(self._recounts._source):
            return photos
        recounts = self._recounts.poll(known_ids)
        return LabelledPhotos(photos.ids | recounts.ids, photos.settling + recounts.settling)

    def _poll_source(self, known_ids: frozenset[str]) -> LabelledPhotos:
        if time.monotonic() < self._next_s:
            return self._photos
        self._next_s = time.monotonic() + min(self._interval_s, SETTLED_S)  # of the retry if this poll raises
        if self._uri:
            photos = self._list_bucket(known_ids)
        else:
            mtimes_ns = self._read_mtimes_ns()
            if mtimes_ns and mtimes_ns == self._mtimes_ns:
                return self._photos
            photos = self._list_files(known_ids)
            quiet = not photos.settling and time.time() - max(mtimes_ns, default=0) / 1e9 > self._settled_s
            # A file that comes within the clock's resolution does not change the time: trust only an old one.
            self._mtimes_ns = mtimes_ns if quiet else ()
        self._photos, self._next_s = photos, time.monotonic() + self._interval_s
        return photos

    def present(self, known_ids: frozenset[str]) -> frozenset[str]:
        """All labelled photos of the source now, also those that may still be written: an execution reads them all.

        None where the source cannot be read.
        """
        try:
            return NewPhotos(self._spec, self._uri, settled_s=0.0).poll(known_ids).ids
        except DataError:
            return frozenset()

    def _read_mtimes_ns(self) -> tuple[int, ...]:
        """The modification times of the files and folders that change when a photo comes."""
        source = self._source
        if is_prepared(source):
            paths: Iterable[Path] = [source / DESCRIPTION]
        elif source.is_dir() and not is_abid(source):
            paths = [source, *count_folders(source)]
        else:
            paths = [source / "bin-images", source / "metadata"] if source.is_dir() else [source]
        try:
            return tuple(path.stat().st_mtime_ns for path in paths)
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error}; is it still mounted?") from error

    def _list_files(self, known_ids: frozenset[str]) -> LabelledPhotos:
        source = self._source
        if is_prepared(source):
            return LabelledPhotos(frozenset(row.id for row in prepared.read(source).rows))
        if is_abid(source):
            stems = _stems(source / "bin-images", ".jpg") & _stems(source / "metadata", ".json")
            present = frozenset(self._prefix + stem for stem in stems) if self._prefix else stems
            paths = {photo_id: self._paths(photo_id) for photo_id in present - known_ids}
            settled = {
                photo_id for photo_id, pair in paths.items() if all(is_settled(path, self._settled_s) for path in pair)
            }
            self._read_records(settled, lambda photo_id: paths[photo_id][1].read_bytes())
        else:
            if source.is_file() and not is_settled(source, self._settled_s):
                return LabelledPhotos(self._photos.ids & known_ids, 1)
            photos = {photo.id: photo.path for photo in read_source(source, self._counts, require_each=False).photos}
            present = frozenset(photos)
            settled = {photo_id for photo_id in present - known_ids if is_settled(photos[photo_id], self._settled_s)}
            self._labelled |= dict.fromkeys(settled, True)
        return LabelledPhotos((present & known_ids) | self._usable(settled), len(present - known_ids) - len(settled))

    def _paths(self, photo_id: str) -> tuple[Path, Path]:
        """The photo and the record of an id, in the dataset's layout."""
        stem = photo_id.removeprefix(self._prefix)
        return self._source / "bin-images" / f"{stem}.jpg", self._source / "metadata" / f"{stem}.json"

    def _list_bucket(self, known_ids: frozenset[str]) -> LabelledPhotos:
        """Objects appear in a bucket once they are complete, so none is settling."""
        store = s3.S3Store(self._uri, read(StoreSettings, os.environ).s3_endpoint)
        try:
            photos, records = (
                frozenset(Path(key).stem for key in store.keys(prefix)) for prefix in ("bin-images/", "metadata/")
            )
        except s3.Missing as error:
            raise DataError(f"{self._uri} cannot be listed; check the bucket's name and your rights") from error
        present = photos & records
        self._read_records(present - known_ids, lambda photo_id: store.read(f"metadata/{photo_id}.json"))
        return LabelledPhotos((present & known_ids) | self._usable(present - known_ids))

    def _read_records(self, ids: Iterable[str], read: Callable[[str], bytes]) -> None:
        for photo_id in ids:
            if photo_id not in self._labelled:
                self._labelled[photo_id] = _is_labelled(read, photo_id, self._counts)

    def _usable(self, ids: Iterable[str]) -> frozenset[str]:
        return frozenset(photo_id for photo_id in ids if self._labelled.get(photo_id))


def is_settled(path: Path, settled_s: float) -> bool:
    """Whether a file is not empty and was not written to in the last ``settled_s`` seconds."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size > 0 and time.time() - status.st_ctime >= settled_s


def is_abid(source: Path) -> bool:
    """Whether a folder has the layout of the Amazon Bin Image Dataset."""
    return (source / "bin-images").is_dir() or (source.is_dir() and not count_folders(source))


def _has_layout(source: Path) -> bool:
    return (source / "bin-images").is_dir() and (source / "metadata").is_dir()


def _stems(folder: Path, suffix: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; is it still mounted?") from error
    return frozenset(name.removesuffix(suffix) for name in names if name.endswith(suffix) and name[0] != ".")


def _is_labelled(read: Callable[[str], bytes], photo_id: str, counts: Counts) -> bool:
    try:
        quantity = json.loads(read(photo_id))["EXPECTED_QUANTITY"]
    except (s3.Missing, OSError, ValueError, KeyError, TypeError):
        return False
    return type(quantity) is int and 0 <= quantity <= MAX_QUANTITY and counts.count_of(quantity) is not None


class KnownPhotos:
    """The ids of the photos that the last execution had, in a file; none where it is missing or damaged.

    They are proposed when an execution starts and accepted when it reaches a decision, so that the photos of one that
    fails still count as new.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._proposed = path, path.with_suffix(".proposed")
        self._mtime_ns, self._ids = 0, frozenset[str]()

    def ids(self) -> frozenset[str]:
        """The accepted ids; the file is read again when it has changed."""
        try:
            mtime_ns = self._path.stat().st_mtime_ns
            if mtime_ns != self._mtime_ns:
                self._ids, self._mtime_ns = frozenset(_IDS.validate_json(self._path.read_bytes())), mtime_ns
        except (OSError, ValidationError):
            self._ids, self._mtime_ns = frozenset(), 0
        return self._ids

    def propose(self, ids: frozenset[str]) -> None:
        """Record the photos of the execution that starts."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._proposed, json.dumps(sorted(ids)))

    def accept(self, prepared_ids: frozenset[str] = frozenset()) -> None:
        """The execution has reached a decision: its photos are known now, and so are those that it has prepared."""
        try:
            proposed_ids = frozenset(_IDS.validate_json(self._proposed.read_bytes()))
        except (OSError, ValidationError):
            proposed_ids = frozenset()
        if proposed_ids or prepared_ids:
            write_text(self._path, json.dumps(sorted(proposed_ids | prepared_ids)))
        self._proposed.unlink(missing_ok=True)
