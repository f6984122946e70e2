"""A local copy of the recounts in a bucket, since photos are read as files.

    MIRROR/mirror.json                what the copy was made from, and what was there
    MIRROR/metadata/, bin-images/     the recounts with a count (``trainer/data/recounts.py``)

A recount that was corrected is fetched again, and one that was undone is removed. A copy that was interrupted goes on.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve.files import exclusive_lock, write_text
from serve.objects.folder_objects import FolderObjects
from serve.objects.object_store import ObjectStore
from serve.objects.places import open_objects
from serve.settings import read
from serve.settings.common import StoreSettings
from trainer.data.s3 import parse_uri

METADATA, PHOTOS = "metadata", "bin-images"
POLL_S = 60.0
"""A poll for new recounts asks the bucket at most so often."""
RECOUNT_CACHE = "s3-recounts"
"""The folder of such copies, in the state folder."""
_FILE = "mirror.json"


@dataclass(frozen=True, kw_only=True)
class _Mirror:
    """``stamps``: of the records in the bucket, by name; ``checked_s``: seconds since the epoch, 0 for never."""

    uri: str
    stamps: dict[str, str] = field(default_factory=dict)
    checked_s: float = 0.0


_MIRROR = TypeAdapter(_Mirror)


def recount_folder(place: str, cache: Path) -> Path:
    """The folder of recounts that ``place`` names; of a bucket, the one in ``cache`` that ``refresh`` copies it to."""
    if not place.startswith("s3://"):
        return Path(place)
    bucket, prefix = parse_uri(place)
    folder = cache / bucket / (prefix or "_")
    folder.mkdir(parents=True, exist_ok=True)
    if _read_mirror(folder) is None:
        _write_mirror(folder, _Mirror(uri=place))
    return folder


def refresh(folder: Path, max_age_s: float = 0.0, environ: Mapping[str, str] = os.environ) -> None:
    """Bring a copy up to date, unless it was within ``max_age_s``; nothing for a folder that is no copy.

    Raises UnavailableError if the bucket does not answer, DataError if it refuses.
    """
    if _read_mirror(folder) is None:
        return
    with exclusive_lock(folder):
        mirror = _read_mirror(folder)
        if mirror is None or time.time() - mirror.checked_s < max_age_s:
            return
        bucket = open_objects(mirror.uri, read(StoreSettings, environ).s3_endpoint)
        _write_mirror(folder, _Mirror(uri=mirror.uri, stamps=_copy(bucket, folder, mirror), checked_s=time.time()))


def _copy(bucket: ObjectStore, folder: Path, mirror: _Mirror) -> dict[str, str]:
    """Copy what is new, remove what is gone; returns the stamps of the records in the bucket."""
    local = FolderObjects(folder)
    stamps = {name: entry.stamp for name, entry in bucket.entries(METADATA).items() if name.endswith(".json")}
    records, photos = local.entries(METADATA), local.entries(PHOTOS)
    gone = [Path(name).stem for name in records if name not in stamps]
    local.remove(*(f"{METADATA}/{stem}.json" for stem in gone), *(f"{PHOTOS}/{stem}.jpg" for stem in gone))
    changed = [name for name, stamp in stamps.items() if mirror.stamps.get(name) != stamp or name not in records]
    lacking = [f"{Path(name).stem}.jpg" for name in stamps if f"{Path(name).stem}.jpg" not in photos]
    for key, content in bucket.read_all(f"{PHOTOS}/{name}" for name in lacking):
        local.write(key, content)
    for key, content in bucket.read_all(f"{METADATA}/{name}" for name in changed):
        local.write(key, content)
    return stamps


def _read_mirror(folder: Path) -> _Mirror | None:
    try:
        return _MIRROR.validate_json((folder / _FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _write_mirror(folder: Path, mirror: _Mirror) -> None:
    write_text(folder / _FILE, _MIRROR.dump_json(mirror).decode())
