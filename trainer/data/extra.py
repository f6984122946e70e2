"""Photos with counts outside the ones to tell apart: extra photos for training, never for validation or test.

A photo of 7 objects helps a model to count 5. Extra photos of a bin that is in validation or test are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.data.abid import Skipped, merge_bins
from trainer.data.counts import Counts, all_counts
from trainer.data.duplicates import find_duplicates
from trainer.data.layouts import read_source
from trainer.data.scan import PhotoScan, scan_photos
from trainer.data.split import Split


def find_extra(
    source: Path,
    counts: Counts,
    scanned: Sequence[PhotoScan],
    split_of: Mapping[str, Split],
    size_px: int | None = None,
) -> tuple[list[PhotoScan], tuple[Skipped, ...]]:
    """The usable photos of ``source`` with counts outside ``counts``, and the skipped ones.

    ``scanned``: the photos with ``counts``, and ``split_of``: photo id -> split. Bins are determined over all photos.
    """
    inventory = read_source(source, all_counts(counts), require_each=False)
    outside = [photo for photo in inventory.photos if counts.count_of(photo.count) is None]
    extra, unreadable = scan_photos(outside, size_px)
    signatures = {scan.photo.id: scan.signature for scan in (*scanned, *extra)}
    photos = [photo for photo in inventory.photos if photo.id in signatures]
    merged = merge_bins(photos, find_duplicates([signatures[photo.id] for photo in photos]))
    bin_of = {photo.id: photo.bin for photo in merged}
    held_out = {photo.bin for photo in merged if split_of.get(photo.id) in (Split.VALIDATION, Split.TEST)}
    usable = [scan for scan in extra if bin_of[scan.photo.id] not in held_out]
    left_out = tuple(
        Skipped(scan.photo.id, "has another count, and shows a bin of validation or test")
        for scan in extra
        if bin_of[scan.photo.id] in held_out
    )
    return usable, (*unreadable, *left_out)
