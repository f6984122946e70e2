"""Reading every photo of a source once: whether it can be decoded, the digest of its bytes, and its appearance."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import PhotoError
from trainer.data import duplicates
from trainer.data.abid import Photo, Skipped

SHARPNESS_PX = 224
"""Brightness and sharpness are measured at this size, so that photos of different sizes can be compared."""


@dataclass(frozen=True)
class Appearance:
    """The size of a photo in px, its mean grey (0-255), and the variance of the Laplacian of its grey image."""

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
        return Skipped(photo.id, str(error))
    return PhotoScan(
        photo=photo,
        digest=hashlib.sha256(data).hexdigest(),
        appearance=Appearance(*image.size, *photos_io.statistics(photos_io.squash(image, SHARPNESS_PX))),
        signature=duplicates.signature(image),
        pixels=photos_io.read(data, size_px) if size_px else None,
    )
