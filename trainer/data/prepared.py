"""Prepared datasets: a source turned once into a split table and decoded photos on disk.

    OUT/prepared.json         fingerprint, counts, seed, source, what was skipped or set aside
    OUT/versions/<fp>.csv     the split table of every version, by the start of its fingerprint:
                              one Row a photo
    OUT/report.html           the inspection report (``trainer/report.py``)
    OUT/cache/<S>px-<key>.npy decoded photos, uint8 (N, S, S, 3), in the order of the table
    OUT/audits/<fp>.csv       the label audit of a version, the most doubted first (``trainer/audit.py``)
    OUT/extra/                photos with other counts, all to learn from, prepared in the same way

Preparing again after photos were added leaves every old photo in its old split. The decoded
photos are made when a size is first asked for, memory-mapped, and valid for those photo bytes.
"""

import csv
import fcntl
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import DataError
from serve.files import write_text
from trainer.data import dataset, duplicates, split
from trainer.data.abid import Photo, Skipped
from trainer.data.counts import Counts, all_counts, parse
from trainer.data.dataset import Dataset, DataSpec, Pixels
from trainer.data.extra import find_extra
from trainer.data.layouts import read_source
from trainer.data.scan import Scanned, scan

FORMAT = 2
DESCRIPTION, REPORT, AUDIT, EXTRA = "prepared.json", "report.html", "audit.html", "extra"


@dataclass(frozen=True)
class Row:
    """One line of the split table.

    ``path``: relative to the source; ``size``: bytes; ``twin``: the photo that shows the same picture, if any;
    ``width``, ``height``: px; ``brightness``: mean grey, 0-255; ``sharpness``: variance of the Laplacian.
    """

    id: str
    count: int
    bin: str
    split: str
    digest: str
    path: str
    size: int
    mtime_ns: int
    twin: str
    width: int
    height: int
    brightness: float
    sharpness: float


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset as it lies on disk."""

    folder: Path
    source: Path
    counts: Counts
    seed: int
    fingerprint: str
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]

    def photos(self) -> list[Photo]:
        """The photos in the order of the table."""
        return [Photo(row.id, row.count, self.root / row.path, row.bin) for row in self.rows]

    @property
    def root(self) -> Path:
        """The folder that the paths of the table are relative to."""
        return _root(self.source)


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` is a prepared dataset."""
    return (folder / DESCRIPTION).is_file()


def counts_of(folder: Path) -> str | None:
    """The counts that ``folder`` was prepared for, as COUNTS writes them; None where it is not prepared."""
    return str(read(folder).counts) if is_prepared(folder) else None


def load_any(spec: DataSpec, size_px: int, extra: bool = False) -> Dataset:
    """The data of ``spec``: a prepared dataset from its table and cache, any other source in memory.

    ``extra``: with the photos of other counts.
    """
    if not is_prepared(spec.source):
        return dataset.load(spec, size_px, extra)
    prepared = read(spec.source)
    if spec.counts != prepared.counts:
        raise DataError(
            f"{spec.source} was prepared for the counts {prepared.counts}, not {spec.counts}; "
            "prepare the source again, into another folder"
        )
    _refuse_stale(prepared)
    pixels = decoded(prepared, size_px)
    photos = prepared.photos()
    chosen = {photo.id for photo in split.subset(photos, spec.limit, spec.seed)}
    of = {row.id: row.split for row in prepared.rows if row.id in chosen}
    digests = {row.id: row.digest for row in prepared.rows}
    suspects = read_suspects(prepared) if spec.drop_suspects else ()
    made = dataset.build(spec, size_px, photos, of, digests, pixels, prepared.skipped, suspects)
    made = replace(made, folder=prepared.folder)
    return _with_extra(made, len(chosen) / len(photos)) if extra else made


def _with_extra(made: Dataset, share: float) -> Dataset:
    """``made`` with a ``share`` (0-1) of the prepared photos of other counts."""
    assert made.folder
    if not is_prepared(made.folder / EXTRA):
        raise DataError(
            f"{made.folder} was prepared without the photos of other counts, from which this recipe learns too; "
            "run scripts/prepare_data.py again with --extra"
        )
    found = read(made.folder / EXTRA)
    _refuse_stale(found)
    photos = found.photos()[: round(share * len(found.rows))]
    digests = {row.id: row.digest for row in found.rows}
    return dataset.with_extra(made, photos, digests, decoded(found, made.size_px) if photos else (), found.skipped)


def read_suspects(prepared: Prepared) -> tuple[str, ...]:
    """The photos in the order of the audit, the most doubted first. Raises DataError where there is none."""
    try:
        with audit_table(prepared).open(newline="", encoding="utf-8") as lines:
            return tuple(row["id"] for row in csv.DictReader(lines))
    except FileNotFoundError as error:
        raise DataError(
            f"this version of {prepared.folder} was not audited; run scripts/audit_labels.py --data {prepared.folder}"
        ) from error


def audit_table(prepared: Prepared) -> Path:
    """Where the audit of this version lies (``trainer/audit.py``)."""
    return prepared.folder / "audits" / f"{prepared.fingerprint[:12]}.csv"


def splits_of(spec: DataSpec) -> tuple[list[Photo], dict[str, str]]:
    """The photos of ``spec`` and the split of each, without decoding any."""
    if is_prepared(spec.source):
        prepared = read(spec.source)
        photos = split.subset(prepared.photos(), spec.limit, spec.seed)
        return photos, {row.id: row.split for row in prepared.rows}
    photos = split.subset(read_source(spec.source, spec.counts).photos, spec.limit, spec.seed)
    return photos, split.split_by_bin(photos, spec.seed).of


def prepare(source: Path, out: Path, counts: Counts, seed: int = 0, extra: bool = False) -> Prepared:
    """Prepare ``source`` in ``out``, or bring ``out`` up to date with it. Raises DataError.

    Old photos keep their split; a new one that would join bins of different splits is set aside.
    ``extra``: prepare the photos of other counts too, as is done again where they are already.
    """
    before = _read_before(out, source, counts, seed)
    inventory = read_source(source, counts)
    scanned, unreadable = scan(inventory.photos)
    pairs = duplicates.find_duplicates([each.signature for each in scanned])
    photos = duplicates.merge_bins([each.photo for each in scanned], pairs)
    splits = split.split_by_bin(photos, seed, {row.id: row.split for row in before})
    _refuse_divided_pairs([(photos[a].id, photos[b].id) for a, b in pairs], splits.of)
    photos = _with_old_bins(photos, before)
    twins = {photos[b].id: photos[a].id for a, b in reversed(pairs)}
    rows = tuple(
        _row(source, each, photo, splits.of[photo.id], twins.get(photo.id, ""))
        for each, photo in zip(scanned, photos, strict=True)
        if photo.id in splits.of
    )
    check_leaks(rows)
    skipped = (*inventory.skipped, *unreadable, *splits.set_aside)
    made = Prepared(out, source.resolve(), counts, seed, _fingerprint(rows), rows, skipped)
    if extra or is_prepared(out / EXTRA):
        _write(_prepare_extra(made, scanned))
    _write(made)
    return made


def _prepare_extra(main: Prepared, scanned: Sequence[Scanned]) -> Prepared:
    of = {row.id: row.split for row in main.rows}
    usable, skipped = find_extra(main.source, main.counts, scanned, of)
    rows = tuple(_row(main.source, each, each.photo, "train", "") for each in usable)
    check_leaks(
        (*rows, *(replace(row, bin=f"{row.bin} of {main.counts}") for row in main.rows if row.split != "train"))
    )
    return Prepared(
        main.folder / EXTRA, main.source, all_counts(main.counts), main.seed, _fingerprint(rows), rows, skipped
    )


def _refuse_divided_pairs(pairs: Sequence[tuple[str, str]], of: Mapping[str, str]) -> None:
    for first, second in pairs:
        if first in of and second in of and of[first] != of[second]:
            raise DataError(
                f"photos {first} ({of[first]}) and {second} ({of[second]}) show the same picture, but the split is "
                "made; remove one of them, or prepare into a new folder"
            )


def check_leaks(rows: Sequence[Row]) -> None:
    """Refuse a table in which a bin, or the same photo bytes, are on two sides. Raises DataError."""
    for what in ("bin", "digest"):
        sides: dict[str, Row] = {}
        for row in rows:
            other = sides.setdefault(getattr(row, what), row)
            if other.split != row.split:
                raise DataError(
                    f"photos {other.id} ({other.split}) and {row.id} ({row.split}) have the same {what} "
                    f"{getattr(row, what)}; remove one of them, or prepare into a new folder"
                )


def read(folder: Path) -> Prepared:
    """Read a prepared dataset and check it for leaks. Raises DataError."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, this version reads {FORMAT}")
        with _table(folder, about["fingerprint"]).open(newline="", encoding="utf-8") as lines:
            rows = tuple(_parse(line) for line in csv.DictReader(lines))
        skipped = tuple(Skipped(*pair) for pair in about["skipped"].items())
        found = Prepared(
            folder, Path(about["source"]), parse(about["counts"]), about["seed"], about["fingerprint"], rows, skipped
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not a whole prepared dataset: {error!r}; prepare into a new folder") from error
    if _fingerprint(rows) != found.fingerprint:
        path = _table(folder, found.fingerprint)
        raise DataError(f"{path} was changed: its fingerprint is another; bring it back, or prepare into a new folder")
    check_leaks(rows)
    return found


def decoded(prepared: Prepared, size_px: int) -> Pixels:
    """The decoded photos at ``size_px``, uint8 ``(N, S, S, 3)``, memory-mapped; made when not there yet."""
    photos = prepared.photos()

    def fill(out: NDArray[Any]) -> None:
        def read_one(row: int) -> None:
            out[row] = photos_io.read(photos[row].path.read_bytes(), size_px)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(read_one, range(len(photos)))
            for _ in tqdm(done, total=len(photos), desc="decoding photos", unit="photo"):
                pass

    return cached_array(prepared, f"{size_px}px", (size_px, size_px, 3), np.uint8, fill)


def cached_array(
    prepared: Prepared, name: str, shape: tuple[int, ...], dtype: type, fill: Callable[[NDArray[Any]], None]
) -> NDArray[Any]:
    """An array ``(N, *shape)`` with a row for each photo, memory-mapped.

    ``fill`` writes it when there is none of that name for these photo bytes; one for other bytes goes.
    """
    key = dataset.digest(f"{number}:{row.digest}" for number, row in enumerate(prepared.rows))[:16]
    path = prepared.folder / "cache" / f"{name}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        with (path.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of two jobs that want the same one waits
            if not path.is_file():
                _fill(path, name, (len(prepared.rows), *shape), dtype, fill)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _fill(path: Path, name: str, shape: tuple[int, ...], dtype: type, fill: Callable[[NDArray[Any]], None]) -> None:
    for stale in path.parent.glob(f"{name}-*"):
        stale.unlink()
    partial = path.with_suffix(".partial")
    out = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
    fill(out)
    out.flush()
    partial.replace(path)


def _refuse_stale(prepared: Prepared) -> None:
    changed = [row.id for row in prepared.rows if _stat(prepared.root / row.path) != (row.size, row.mtime_ns)]
    if changed:
        raise DataError(
            f"{len(changed)} photos of {prepared.source} have changed or gone since {prepared.folder} was prepared "
            f"(the first is {changed[0]}); prepare it again"
        )


def _root(source: Path) -> Path:
    """The folder of a source: a CSV file's is the one that it lies in."""
    return source.parent if source.is_file() else source


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _read_before(out: Path, source: Path, counts: Counts, seed: int) -> tuple[Row, ...]:
    if not is_prepared(out):
        return ()
    before = read(out)
    now = (source.resolve(), counts, seed)
    if (before.source, before.counts, before.seed) != now:
        raise DataError(
            f"{out} was prepared from {before.source} with counts {before.counts} and seed {before.seed}; "
            f"now it is {now}: prepare into another folder"
        )
    return before.rows


def _with_old_bins(photos: Sequence[Photo], before: Sequence[Row]) -> list[Photo]:
    """Old photos keep the bin they were split by; new ones take that of the old ones they join."""
    old = {row.id: row.bin for row in before}
    joined = {photo.bin: old[photo.id] for photo in photos if photo.id in old}
    return [replace(photo, bin=old.get(photo.id) or joined.get(photo.bin, photo.bin)) for photo in photos]


def _row(source: Path, scanned: Scanned, photo: Photo, name: str, twin: str) -> Row:
    found = photo.path.stat()
    path = str(photo.path.relative_to(_root(source)))
    return Row(
        photo.id,
        photo.count,
        photo.bin,
        name,
        scanned.digest,
        path,
        found.st_size,
        found.st_mtime_ns,
        twin,
        **asdict(scanned.look),
    )


def _parse(line: Mapping[str, str]) -> Row:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float}
    return Row(
        **{
            field.name: kinds[field.type.__name__ if isinstance(field.type, type) else field.type](line[field.name])
            for field in fields(Row)
        }
    )


def _fingerprint(rows: Sequence[Row]) -> str:
    return dataset.digest(json.dumps([row.id, row.count, row.bin, row.split, row.digest]) for row in rows)


def _write(made: Prepared) -> None:
    """The table first, then the description that names it: a cut-off leaves the version before."""
    table = _table(made.folder, made.fingerprint)
    table.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in made.rows)
    write_text(table, text.getvalue())
    about = {
        "format": FORMAT,
        "fingerprint": made.fingerprint,
        "source": str(made.source),
        "counts": str(made.counts),
        "seed": made.seed,
        "skipped": {each.id: each.reason for each in made.skipped},
    }
    write_text(made.folder / DESCRIPTION, json.dumps(about, indent=1))


def _table(folder: Path, fingerprint: str) -> Path:
    return folder / "versions" / f"{fingerprint[:12]}.csv"
