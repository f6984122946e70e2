"""Reading photos and their counts from any of three layouts: ``read_source``.

    SOURCE/bin-images/, SOURCE/metadata/    the dataset's own layout (``trainer/data/abid.py``)
    SOURCE.csv                              columns path, count and optionally group: the bin
    SOURCE/<count>/*.jpg                    a folder per count, also one folder further down
                                            (SOURCE/train/3/x.jpg: torchvision's ImageFolder)

Folders named train or test do not decide the split: photos are split by bin.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from serve.errors import DataError
from trainer.data import tables
from trainer.data.abid import MAX_QUANTITY, Inventory, Photo, Skipped, check_each_count, photo_problem, read_inventory
from trainer.data.counts import Counts

SUFFIXES = (".jpg", ".jpeg", ".png")
DESCRIPTION = "prepared.json"
"""The file by which a folder is a prepared dataset (``trainer/data/prepared.py``)."""


def read_source(source: Path, counts: Counts, require_each: bool = True) -> Inventory:
    """The photos of ``source`` whose count is one of ``counts``, and the photos that were skipped.

    Raises DataError if ``source`` cannot be used, or, with ``require_each``, if one of ``counts`` has no photo.
    """
    problem = tables.name_problem(str(source))
    if problem:
        raise DataError(f"{tables.printable(str(source))} cannot be used: {problem}; give it another one")
    with tables.reading(source):
        return _read(source, counts, require_each)


def _read(source: Path, counts: Counts, require_each: bool) -> Inventory:
    try:
        source.stat()
    except FileNotFoundError as error:
        advice = "give a source of photos, or leave out DATA to draw bins"
        raise DataError(f"there is no file or folder {source}; {advice}") from error
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
            skipped.append(Skipped(tables.printable(entry.id), reason))
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
    return tables.name_problem(str(photo.path)) or photo_problem(photo.path)


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` is a prepared dataset."""
    try:
        return (folder / DESCRIPTION).is_file()
    except OSError:  # reading it as a source of photos says what is wrong
        return False


def count_folders(source: Path) -> list[Path]:
    """The folders named after a count, in ``source`` or one folder below.

    Raises OSError if ``source`` cannot be read, or if there are none and a folder cannot be read.
    """
    folders, errors = _folders_in(source), list[OSError]()
    for folder in tuple(folders):
        try:
            folders += _folders_in(folder)
        except OSError as error:  # such as lost+found
            errors.append(error)
    counts = sorted(path for path in folders if path.name.isdecimal() and int(path.name) <= MAX_QUANTITY)
    if errors and not counts:
        raise errors[0]
    return counts


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / entry.name for entry in entries if entry.is_dir()]


def _from_folder(source: Path, folder: Path) -> Iterator[Photo]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            photo_id = str(path.relative_to(source))
            yield Photo(photo_id, int(folder.name), path, photo_id)


def _from_csv(source: Path) -> Iterator[Photo | Skipped]:
    for row in tables.read_table(source, ("path", "count"), ("group",)):
        yield _from_row(source.parent, row)


def _from_row(folder: Path, row: dict[str, str]) -> Photo | Skipped:
    name, count = row["path"], tables.whole_number(row["count"])
    if count is None or count > MAX_QUANTITY:
        reason = f"the count is {row['count']!r}, not a whole number from 0 to {MAX_QUANTITY}"
        return Skipped(tables.printable(name), reason)
    problem = tables.name_problem(name)
    if problem:
        return Skipped(tables.printable(name), problem)
    try:
        path = _locate(folder, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
        return Skipped(name, f"the path cannot be read: {tables.reason(error)}")
    if path is None:
        return Skipped(name, "the path points outside the folder of the CSV file")
    return Photo(name, count, path, row["group"].strip() or name)


def _locate(folder: Path, name: str) -> Path | None:
    """The file that a table in ``folder`` names, below ``folder``; None if it is elsewhere.

    Where there is no such file, spaces around the name are left out, and backslashes taken for slashes.
    """
    spellings = (name, name.strip(), name.strip().replace("\\", "/"))
    path = folder / next((spelling for spelling in spellings if photo_problem(folder / spelling) is None), name)
    root, resolved = folder.resolve(), path.resolve()
    if not resolved.is_relative_to(root):
        return None
    return path if path.is_relative_to(folder) else folder / resolved.relative_to(root)
