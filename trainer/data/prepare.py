"""Preparing a source of photos: scan it once, split it, and write the split table.

When a source is prepared again after photos were added, every old photo keeps its split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from serve.errors import DataError
from trainer.data.abid import Photo, merge_bins
from trainer.data.counts import Counts, all_counts
from trainer.data.duplicates import find_duplicates
from trainer.data.layouts import is_prepared, read_source
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
from trainer.data.scan import PhotoScan, find_extra, scan_photos
from trainer.data.split import Split, split_by_bin


def prepare(source: Path, out: Path, counts: Counts, seed: int = 0, extra: bool = False) -> Prepared:
    """Prepare ``source`` in ``out``, or update ``out`` with new photos of ``source``. Raises DataError.

    Old photos keep their split; a new one that connects bins of different splits is set aside. ``extra``: prepare the
    photos of other counts too; this is also done if ``out`` has them already.
    """
    before = _read_before(out, source, counts, seed)
    inventory = read_source(source, counts)
    scanned, unreadable = scan_photos(inventory.photos)
    pairs = find_duplicates([scan.signature for scan in scanned])
    photos = merge_bins([scan.photo for scan in scanned], pairs)
    splits = split_by_bin(photos, seed, {row.id: row.split for row in before})
    _refuse_divided_pairs([(photos[a].id, photos[b].id) for a, b in pairs], splits.split_of)
    photos = _with_old_bins(photos, before)
    twins = {photos[b].id: photos[a].id for a, b in reversed(pairs)}
    rows = tuple(
        _row(source, scan, photo, splits.split_of[photo.id], twins.get(photo.id, ""))
        for scan, photo in zip(scanned, photos, strict=True)
        if photo.id in splits.split_of
    )
    check_leaks(rows)
    prepared = Prepared(
        folder=out,
        source=source.resolve(),
        counts=counts,
        seed=seed,
        fingerprint=table_fingerprint(rows),
        rows=rows,
        skipped=(*inventory.skipped, *unreadable, *splits.set_aside),
    )
    if extra or is_prepared(out / EXTRA):
        write(_prepare_extra(prepared, scanned))
    write(prepared)
    return prepared


def _prepare_extra(main: Prepared, scanned: Sequence[PhotoScan]) -> Prepared:
    usable, skipped = find_extra(main.source, main.counts, scanned, {row.id: row.split for row in main.rows})
    rows = tuple(_row(main.source, scan, scan.photo, Split.TRAIN, "") for scan in usable)
    # Bins are named anew over all photos, so the two tables are compared by photo bytes only.
    held_out = [replace(row, bin=f"{row.bin} of {main.counts}") for row in main.rows if row.split != Split.TRAIN]
    check_leaks((*rows, *held_out))
    return Prepared(
        folder=main.folder / EXTRA,
        source=main.source,
        counts=all_counts(main.counts),
        seed=main.seed,
        fingerprint=table_fingerprint(rows),
        rows=rows,
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


def _refuse_divided_pairs(pairs: Sequence[tuple[str, str]], split_of: Mapping[str, Split]) -> None:
    for first, second in pairs:
        if first in split_of and second in split_of and split_of[first] != split_of[second]:
            raise DataError(
                f"photos {first} ({split_of[first]}) and {second} ({split_of[second]}) show the same image, but were "
                "split before; remove one of them, or prepare into a new folder"
            )


def _with_old_bins(photos: Sequence[Photo], before: Sequence[Row]) -> list[Photo]:
    """Give old photos the bin of the previous version, and new ones the bin of the old photos that they join."""
    old_bins = {row.id: row.bin for row in before}
    joined_bins = {photo.bin: old_bins[photo.id] for photo in photos if photo.id in old_bins}
    return [replace(photo, bin=old_bins.get(photo.id) or joined_bins.get(photo.bin, photo.bin)) for photo in photos]


def _row(source: Path, scan: PhotoScan, photo: Photo, split: Split, twin: str) -> Row:
    stat = photo.path.stat()
    return Row(
        id=photo.id,
        count=photo.count,
        bin=photo.bin,
        split=split,
        digest=scan.digest,
        path=str(photo.path.relative_to(photo_root(source))),
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        twin=twin,
        **asdict(scan.appearance),
    )
