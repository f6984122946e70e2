"""Preparing a source of photos: scan it once, split it, and write the split table.

When a source is prepared again after photos or recounts were added, every old photo keeps its split.
"""

from dataclasses import asdict, replace
from pathlib import Path

from serve.errors import DataError
from trainer.data.abid import Photo
from trainer.data.counts import Counts, all_counts
from trainer.data.layouts import is_prepared
from trainer.data.prepared import (
    EXTRA,
    Prepared,
    Row,
    check_leaks,
    photo_root,
    read,
    table_fingerprint,
    write,
)
from trainer.data.recounts import is_recount
from trainer.data.scan import PhotoScan, SplitPhotos, find_extra, scan_and_split
from trainer.data.split import Placement, Split


def prepare(
    source: Path, out: Path, counts: Counts, seed: int = 0, extra: bool = False, recounts: Path | None = None
) -> Prepared:
    """Prepare ``source`` in ``out``, or update ``out`` with new photos of ``source``. Raises DataError.

    Old photos keep their split; a new one that connects bins of different splits is set aside. ``extra``: prepare the
    photos of other counts too; this is also done if ``out`` has them already. ``recounts``: the folder of recounts
    that are used besides; None for none, whatever ``out`` has.
    """
    before = {row.id: Placement(split=row.split, bin=row.bin) for row in _read_before(out, source, counts, seed)}
    recounts = recounts.resolve() if recounts else None
    split = scan_and_split(source, counts, seed, recounts=recounts, before=before)
    used = [scan for scan in split.scans if scan.photo.id in split.split_of]
    rows = [
        _row(scan, _root(scan.photo, source, recounts), split.split_of[scan.photo.id], split.twins.get(scan.photo.id))
        for scan in used
    ]
    check_leaks(rows)
    prepared = Prepared(
        folder=out,
        source=source.resolve(),
        counts=counts,
        seed=seed,
        fingerprint=table_fingerprint(rows),
        rows=tuple(rows),
        skipped=split.skipped,
        recounts=recounts,
    )
    if extra or is_prepared(out / EXTRA):
        write(_prepare_extra(prepared, split))
    write(prepared)
    return prepared


def _prepare_extra(main: Prepared, split: SplitPhotos) -> Prepared:
    usable, skipped = find_extra(main.source, main.counts, split)
    rows = [_row(scan, _root(scan.photo, main.source, main.recounts), Split.TRAIN) for scan in usable]
    # Bins are named anew over all photos, so the two tables are compared by photo bytes only.
    held_out = [replace(row, bin=f"{row.bin} of {main.counts}") for row in main.rows if row.split != Split.TRAIN]
    check_leaks((*rows, *held_out))
    return replace(
        main,
        folder=main.folder / EXTRA,
        counts=all_counts(main.counts),
        fingerprint=table_fingerprint(rows),
        rows=tuple(rows),
        skipped=skipped,
    )


def _read_before(out: Path, source: Path, counts: Counts, seed: int) -> tuple[Row, ...]:
    """The table of the previous version, empty if there is none."""
    if not is_prepared(out):
        return ()
    before = read(out)
    if (before.source, before.counts, before.seed) != (source.resolve(), counts, seed):
        raise DataError(
            f"{out} was prepared from {before.source} with counts {before.counts} and seed {before.seed}, not from "
            f"{source.resolve()} with counts {counts} and seed {seed}; prepare into another folder"
        )
    return before.rows


def _root(photo: Photo, source: Path, recounts: Path | None) -> Path:
    return recounts if recounts and is_recount(photo.id) else photo_root(source)


def _row(scan: PhotoScan, root: Path, split: Split, twin: str | None = None) -> Row:
    photo, stat = scan.photo, scan.photo.path.stat()
    return Row(
        id=photo.id,
        count=photo.count,
        bin=photo.bin,
        split=split,
        digest=scan.digest,
        path=str(photo.path.relative_to(root)),
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        twin=twin or "",
        **asdict(scan.appearance),
    )
