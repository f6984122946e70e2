"""Prepared datasets on disk: a split table and decoded photos, made by ``trainer/data/prepare.py``.

    OUT/prepared.json         fingerprint, counts, seed, source, recounts, and the photos that were left out
    OUT/versions/<fp>.csv     the split table of each version, named by its fingerprint: one Row per photo
    OUT/report.html           the inspection report (``trainer/data/inspection.py``)
    OUT/cache/<S>px-<key>.npy decoded photos, uint8 (N, S, S, 3), in the order of the table
    OUT/audits/<fp>.csv       the label audit of a version, most suspicious first (``trainer/data/audit.py``)
    OUT/extra/                photos with other counts, for training only, prepared in the same format

Photos are decoded when a size is first needed. The cache is memory-mapped, and valid only for the same photo bytes.
"""

import csv
import io
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import DataError
from serve.files import exclusive_lock, write_text
from serve.manifest import sha256
from trainer.data import dataset, tables
from trainer.data.abid import Photo, Skipped
from trainer.data.counts import Counts, parse
from trainer.data.dataset import Dataset, DataSpec, Pixels
from trainer.data.layouts import DESCRIPTION, is_prepared, read_source
from trainer.data.recounts import is_recount, number_of_recounts
from trainer.data.split import Split, split_by_bin, subset

FORMAT = 2
REPORT, AUDIT, EXTRA = "report.html", "audit.html", "extra"

Scalar = TypeVar("Scalar", bound=np.generic)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One photo in the split table.

    ``path``: relative to the source, or of a recount, to the folder of recounts; ``size``: bytes; ``twin``: the id of a
    photo with the same image, or empty; ``width``, ``height``: px; ``brightness``: mean grey, 0-255; ``sharpness``:
    variance of the Laplacian.
    """

    id: str
    count: int
    bin: str
    split: Split
    digest: str
    path: str
    size: int
    mtime_ns: int
    twin: str
    width: int
    height: int
    brightness: float
    sharpness: float


@dataclass(frozen=True, kw_only=True)
class _Description:
    """The content of ``prepared.json``; ``skipped``: photo id -> reason; ``recounts``: their folder, if any."""

    format: int
    fingerprint: str
    source: str
    counts: str
    seed: int
    skipped: dict[str, str]
    recounts: str | None = None


_ROW, _DESCRIPTION = TypeAdapter(Row), TypeAdapter(_Description)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prepared dataset. ``rows``: its split table; ``recounts``: the folder of its recounts, if it was given any."""

    folder: Path
    source: Path
    counts: Counts
    seed: int
    fingerprint: str
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    recounts: Path | None = None

    def photos(self) -> list[Photo]:
        """The photos in the order of the table."""
        return [Photo(row.id, row.count, self.path_of(row), row.bin) for row in self.rows]

    def path_of(self, row: Row) -> Path:
        """The file of a photo of the table."""
        return (self.recounts if self.recounts and is_recount(row.id) else self.root) / row.path

    @property
    def root(self) -> Path:
        """The folder that the paths of the table are relative to, but for recounts."""
        return photo_root(self.source)


def photo_root(source: Path) -> Path:
    """The folder of a source; for a CSV file, the folder that it is in."""
    return source.parent if source.is_file() else source


def counts_of(folder: Path) -> str | None:
    """The counts that ``folder`` was prepared for, in the notation of COUNTS; None if it is not prepared."""
    return str(read(folder).counts) if is_prepared(folder) else None


def load_any(spec: DataSpec, size_px: int, extra: bool = False) -> Dataset:
    """Load ``spec`` from a prepared dataset, or in memory if its source is not prepared.

    ``extra``: with the photos of other counts. Raises DataError.
    """
    if not is_prepared(spec.source):
        return dataset.load(spec, size_px, extra)
    prepared = read(spec.source)
    if spec.counts != prepared.counts:
        raise DataError(
            f"{spec.source} was prepared for the counts {prepared.counts}, not {spec.counts}; "
            "prepare the source again, into another folder"
        )
    _warn_of_other_recounts(spec, prepared)
    _refuse_stale(prepared)
    pixels = decoded(prepared, size_px)
    photos = prepared.photos()
    of_source = [photo for photo in photos if not is_recount(photo.id)]
    chosen = {photo.id for photo in subset(of_source, spec.limit, spec.seed)}
    split_of = {row.id: row.split for row in prepared.rows if row.id in chosen or is_recount(row.id)}
    digests = {row.id: row.digest for row in prepared.rows}
    suspects = read_suspects(prepared) if spec.drop_suspects else ()
    data = dataset.build(spec, size_px, photos, split_of, digests, pixels, prepared.skipped, suspects)
    data = replace(data, folder=prepared.folder)
    return _with_extra(data, prepared.folder / EXTRA, len(chosen) / len(of_source)) if extra else data


def _with_extra(data: Dataset, folder: Path, share: float) -> Dataset:
    """``data`` with the extra photos prepared in ``folder``: all recounts, and a ``share`` (0-1) of the others."""
    if not is_prepared(folder):
        raise DataError(
            f"{folder.parent} was prepared without the photos of other counts, which this recipe trains on; "
            "run scripts/prepare_data.py again with --extra"
        )
    prepared = read(folder)
    _refuse_stale(prepared)
    photos = prepared.photos()
    first = number_of_recounts(photos)
    photos = photos[: first + round(share * (len(photos) - first))]
    digests = {row.id: row.digest for row in prepared.rows}
    pixels = decoded(prepared, data.size_px) if photos else np.empty(0, np.uint8)
    return dataset.with_extra(data, photos, digests, pixels, prepared.skipped)


def _warn_of_other_recounts(spec: DataSpec, prepared: Prepared) -> None:
    if spec.recounts and (prepared.recounts is None or spec.recounts.resolve() != prepared.recounts):
        log.warning(
            "%s was prepared with %s, so those of %s are not used; run scripts/prepare_data.py again with --recounts",
            prepared.folder,
            f"the recounts of {prepared.recounts}" if prepared.recounts else "no recounts",
            spec.recounts,
        )


def _refuse_stale(prepared: Prepared) -> None:
    changed = [row.id for row in prepared.rows if not is_unchanged(prepared.path_of(row), row)]
    if changed:
        raise DataError(
            f"{len(changed)} photos of {prepared.source} were changed or removed since {prepared.folder} was prepared "
            f"(the first is {changed[0]}); prepare it again"
        )


def is_unchanged(path: Path, row: Row) -> bool:
    """Whether a photo is as it was; a copy with the same bytes is, whatever its modification time."""
    try:
        stat = path.stat()
        return stat.st_size == row.size and (stat.st_mtime_ns == row.mtime_ns or sha256(path) == row.digest)
    except OSError:
        return False


def splits_of(spec: DataSpec) -> tuple[list[Photo], dict[str, Split]]:
    """The photos of ``spec``, and photo id -> split, without decoding any photo.

    Duplicates are found only by decoding, so the splits of a source that is not prepared ignore them.
    """
    if is_prepared(spec.source):
        prepared = read(spec.source)
        return subset(prepared.photos(), spec.limit, spec.seed), {row.id: row.split for row in prepared.rows}
    photos = subset(read_source(spec.source, spec.counts).photos, spec.limit, spec.seed)
    return photos, split_by_bin(photos, spec.seed).split_of


def audit_table(prepared: Prepared) -> Path:
    """The path of this version's audit (``trainer/data/audit.py``)."""
    return prepared.folder / "audits" / f"{prepared.fingerprint[:12]}.csv"


def read_suspects(prepared: Prepared) -> tuple[str, ...]:
    """All photo ids in the order of the audit, the most suspicious first. Raises DataError if there is no audit."""
    if not audit_table(prepared).is_file():
        raise DataError(
            f"this version of {prepared.folder} was not audited; run scripts/audit_labels.py --data {prepared.folder}"
        )
    return tuple(row["id"] for row in tables.read_table(audit_table(prepared), ("id",)))


def read(folder: Path) -> Prepared:
    """Read a prepared dataset and check it for leaks. Raises DataError."""
    try:
        description = _DESCRIPTION.validate_json((folder / DESCRIPTION).read_bytes())
        if description.format != FORMAT:
            raise ValueError(f"its format is {description.format}, this version reads {FORMAT}")
        path = table_path(folder, description.fingerprint)
        with path.open(newline="", encoding="utf-8") as lines:
            rows = tuple(_ROW.validate_python(line) for line in csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{folder} is not a whole prepared dataset: {error!r}; prepare into a new folder") from error
    if table_fingerprint(rows) != description.fingerprint:
        raise DataError(f"{path} does not have the fingerprint of its name; restore it, or prepare into a new folder")
    check_leaks(rows)
    return Prepared(
        folder=folder,
        source=Path(description.source),
        counts=parse(description.counts),
        seed=description.seed,
        fingerprint=description.fingerprint,
        rows=rows,
        skipped=tuple(Skipped(photo_id, reason) for photo_id, reason in description.skipped.items()),
        recounts=Path(description.recounts) if description.recounts else None,
    )


def write(prepared: Prepared) -> None:
    """Write the table, then the description that names it, so that an interruption leaves the previous version."""
    table = table_path(prepared.folder, prepared.fingerprint)
    table.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in prepared.rows)
    write_text(table, text.getvalue())
    description = _Description(
        format=FORMAT,
        fingerprint=prepared.fingerprint,
        source=str(prepared.source),
        counts=str(prepared.counts),
        seed=prepared.seed,
        skipped={photo.id: photo.reason for photo in prepared.skipped},
        recounts=str(prepared.recounts) if prepared.recounts else None,
    )
    write_text(prepared.folder / DESCRIPTION, json.dumps(asdict(description), indent=1))


def table_path(folder: Path, fingerprint: str) -> Path:
    """The split table of a version in a prepared dataset."""
    return folder / "versions" / f"{fingerprint[:12]}.csv"


def table_fingerprint(rows: Sequence[Row]) -> str:
    """SHA-256 over ids, counts, bins, splits and photo bytes, in any order."""
    return dataset.digest(json.dumps([row.id, row.count, row.bin, row.split, row.digest]) for row in rows)


def check_leaks(rows: Sequence[Row]) -> None:
    """Raise DataError if the same bin or the same photo bytes are in two splits."""
    for column in ("bin", "digest"):
        first_rows: dict[str, Row] = {}
        for row in rows:
            value = getattr(row, column)
            first = first_rows.setdefault(value, row)
            if first.split != row.split:
                raise DataError(
                    f"photos {first.id} ({first.split}) and {row.id} ({row.split}) have the same {column} {value}; "
                    "remove one of them, or prepare into a new folder"
                )


def decoded(prepared: Prepared, size_px: int) -> Pixels:
    """The photos decoded at ``size_px``, uint8 ``(N, S, S, 3)``, memory-mapped; decoded now if not cached yet."""
    photos = prepared.photos()

    def fill(out: NDArray[np.uint8]) -> None:
        def decode(index: int) -> None:
            with tables.reading(photos[index].path):
                out[index] = photos_io.read(photos[index].path.read_bytes(), size_px)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(decode, range(len(photos)))
            for _ in tqdm(results, total=len(photos), desc="decoding photos", unit="photo"):
                pass

    return cached_array(prepared, f"{size_px}px", (size_px, size_px, 3), np.uint8, fill)


def cached_array(
    prepared: Prepared,
    name: str,
    shape: tuple[int, ...],
    dtype: type[Scalar],
    fill: Callable[[NDArray[Scalar]], None],
) -> NDArray[Scalar]:
    """An array ``(N, *shape)`` with a row per photo, memory-mapped.

    If the cache has no array ``name`` for these photo bytes, ``fill`` writes it, and arrays of that name for other
    bytes are removed.
    """
    key = dataset.digest(f"{number}:{row.digest}" for number, row in enumerate(prepared.rows))[:16]
    path = prepared.folder / "cache" / f"{name}-{key}.npy"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        with exclusive_lock(path.parent / "lock"):
            if not path.is_file():  # another process may have filled it in the meantime
                _fill(path, name, (len(prepared.rows), *shape), dtype, fill)
    with tables.reading(path):
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _fill(
    path: Path, name: str, shape: tuple[int, ...], dtype: type[Scalar], fill: Callable[[NDArray[Scalar]], None]
) -> None:
    """Replace the arrays of that ``name`` by one that ``fill`` writes; an interruption leaves no file at ``path``."""
    for stale in path.parent.glob(f"{name}-*"):
        stale.unlink()
    partial = path.with_suffix(".partial")
    out = _reserved(partial, dtype, shape)
    fill(out)
    out.flush()
    partial.replace(path)


def _reserved(
    path: Path, dtype: type[Scalar], shape: tuple[int, ...]
) -> "np.memmap[tuple[int, ...], np.dtype[Scalar]]":
    """A new array in a file whose space is reserved: a write to mapped memory beyond a full disk kills the process."""
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    except OSError as error:
        path.unlink(missing_ok=True)
        megabytes = math.prod(shape) * np.dtype(dtype).itemsize / 1e6
        raise DataError(
            f"{path.parent} has no room for {megabytes:.0f} MB of decoded photos ({error.strerror}); free some space"
        ) from error
