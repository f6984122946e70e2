"""The format of the Amazon Bin Image Dataset: bin photos and their records in a folder.

    SOURCE/bin-images/<id>.jpg     the photo
    SOURCE/metadata/<id>.json      its record: EXPECTED_QUANTITY, BIN_FCSKU_DATA
    file_list.json                 optional: count -> ["data/metadata/<id>.json", ...]
    labels.csv                     optional, columns id and bin_group: which photos show the same bin

The optional files may be in SOURCE or in its parent. Ids are strings: ``1`` and ``00001`` are two photos.
Layout: https://registry.opendata.aws/amazon-bin-imagery/
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError

from serve.errors import DataError
from trainer.data import tables
from trainer.data.counts import Counts

log = logging.getLogger(__name__)

LICENCE = (
    "Amazon Bin Image Dataset, Amazon.com, Inc., CC BY-NC-SA 3.0 US: "
    "a model made from it, golden photos included, is for non-commercial use"
)
MAX_QUANTITY = 10_000
FILE_LIST, LABELS = "file_list.json", "labels.csv"
OPTIONAL_FILES = (FILE_LIST, LABELS)
NEIGHBOURS = 2
"""Two photos whose ids are at most this far apart may show the same bin before and after a pick."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Photo:
    """One usable photo: its recorded count, and the bin that it shows. ``products``: ASINs, where they are recorded.

    ``train_only``: the photo may not enter validation or test (``trainer/data/recounts.py``).
    """

    id: str
    count: int
    path: Path
    bin: str
    products: frozenset[str] = field(default=frozenset(), kw_only=True)
    train_only: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Skipped:
    """One photo that is left out, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Inventory:
    """The usable photos of a source, sorted by id, and those that were left out."""

    source: Path
    photos: tuple[Photo, ...]
    skipped: tuple[Skipped, ...]


def read_inventory(source: Path, counts: Counts, require_each: bool = True) -> Inventory:
    """Read the records of ``source`` and select the photos whose count is one of ``counts``.

    Raises DataError if a folder is missing, if the file list is damaged, or, with ``require_each``, if one of
    ``counts`` has no usable photo.
    """
    for folder in ("bin-images", "metadata"):
        if not (source / folder).is_dir():
            raise DataError(f"{source} has no folder {folder}/; give the folder that holds bin-images/ and metadata/")
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    for photo_id, listed_count in _ids(source, counts):
        photo = read_photo(source, photo_id, counts, listed_count)
        if isinstance(photo, Photo):
            photos.append(photo)
        else:
            skipped.append(photo)
    if require_each:
        check_each_count(source, photos, skipped, counts)
    photos.sort(key=lambda photo: (_series(photo.id), photo.id))
    return Inventory(source, tuple(_with_bins(source, photos)), tuple(skipped))


def _find(source: Path, name: str) -> Path | None:
    return next((folder / name for folder in (source, source.parent) if (folder / name).is_file()), None)


def _ids(source: Path, counts: Counts) -> Iterator[tuple[str, int | None]]:
    """The ids to read, each with its count in the file list.

    For a count that the list has, only the listed ids are read. If the list lacks one of ``counts``, all unlisted
    records are read too, with None for the count.
    """
    listed: dict[str, int] = {}
    path = _find(source, FILE_LIST)
    ids_by_count = read_file_list(path) if path else {}
    for count, ids in ids_by_count.items():
        for photo_id in ids:
            if listed.setdefault(photo_id, count) != count:
                raise DataError(
                    f"{path} lists {photo_id} under {listed[photo_id]} and under {count}; remove one of the two"
                )
    yield from ((photo_id, count) for photo_id, count in listed.items() if counts.count_of(count) is not None)
    if not set(counts.values) <= ids_by_count.keys():
        names = sorted(path.name for path in (source / "metadata").iterdir() if path.name.endswith(".json"))
        yield from ((name[:-5], None) for name in names if name[:-5] not in listed)


def read_file_list(path: Path) -> dict[int, list[str]]:
    """Read a file list: count -> ids. Raises DataError."""
    content = tables.read_json(path)
    try:
        return _FILE_LIST.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(
            f"{path} is not a file list ({'.'.join(map(str, first['loc']))}: {first['msg']}); it must look like "
            '{"1": ["data/metadata/<id>.json", ...]}'
        ) from error


def _id_of(entry: str) -> str:
    return PurePosixPath(entry.replace("\\", "/")).stem


_FILE_LIST = TypeAdapter(dict[int, list[Annotated[str, AfterValidator(_id_of)]]])


def select_ids(ids_by_count: Mapping[int, list[str]], counts: Counts | None, limit: int | None) -> dict[int, list[str]]:
    """The ids of ``counts``, or of all counts; with ``limit`` that many in all, in the same proportions.

    Of each count, the first ids of the list are taken. Raises DataError if no id is left.
    """
    selected = {
        count: ids
        for count, ids in sorted(ids_by_count.items())
        if counts is None or counts.count_of(count) is not None
    }
    total = sum(map(len, selected.values()))
    if not total:
        raise DataError(
            f"the file list has no photo with {counts or 'any'} objects; its counts are {sorted(ids_by_count)}"
        )
    if limit is None or limit >= total:
        return selected
    return {count: ids[: round(limit * len(ids) / total)] for count, ids in selected.items()}


def file_list_json(ids_by_count: Mapping[int, list[str]]) -> str:
    """The text of a file list."""
    paths = {str(count): [f"data/metadata/{photo_id}.json" for photo_id in ids] for count, ids in ids_by_count.items()}
    return json.dumps(paths, indent=1)


def read_photo(source: Path, photo_id: str, counts: Counts, listed_count: int | None = None) -> Photo | Skipped:
    """The photo of that id and the count in its record; ``listed_count``: in the file list. The photo is not opened."""
    if not _ID.fullmatch(photo_id):
        reason = "the id has characters other than letters, digits, - and _, or more than 64"
        return Skipped(tables.printable(photo_id), reason)
    try:
        record = json.loads((source / "metadata" / f"{photo_id}.json").read_bytes())
        quantity = _quantity(record)
    except FileNotFoundError:
        return Skipped(photo_id, "the record is missing")
    except (ValueError, OSError, RecursionError) as error:
        return Skipped(photo_id, f"the record cannot be read: {tables.reason(error)}")
    if listed_count is not None and listed_count != quantity:
        return Skipped(photo_id, f"the file list says {listed_count}, the record {quantity}")
    count = counts.count_of(quantity)
    if count is None:
        return Skipped(photo_id, f"the count {quantity} is outside COUNTS")
    path = source / "bin-images" / f"{photo_id}.jpg"
    problem = photo_problem(path)
    if problem:
        return Skipped(photo_id, problem)
    products = record.get("BIN_FCSKU_DATA")
    return Photo(photo_id, count, path, photo_id, products=frozenset(products if isinstance(products, dict) else ()))


def is_usable(source: Path, photo_id: str, counts: Counts) -> bool:
    """Whether ``source`` has that photo and its record, with one of ``counts``."""
    return isinstance(read_photo(source, photo_id, counts), Photo)


def photo_problem(path: Path) -> str | None:
    """Why a photo cannot be opened, or None. It is not read."""
    try:
        if not path.is_file():
            return "the photo is missing"
        return None if path.stat().st_size else "the photo is empty (0 bytes)"
    except OSError as error:
        return f"the photo cannot be read: {tables.reason(error)}"


def _quantity(record: object) -> int:
    quantity = record.get("EXPECTED_QUANTITY") if isinstance(record, dict) else None
    if quantity is None:
        raise ValueError("it has no EXPECTED_QUANTITY")
    if isinstance(quantity, float) and quantity.is_integer():
        quantity = int(quantity)
    if type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY:
        raise ValueError(f"EXPECTED_QUANTITY is {quantity!r}, not a whole number from 0 to {MAX_QUANTITY}")
    return quantity


def check_each_count(source: Path, photos: Sequence[Photo], skipped: Sequence[Skipped], counts: Counts) -> None:
    """Raise DataError if one of ``counts`` has no photo."""
    available = {photo.count for photo in photos}
    missing = [count for count in counts.values if count not in available]
    if missing:
        example = f"; for example {skipped[0].id}: {skipped[0].reason}" if skipped else ""
        raise DataError(
            f"{source} has no usable photo with {' or '.join(map(str, missing))} objects "
            f"({len(photos)} usable, {len(skipped)} skipped{example}); add photos or narrow COUNTS"
        )


def _series(photo_id: str) -> tuple[int, int]:
    """The sort key of an id: its series (0 padded to five digits, 1 unpadded, 2 no number) and its number."""
    if not photo_id.isdecimal():
        return 2, 0
    number = int(photo_id)
    return (0 if photo_id == f"{number:05d}" else 1), number


def _with_bins(source: Path, photos: list[Photo]) -> Iterator[Photo]:
    """Give each photo its bin in labels.csv; the others share one with their neighbours if the products allow it."""
    groups = _bin_groups(_find(source, LABELS))
    if groups and photos and groups.keys().isdisjoint(photo.id for photo in photos):
        log.warning(
            "%s names none of the %d photos; its first id is %r, theirs is %r (spreadsheets drop leading zeros)",
            LABELS,
            len(photos),
            next(iter(groups)),
            photos[0].id,
        )
    pairs = [
        (first, second)
        for first, second in _neighbours(photos)
        if _may_be_one_bin(photos[first], photos[second])
        and not (photos[first].id in groups or photos[second].id in groups)
    ]
    for photo in merge_bins(photos, pairs):
        yield replace(photo, bin=groups.get(photo.id) or photo.bin)


def merge_bins(photos: Sequence[Photo], pairs: Iterable[tuple[int, int]]) -> list[Photo]:
    """Give all photos of two bins one bin if a pair of positions in ``photos`` connects them.

    The bins get their names in the order of ``pairs``, always from the first of a pair. The split depends on these
    names, so ``scipy.cluster.hierarchy.DisjointSet``, which chooses others, would split existing datasets anew.
    """
    parent = {photo.bin: photo.bin for photo in photos}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for first, second in pairs:
        parent[root(photos[second].bin)] = root(photos[first].bin)
    return [replace(photo, bin=root(photo.bin)) for photo in photos]


def _neighbours(photos: Sequence[Photo]) -> Iterator[tuple[int, int]]:
    """Pairs of positions in the sorted ``photos`` whose ids are at most NEIGHBOURS apart in the same series."""
    keys = [_series(photo.id) for photo in photos]
    for first, (series, number) in enumerate(keys):
        for second, (next_series, next_number) in enumerate(keys[first + 1 : first + 1 + NEIGHBOURS], first + 1):
            if series == next_series != 2 and next_number - number <= NEIGHBOURS:
                yield first, second


def _may_be_one_bin(first: Photo, second: Photo) -> bool:
    return not first.products or not second.products or bool(first.products & second.products)


def _bin_groups(path: Path | None) -> dict[str, str]:
    rows = tables.read_table(path, ("id", "bin_group")) if path else []
    return {row["id"].strip(): row["bin_group"].strip() for row in rows if row["bin_group"].strip()}
