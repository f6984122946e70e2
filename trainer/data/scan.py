"""Reading every photo of a source once: can it be decoded, what are its bytes, and how does it look."""

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

LOOK_PX = 224
"""Sharpness is measured at this size, so that photos of different sizes compare."""


@dataclass(frozen=True)
class Appearance:
    """How a photo looks: size in px, mean grey (0-255), and variance of the Laplacian of its grey picture."""

    width: int
    height: int
    brightness: float
    sharpness: float


@dataclass(frozen=True)
class Scanned:
    """One readable photo: SHA-256 of its bytes, its signature, and its pixels where a size was asked for."""

    photo: Photo
    digest: str
    look: Appearance
    signature: duplicates.Signature
    pixels: photos_io.Pixels | None


def scan(photos: Sequence[Photo], size_px: int | None = None) -> tuple[list[Scanned], tuple[Skipped, ...]]:
    """Read every photo, in parallel; what cannot be read is named."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes and resizes outside the GIL
        results = pool.map(partial(_scan_one, size_px=size_px), photos)
        found = list(tqdm(results, total=len(photos), desc="reading photos", unit="photo"))
    readable = [each for each in found if isinstance(each, Scanned)]
    return readable, tuple(each for each in found if isinstance(each, Skipped))


def _scan_one(photo: Photo, size_px: int | None) -> Scanned | Skipped:
    try:
        data = photo.path.read_bytes()
        image = photos_io.decode(data)
    except (PhotoError, OSError) as error:
        return Skipped(photo.id, str(error))
    pixels = photos_io.read(data, size_px) if size_px else None
    look = Appearance(*image.size, *photos_io.statistics(photos_io.squash(image, LOOK_PX)))
    return Scanned(photo, hashlib.sha256(data).hexdigest(), look, duplicates.signature(image), pixels)
