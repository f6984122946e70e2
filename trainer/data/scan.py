"""Reading every photo of a source once: whether it can be decoded, the digest of its bytes, and its appearance.

``find_extra`` reads the photos with counts outside the ones to tell apart: extra photos for training, never for
validation or test. A photo of 7 objects helps a model to count 5. Extra photos of a bin that is in validation or test
are left out.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import PhotoError
from trainer.data import duplicates, tables
from trainer.data.abid import Photo, Skipped, merge_bins
from trainer.data.counts import Counts, all_counts
from trainer.data.layouts import read_source
from trainer.data.split import Split

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
    merged = merge_bins(photos, duplicates.find_duplicates([signatures[photo.id] for photo in photos]))
    bin_of = {photo.id: photo.bin for photo in merged}
    held_out = {photo.bin for photo in merged if split_of.get(photo.id) in (Split.VALIDATION, Split.TEST)}
    usable = [scan for scan in extra if bin_of[scan.photo.id] not in held_out]
    left_out = tuple(
        Skipped(scan.photo.id, "has another count, and shows a bin of validation or test")
        for scan in extra
        if bin_of[scan.photo.id] in held_out
    )
    return usable, (*unreadable, *left_out)
