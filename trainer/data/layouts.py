"""Where photos and their counts come from: three layouts behind one function, ``read_source``.

    SOURCE/bin-images/, SOURCE/metadata/    the dataset's own (``trainer/abid.py``)
    SOURCE.csv                              columns path, count and, optionally, group: the bin
    SOURCE/<count>/*.jpg                    a folder per count, also below one more folder
                                            (SOURCE/train/3/x.jpg: torchvision's ImageFolder)

A division into train and test that the folders suggest is not kept: photos are split by bin.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from serve.errors import DataError
from trainer.data.abid import MAX_QUANTITY, Inventory, Photo, Skipped, read_inventory, refuse_empty
from trainer.data.counts import Counts

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_source(source: Path, counts: Counts, every: bool = True) -> Inventory:
    """What ``source`` holds of ``counts``, with ``every`` something of each; what cannot be used is named.

    Raises DataError.
    """
    if not source.exists():
        raise DataError(f"there is no file or folder {source}; give photos, or leave DATA away to draw bins")
    if source.is_file():
        found = list(_from_csv(source))
    elif (source / "bin-images").is_dir() or not count_folders(source):
        return read_inventory(source, counts, every)
    else:
        found = [each for folder in count_folders(source) for each in _from_folder(source, folder)]
    return _inventory(source, found, counts, every)


def _inventory(source: Path, found: list[Photo | Skipped], counts: Counts, every: bool) -> Inventory:
    photos: dict[str, Photo] = {}
    skipped: list[Skipped] = []
    for each in found:
        reason = each.reason if isinstance(each, Skipped) else _unusable(each, counts)
        if reason:
            skipped.append(Skipped(each.id, reason))
        elif isinstance(each, Photo):
            other = photos.setdefault(each.id, each)
            if other.count != each.count:
                raise DataError(
                    f"{source} has {each.id} under {other.count} and under {each.count}; remove one of the two"
                )
    kept = [_classed(photo, counts) for _, photo in sorted(photos.items())]
    if every:
        refuse_empty(source, kept, skipped, counts)
    return Inventory(source, tuple(kept), tuple(skipped))


def _classed(photo: Photo, counts: Counts) -> Photo:
    return replace(photo, count=counts.of(photo.count) or 0)


def _unusable(photo: Photo, counts: Counts) -> str | None:
    if counts.of(photo.count) is None:
        return f"the count {photo.count} is outside COUNTS"
    if not photo.path.is_file():
        return "the photo is missing"
    return None if photo.path.stat().st_size else "the photo is empty (0 bytes)"


def count_folders(source: Path) -> list[Path]:
    """The folders that are named by a count, in ``source`` or one folder below."""
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


def _from_row(base: Path, row: dict[str, str]) -> Photo | Skipped:
    name, count = row["path"], row["count"]
    if not count or not count.strip().isdecimal() or int(count) > MAX_QUANTITY:
        return Skipped(name, f"the count is {count!r}, not a whole number from 0 to {MAX_QUANTITY}")
    path = (base / name).resolve()
    if not path.is_relative_to(base.resolve()):
        return Skipped(name, "the path leads out of the folder of the CSV file")
    return Photo(name, int(count), base / name, row.get("group") or name)
