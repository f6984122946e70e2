"""The Amazon Bin Image Dataset's own format: bin photos and their records in a folder.

    SOURCE/bin-images/<id>.jpg     the photo
    SOURCE/metadata/<id>.json      its record: EXPECTED_QUANTITY, BIN_FCSKU_DATA
    file_list.json                 optional, count -> ["data/metadata/<id>.json", ...]
    labels.csv                     optional, columns id and bin_group: which photos show one bin

The optional files are looked for in SOURCE and in its parent. Ids are strings: ``1`` and
``00001`` are two photos. Layout: https://registry.opendata.aws/amazon-bin-imagery/
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from serve.errors import DataError
from trainer.data.counts import Counts

LICENCE = (
    "Amazon Bin Image Dataset, Amazon.com, Inc., CC BY-NC-SA 3.0 US: "
    "a model made from it, golden photos included, is for non-commercial use"
)
MAX_QUANTITY = 10_000
BESIDE = ("file_list.json", "labels.csv")
"""The files that may lie beside SOURCE."""
NEIGHBOURS = 2
"""Ids at most this far apart may show the same bin before and after a pick."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Photo:
    """One usable photo: its recorded count, and the bin that it shows."""

    id: str
    count: int
    path: Path
    bin: str
    products: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Skipped:
    """One photo that is left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Inventory:
    """What a source holds: the usable photos in the order of their ids, and what was left out."""

    source: Path
    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]


def read_inventory(source: Path, counts: Counts, every: bool = True) -> Inventory:
    """Read the records of ``source`` and keep the photos whose count is one of ``counts``.

    What cannot be used is named in ``skipped``. Raises DataError where the folders are missing,
    a file list is damaged, or with ``every`` a count is left without a photo.
    """
    for folder in ("bin-images", "metadata"):
        if not (source / folder).is_dir():
            raise DataError(f"{source} has no folder {folder}/; give the folder that holds bin-images/ and metadata/")
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    for photo_id, listed in _ids(source, counts):
        found = _read_one(source, photo_id, listed, counts)
        (photos if isinstance(found, Photo) else skipped).append(found)  # type: ignore[arg-type]
    if every:
        refuse_empty(source, photos, skipped, counts)
    photos.sort(key=lambda photo: (_series(photo.id), photo.id))
    return Inventory(source, tuple(_with_bins(source, photos)), tuple(skipped))


def _find(source: Path, name: str) -> Path | None:
    return next((folder / name for folder in (source, source.parent) if (folder / name).is_file()), None)


def _ids(source: Path, counts: Counts) -> Iterator[tuple[str, int | None]]:
    """The ids to read, with the count of the file list. The list decides for the counts it names."""
    listed: dict[str, int] = {}
    path = _find(source, "file_list.json")
    named = set()
    for count, ids in read_file_list(path).items() if path else ():
        named.add(count)
        for photo_id in ids:
            if listed.setdefault(photo_id, count) != count:
                raise DataError(
                    f"{path} lists {photo_id} under {listed[photo_id]} and under {count}; remove one of the two"
                )
    yield from ((photo_id, count) for photo_id, count in listed.items() if counts.of(count) is not None)
    if not named.issuperset(counts.values):
        stems = sorted(path.stem for path in (source / "metadata").glob("*.json"))
        yield from ((photo_id, None) for photo_id in stems if photo_id not in listed)


def read_file_list(path: Path) -> dict[int, list[str]]:
    """A file list as ids by count. Raises DataError."""
    try:
        content = json.loads(path.read_text())
        return {int(count): [PurePosixPath(entry).stem for entry in entries] for count, entries in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f'{path} is not a file list ({error}); it must look like {{"1": ["data/metadata/<id>.json", ...]}}'
        ) from error


def choose(lists: dict[int, list[str]], counts: Counts | None, limit: int | None) -> dict[int, list[str]]:
    """The ids of ``counts``, or of all, and of each count its share of ``limit``, the first of the list."""
    chosen = {count: ids for count, ids in sorted(lists.items()) if counts is None or counts.of(count) is not None}
    total = sum(map(len, chosen.values()))
    if not total:
        raise DataError(f"the file list holds no photo with {counts or 'any'} objects; it has {sorted(lists)}")
    if limit is None or limit >= total:
        return chosen
    return {count: ids[: round(limit * len(ids) / total)] for count, ids in chosen.items()}


def file_list_json(lists: dict[int, list[str]]) -> bytes:
    """The bytes of a file list."""
    named = {str(count): [f"data/metadata/{photo_id}.json" for photo_id in ids] for count, ids in lists.items()}
    return json.dumps(named, indent=1).encode()


def _read_one(source: Path, photo_id: str, listed: int | None, counts: Counts) -> Photo | Skipped:
    if not _ID.fullmatch(photo_id):
        return Skipped(photo_id, "the id has characters other than letters, digits, - and _")
    try:
        record = json.loads((source / "metadata" / f"{photo_id}.json").read_bytes())
        quantity = _quantity(record)
    except FileNotFoundError:
        return Skipped(photo_id, "the record is missing")
    except (ValueError, OSError) as error:
        return Skipped(photo_id, f"the record cannot be read: {error}")
    if listed is not None and listed != quantity:
        return Skipped(photo_id, f"the file list says {listed}, the record {quantity}")
    count = counts.of(quantity)
    if count is None:
        return Skipped(photo_id, f"the count {quantity} is outside COUNTS")
    path = source / "bin-images" / f"{photo_id}.jpg"
    if not path.is_file():
        return Skipped(photo_id, "the photo is missing")
    if path.stat().st_size == 0:
        return Skipped(photo_id, "the photo is empty (0 bytes)")
    products = record.get("BIN_FCSKU_DATA")
    return Photo(photo_id, count, path, photo_id, frozenset(products) if isinstance(products, dict) else frozenset())


def _quantity(record: Any) -> int:
    quantity = record.get("EXPECTED_QUANTITY") if isinstance(record, dict) else None
    if quantity is None:
        raise ValueError("it has no EXPECTED_QUANTITY")
    if type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY:
        raise ValueError(f"EXPECTED_QUANTITY is {quantity!r}, not a whole number from 0 to {MAX_QUANTITY}")
    return quantity


def refuse_empty(source: Path, photos: list[Photo], skipped: list[Skipped], counts: Counts) -> None:
    """Raise DataError where one of ``counts`` is left without a photo."""
    found = Counter(photo.count for photo in photos)
    missing = [count for count in counts.values if not found[count]]
    if missing:
        example = f"; for example {skipped[0].id}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{source} has no usable photo with {' or '.join(map(str, missing))} objects "
            f"({len(photos)} usable, {len(skipped)} skipped{example}); add photos or narrow COUNTS"
        )


def _series(photo_id: str) -> tuple[int, int]:
    """Order of ids: padded to five digits, unpadded, others; the number within the series."""
    if not photo_id.isdecimal():
        return 2, 0
    number = int(photo_id)
    return (0 if photo_id == f"{number:05d}" else 1), number


def _with_bins(source: Path, photos: list[Photo]) -> Iterator[Photo]:
    """Give each photo the bin that it shows: labels.csv's where it names one, else linked neighbours."""
    groups = _bin_groups(_find(source, "labels.csv"))
    parent = {photo.id: photo.id for photo in photos}

    def root(photo_id: str) -> str:
        while parent[photo_id] != photo_id:
            parent[photo_id] = photo_id = parent[parent[photo_id]]
        return photo_id

    for first, second in _neighbours(photos):
        if _may_be_one_bin(first, second) and not (first.id in groups or second.id in groups):
            parent[root(second.id)] = root(first.id)
    for photo in photos:
        yield replace(photo, bin=groups.get(photo.id) or root(photo.id))


def _neighbours(photos: list[Photo]) -> Iterator[tuple[Photo, Photo]]:
    """Pairs of the sorted ``photos`` whose ids are at most NEIGHBOURS apart in one series."""
    for i, first in enumerate(photos):
        for second in photos[i + 1 : i + 1 + NEIGHBOURS]:
            (series, number), (other, next_number) = _series(first.id), _series(second.id)
            if series == other != 2 and next_number - number <= NEIGHBOURS:
                yield first, second


def _may_be_one_bin(first: Photo, second: Photo) -> bool:
    return not first.products or not second.products or bool(first.products & second.products)


def _bin_groups(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        rows: Iterable[dict[str, str]] = csv.DictReader(lines)
        try:
            return {row["id"]: row["bin_group"] for row in rows if row["bin_group"]}
        except KeyError as error:
            raise DataError(f"{path} has no column {error}; it needs id and bin_group") from error
