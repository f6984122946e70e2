"""From a source of photos to the three splits as arrays.

``scan`` reads every photo once: can it be decoded, what are its bytes and its picture. Photos with
the same picture become one bin, then ``trainer/split.py`` assigns the bins. ``load`` does all of
that in memory; ``trainer/prepared.py`` keeps it on disk, with the decoded photos.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import DataError, PhotoError
from trainer import corrections, duplicates, split
from trainer.abid import Photo, Skipped
from trainer.counts import Counts
from trainer.sources import read_source

LOOK_PX = 224
"""Sharpness is measured at this size, so that photos of different sizes compare."""


@dataclass(frozen=True)
class DataSpec:
    """Which photos, and how they are divided.

    ``limit`` takes a stratified subset. The others touch training photos alone: ``train_share``
    (0-1] keeps that share of them, ``drop_suspects`` [0-1) leaves that share out which the audit
    doubts most, ``relabel_file`` (CSV: id, count) gives some another count.
    """

    source: Path
    counts: Counts = field(default_factory=Counts)
    limit: int | None = None
    seed: int = 0
    train_share: float = 1.0
    drop_suspects: float = 0.0
    relabel_file: Path | None = None


class Pixels(Protocol):
    """Decoded photos, uint8 ``(N, S, S, 3)``: an array in memory, or a file mapped into it."""

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice or an index array, in memory."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a larger array, read when they are asked for: decoded photos, or features of them."""

    whole: Pixels
    index: NDArray[np.int64]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice or an index array, in memory."""
        return np.asarray(self.whole[self.index[rows]])


@dataclass(frozen=True)
class Part:
    """One split: photos, pixels uint8 ``(N, S, S, 3)`` and labels int64 ``(N,)``, indices into the classes."""

    photos: tuple[Photo, ...]
    pixels: Rows
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.photos)

    def halves(self, seed: int) -> tuple["Part", "Part"]:
        """Two parts of about half of the photos each, every bin wholly in one: bins alternate by a hash."""
        names = sorted({photo.bin for photo in self.photos}, key=partial(split.stable_hash, seed))
        first = set(names[::2])
        of_first = np.array([photo.bin in first for photo in self.photos], dtype=bool)
        return self.rows(np.flatnonzero(of_first)), self.rows(np.flatnonzero(~of_first))

    def rows(self, index: NDArray[np.int64]) -> "Part":
        """The photos at those positions."""
        return Part(
            tuple(self.photos[i] for i in index), Rows(self.pixels, index), self.labels[index], self.fingerprint
        )


@dataclass(frozen=True)
class Dataset:
    """The three splits, what was skipped, and a fingerprint of ids, labels, photo bytes and split.

    ``folder``: the prepared dataset that they come from, if it was prepared.
    """

    counts: Counts
    size_px: int
    train: Part
    validation: Part
    test: Part
    skipped: tuple[Skipped, ...]
    fingerprint: str
    folder: Path | None = None

    def summary(self) -> dict[str, Any]:
        """What a report shows: photos per split and count, bins, and what was skipped, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "fingerprint": self.fingerprint,
            "photos": {name: len(part) for name, part in parts.items()},
            "bins": {name: len({photo.bin for photo in part.photos}) for name, part in parts.items()},
            "per_count": {name: _per_count(part.photos) for name, part in parts.items()},
            "skipped": {each.id: each.reason for each in self.skipped},
        }


@dataclass(frozen=True)
class Look:
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
    look: Look
    signature: duplicates.Signature
    pixels: photos_io.Pixels | None


def load(spec: DataSpec, size_px: int) -> Dataset:
    """Read, decode and split the photos of ``spec`` at ``size_px``, in memory. Raises DataError."""
    if spec.drop_suspects:
        raise DataError(
            f"{spec.source} is not a prepared dataset, so its suspects are not known; run scripts/prepare_data.py "
            "and scripts/audit_labels.py, and train on what they prepared"
        )
    inventory = read_source(spec.source, spec.counts)
    chosen = split.subset(inventory.photos, spec.limit, spec.seed)
    scanned, unreadable = scan(chosen, size_px)
    pairs = duplicates.find_duplicates([each.signature for each in scanned])
    photos = duplicates.merge_bins([each.photo for each in scanned], pairs)
    splits = split.split_by_bin(photos, spec.seed)
    pixels = np.stack([each.pixels for each in scanned if each.pixels is not None])
    digests = {each.photo.id: each.digest for each in scanned}
    return build(spec, size_px, photos, splits.of, digests, pixels, (*inventory.skipped, *unreadable))


def build(
    spec: DataSpec, size_px: int, photos: Sequence[Photo], of: Mapping[str, str], digests: Mapping[str, str],
    pixels: Pixels, skipped: tuple[Skipped, ...], suspects: Sequence[str] = (),
) -> Dataset:  # fmt: skip
    """Put the parts together.

    ``pixels`` has a row for each of ``photos``, in their order; ``suspects``: ids, the most doubted first.
    """
    of, dropped = corrections.drop_suspects(spec.drop_suspects, suspects, of)
    skipped += dropped
    if spec.relabel_file:
        photos, of, dropped = corrections.relabel(spec.relabel_file, photos, of, spec.counts)
        skipped += dropped
    kept = split.keep_train_share(of, spec.train_share, spec.seed)
    parts = {}
    for name in split.SHARES:
        rows = [row for row, photo in enumerate(photos) if kept.get(photo.id) == name]
        part = tuple(photos[row] for row in rows)
        labels = np.array([spec.counts.values.index(photo.count) for photo in part], dtype=np.int64)
        parts[name] = Part(part, Rows(pixels, np.array(rows, dtype=np.int64)), labels, fingerprint(part, digests))
    _refuse_unlearnable(spec, parts["train"])
    whole = digest(f"{name}:{part.fingerprint}" for name, part in parts.items())
    return Dataset(
        spec.counts, size_px, parts["train"], parts["validation"], parts["test"], skipped=skipped, fingerprint=whole
    )


def _refuse_unlearnable(spec: DataSpec, train: Part) -> None:
    seen = set(train.labels.tolist())
    missing = [name for label, name in enumerate(spec.counts.names) if label not in seen]
    if missing:
        raise DataError(
            f"no training photo shows {' or '.join(missing)} objects; {len(train)} training photos of {spec.source} "
            "are left: use more of them, relabel or drop fewer, or give COUNTS without these counts"
        )


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
    pixels = photos_io.squash(image, size_px) if size_px else None
    return Scanned(photo, hashlib.sha256(data).hexdigest(), _look(image), duplicates.signature(image), pixels)


def _look(image: Image.Image) -> Look:
    grey = np.asarray(image.convert("L").resize((LOOK_PX, LOOK_PX), Image.Resampling.BILINEAR), dtype=np.float32)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return Look(*image.size, round(float(grey.mean()), 2), round(float(laplacian.var()), 2))


def fingerprint(photos: Iterable[Photo], digests: Mapping[str, str]) -> str:
    """SHA-256 over ids, counts and photo bytes, in whatever order."""
    return digest(json.dumps([photo.id, photo.count, digests[photo.id]]) for photo in photos)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines, in whatever order."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _per_count(photos: Sequence[Photo]) -> dict[str, int]:
    return {str(count): number for count, number in sorted(Counter(photo.count for photo in photos).items())}
