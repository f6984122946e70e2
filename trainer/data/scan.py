"""Reading every photo of a source once: whether it can be decoded, the digest of its bytes, and its appearance.

``scan_and_split`` reads the photos of a source and their recounts, and splits them.

``find_extra`` reads the photos with counts outside the ones to tell apart: extra photos for training, never for
validation or test. A photo of 7 objects helps a model to count 5. Extra photos of a bin that is in validation or test
are left out.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import PhotoError
from trainer.data import duplicates, tables
from trainer.data.abid import Inventory, Photo, Skipped, merge_bins
from trainer.data.counts import Counts, all_counts
from trainer.data.layouts import read_source
from trainer.data.recounts import contradictory, is_recount, overruled, read_recounts
from trainer.data.split import PlacedPhotos, Placement, Split, place, subset

SHARPNESS_PX = 224
"""Brightness and sharpness are measured at this size, so that photos of different sizes can be compared."""


@dataclass(frozen=True)
class Appearance:
    """The size of a photo in px, its mean grey (0-255), and the variance of the Laplacian of its grey image.

    The size is that of the decoded photo; a JPEG of more than MAX_PIXELS is decoded at a smaller size.
    """

    width: int
    height: int
    brightness: float
    sharpness: float


@dataclass(frozen=True, kw_only=True)
class PhotoScan:
    """One readable photo.

    ``digest``: SHA-256 of its bytes; ``pixels``: uint8 ``(S, S, 3)``, None if no size was requested.
    """

    photo: Photo
    digest: str
    appearance: Appearance
    signature: duplicates.Signature
    pixels: photos_io.Pixels | None


def scan_photos(photos: Sequence[Photo], size_px: int | None = None) -> tuple[list[PhotoScan], tuple[Skipped, ...]]:
    """Read all photos in parallel; returns the readable and the unreadable ones, both in the order of ``photos``."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes and resizes outside the GIL
        results = pool.map(partial(_scan_photo, size_px=size_px), photos)
        scans = list(tqdm(results, total=len(photos), desc="reading photos", unit="photo"))
    readable = [scan for scan in scans if isinstance(scan, PhotoScan)]
    return readable, tuple(scan for scan in scans if isinstance(scan, Skipped))


def _scan_photo(photo: Photo, size_px: int | None) -> PhotoScan | Skipped:
    try:
        data = photo.path.read_bytes()
        image = photos_io.decode(data)
    except (PhotoError, OSError) as error:
        return Skipped(photo.id, tables.reason(error))
    return PhotoScan(
        photo=photo,
        digest=hashlib.sha256(data).hexdigest(),
        appearance=Appearance(*image.size, *photos_io.statistics(photos_io.squash(image, SHARPNESS_PX))),
        signature=duplicates.signature(image),
        pixels=photos_io.read(data, size_px) if size_px else None,
    )


@dataclass(frozen=True, kw_only=True)
class SplitPhotos:
    """The readable photos of a source and of its recounts, with their bins.

    ``scans``: photos with the counts to tell apart, those of the source first; ``outside``: recounts with other counts;
    ``split_of``: photo id -> split, of the photos that are used; ``twins``: photo id -> id of a photo with the same
    image; ``usable``: how many photos the source has without a limit.
    """

    scans: tuple[PhotoScan, ...]
    outside: tuple[PhotoScan, ...]
    split_of: dict[str, Split]
    twins: dict[str, str]
    skipped: tuple[Skipped, ...]
    usable: int

    @property
    def photos(self) -> tuple[Photo, ...]:
        """The photos of ``scans``."""
        return tuple(scan.photo for scan in self.scans)


def scan_and_split(
    source: Path,
    counts: Counts,
    seed: int,
    *,
    recounts: Path | None = None,
    limit: int | None = None,
    size_px: int | None = None,
    before: Mapping[str, Placement] | None = None,
) -> SplitPhotos:
    """Read the photos of ``source`` with ``counts``, at most ``limit``, and all recounts, and split them by bin.

    ``before``: photo id -> its place in the previous version. Raises DataError.
    """
    inventory = read_source(source, counts)
    recounted = read_recounts(recounts, all_counts(counts), {photo.id: photo.bin for photo in inventory.photos})
    scans, unreadable = scan_photos([*subset(inventory.photos, limit, seed), *recounted.photos], size_px)
    photos, pairs = [scan.photo for scan in scans], duplicates.find_duplicates([scan.signature for scan in scans])
    disputed = contradictory(photos, pairs)
    undisputed = _rows_without(photos, disputed)
    rows = [row for row in undisputed if counts.count_of(photos[row].count) is not None]
    outside = [scans[row] for row in sorted({*undisputed} - {*rows})]
    followers = {photo.id for photo in recounted.photos}
    placed = place([photos[row] for row in rows], duplicates.pairs_among(rows, pairs), seed, before, followers)
    replaced = overruled(photos, pairs, placed.splits.split_of)
    return SplitPhotos(
        scans=tuple(replace(scans[row], photo=photo) for row, photo in zip(rows, placed.photos, strict=True)),
        outside=tuple(outside),
        split_of={photo.id: placed.splits.split_of[photo.id] for photo in _used(placed, replaced)},
        twins={photos[b].id: photos[a].id for a, b in reversed(pairs)},
        skipped=(
            *recounted.skipped,
            *(Skipped(scan.photo.id, f"the count {scan.photo.count} is outside COUNTS") for scan in outside),
            *(*disputed, *replaced, *placed.splits.set_aside),
            *(*inventory.skipped, *unreadable),
        ),
        usable=len(inventory.photos),
    )


def _rows_without(photos: Sequence[Photo], skipped: Sequence[Skipped]) -> list[int]:
    ids = {photo.id for photo in skipped}
    return [row for row, photo in enumerate(photos) if photo.id not in ids]


def _used(placed: PlacedPhotos, replaced: Sequence[Skipped]) -> list[Photo]:
    rows = _rows_without(placed.photos, (*replaced, *placed.splits.set_aside))
    return [placed.photos[row] for row in rows]


def find_extra(
    source: Path, counts: Counts, split: SplitPhotos, size_px: int | None = None
) -> tuple[list[PhotoScan], tuple[Skipped, ...]]:
    """The usable photos of ``source`` and of its recounts with counts outside ``counts``, and the skipped ones.

    ``split``: the photos with ``counts``. Recounts come first. Bins are determined over all photos.
    """
    inventory = read_source(source, all_counts(counts), require_each=False)
    other_counts, unreadable = scan_photos(
        [photo for photo in inventory.photos if counts.count_of(photo.count) is None], size_px
    )
    extra = (*split.outside, *other_counts)
    signatures = {scan.photo.id: scan.signature for scan in (*split.scans, *extra)}
    photos = [photo for photo in (*inventory.photos, *_recounts(inventory, split)) if photo.id in signatures]
    pairs = duplicates.find_duplicates([signatures[photo.id] for photo in photos])
    merged = merge_bins(photos, pairs)
    bin_of = {photo.id: photo.bin for photo in merged}
    held_out = {photo.bin for photo in merged if split.split_of.get(photo.id) in (Split.VALIDATION, Split.TEST)}
    judging = tuple(
        Skipped(scan.photo.id, "has another count, and shows a bin of validation or test")
        for scan in extra
        if bin_of[scan.photo.id] in held_out
    )
    replaced = overruled(photos, pairs, {scan.photo.id: Split.TRAIN for scan in other_counts})
    unused = {skipped.id for skipped in (*judging, *replaced)}
    usable = [scan for scan in extra if scan.photo.id not in unused]
    return usable, (*unreadable, *judging, *(skipped for skipped in replaced if bin_of[skipped.id] not in held_out))


def _recounts(inventory: Inventory, split: SplitPhotos) -> list[Photo]:
    """The recounts of ``split``, with the bins that ``inventory``, which has more photos, gives them."""
    bin_of = {photo.id: photo.bin for photo in inventory.photos}
    photos = [scan.photo for scan in (*split.scans, *split.outside) if is_recount(scan.photo.id)]
    return [replace(photo, bin=bin_of.get(photo.bin, photo.bin)) for photo in photos]
