"""Reading photos and their counts from any of three layouts: ``read_source``.

    SOURCE/bin-images/, SOURCE/metadata/    the dataset's own layout (``trainer/data/abid.py``)
    SOURCE.csv                              columns path, count and optionally group: the bin
    SOURCE/<count>/*.jpg                    a folder per count, also one folder further down
                                            (SOURCE/train/3/x.jpg: torchvision's ImageFolder)

Folders named train or test do not decide the split: photos are split by bin.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from serve.errors import DataError
from trainer.data.abid import MAX_QUANTITY, Inventory, Photo, Skipped, check_each_count, read_inventory
from trainer.data.counts import Counts

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_source(source: Path, counts: Counts, require_each: bool = True) -> Inventory:
    """The photos of ``source`` whose count is one of ``counts``, and the photos that were skipped.

    Raises DataError if ``source`` cannot be used, or, with ``require_each``, if one of ``counts`` has no photo.
    """
    if not source.exists():
        raise DataError(f"there is no file or folder {source}; give a source of photos, or leave out DATA to draw bins")
    if source.is_file():
        return _inventory(source, _from_csv(source), counts, require_each)
    folders = [] if (source / "bin-images").is_dir() else count_folders(source)
    if not folders:
        return read_inventory(source, counts, require_each)
    photos = (photo for folder in folders for photo in _from_folder(source, folder))
    return _inventory(source, photos, counts, require_each)


def _inventory(source: Path, entries: Iterable[Photo | Skipped], counts: Counts, require_each: bool) -> Inventory:
    by_id: dict[str, Photo] = {}
    skipped: list[Skipped] = []
    for entry in entries:
        if isinstance(entry, Skipped):
            skipped.append(entry)
        elif reason := _unusable(entry, counts):
            skipped.append(Skipped(entry.id, reason))
        elif by_id.setdefault(entry.id, entry).count != entry.count:
            raise DataError(
                f"{source} has {entry.id} under {by_id[entry.id].count} and under {entry.count}; remove one of the two"
            )
    photos = [replace(photo, count=counts.count_of(photo.count) or 0) for _, photo in sorted(by_id.items())]
    if require_each:
        check_each_count(source, photos, skipped, counts)
    return Inventory(source, tuple(photos), tuple(skipped))


def _unusable(photo: Photo, counts: Counts) -> str | None:
    if counts.count_of(photo.count) is None:
        return f"the count {photo.count} is outside COUNTS"
    if not photo.path.is_file():
        return "the photo is missing"
    return None if photo.path.stat().st_size else "the photo is empty (0 bytes)"


def count_folders(source: Path) -> list[Path]:
    """The folders named after a count, in ``source`` or one folder below."""
    folders = [path for pattern in ("*", "*/*") for path in source.glob(pattern) if path.is_dir()]
    return sorted(path for path in folders if path.name.isdecimal() and int(path.name) <= MAX_QUANTITY)


def _from_folder(source: Path, folder: Path) -> Iterator[Photo]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            photo_id = str(path.relative_to(source))
            yield Photo(photo_id, int(folder.name), path, photo_id)


def _from_csv(source: Path) -> Iterator[Photo | Skipped]:
    with source.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if not {"path", "count"} <= set(reader.fieldnames or ()):
            raise DataError(
                f"{source} has the columns {reader.fieldnames}; it needs path and count, and may have group"
            )
        for row in reader:
            yield _from_row(source.parent, row)


def _from_row(folder: Path, row: dict[str, str]) -> Photo | Skipped:
    name, count = row["path"], row["count"]
    if not count or not count.strip().isdecimal() or int(count) > MAX_QUANTITY:
        return Skipped(name, f"the count is {count!r}, not a whole number from 0 to {MAX_QUANTITY}")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return Skipped(name, "the path points outside the folder of the CSV file")
    return Photo(name, int(count), folder / name, row.get("group") or name)
