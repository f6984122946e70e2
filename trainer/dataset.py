"""From an inventory of photos to arrays: a stratified subset, splits by bin, decoded pixels.

Every photo is in exactly one of train, validation and test, and so is every bin: photos of one
bin are near copies of each other, and a model that has seen one has seen the answer.
"""

import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve import photo as photos_io
from serve.errors import DataError, PhotoError
from trainer.abid import Photo, Skipped, read_inventory

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


@dataclass(frozen=True)
class DataSpec:
    """Which photos, and how they are divided.

    ``limit`` takes a stratified subset; ``train_share`` (0-1] keeps that share of the training
    photos and leaves validation and test as they are.
    """

    source: Path
    counts: tuple[int, ...] = (1, 2, 3, 4, 5)
    limit: int | None = None
    seed: int = 0
    train_share: float = 1.0


@dataclass(frozen=True)
class Part:
    """One split: photos, pixels uint8 ``(N, S, S, 3)`` and labels int64 ``(N,)``, indices into the classes."""

    photos: tuple[Photo, ...]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True)
class Dataset:
    """The three splits, what was skipped, and a fingerprint of ids, labels, photo bytes and split."""

    classes: tuple[int, ...]
    size_px: int
    train: Part
    validation: Part
    test: Part
    skipped: tuple[Skipped, ...]
    fingerprint: str

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
class _Decoded:
    photo: Photo
    digest: str
    pixels: photos_io.Pixels


def load(spec: DataSpec, size_px: int) -> Dataset:
    """Read, decode and split the photos of ``spec`` at ``size_px``. Raises DataError."""
    inventory = read_inventory(spec.source, spec.counts)
    chosen = subset(inventory.photos, spec.limit, spec.seed)
    decoded, unreadable = _decode_all(chosen, size_px)
    splits = split_by_bin([each.photo for each in decoded], spec.seed)
    splits = keep_train_share(splits, spec.train_share, spec.seed)
    parts = {name: _part([each for each in decoded if splits.get(each.photo.id) == name], spec.counts)
             for name in SHARES}  # fmt: skip
    skipped = tuple(each for each in inventory.skipped) + unreadable
    return Dataset(spec.counts, size_px, **parts, skipped=skipped, fingerprint=_digest(
        f"{name}:{part.fingerprint}" for name, part in parts.items()))  # fmt: skip


def subset(photos: Sequence[Photo], limit: int | None, seed: int) -> list[Photo]:
    """At most ``limit`` photos with the counts in the same proportions, chosen by a hash of the id."""
    if limit is None or limit >= len(photos):
        return list(photos)
    if limit < 1:
        raise DataError(f"LIMIT is {limit}; give a number of photos above 0, or leave it away for all")
    by_count = _by_count(photos, seed)
    wanted = _shares_of(limit, {count: len(group) for count, group in by_count.items()})
    kept = {photo.id for count, group in by_count.items() for photo in group[: wanted[count]]}
    return [photo for photo in photos if photo.id in kept]


def split_by_bin(photos: Sequence[Photo], seed: int) -> dict[str, str]:
    """Assign every photo id to ``train``, ``validation`` or ``test``, each bin wholly to one.

    Greedy: bins, the largest first, go where the photos of their counts are most lacking.
    Deterministic in the photos and the seed. Raises DataError where a split lacks a count.
    """
    bins: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        bins[photo.bin].append(photo)
    totals = Counter(photo.count for photo in photos)
    lacking = {name: {count: share * total for count, total in totals.items()} for name, share in SHARES.items()}
    splits: dict[str, str] = {}
    for name in sorted(bins, key=lambda name: (-len(bins[name]), _hash(seed, name))):
        counts = Counter(photo.count for photo in bins[name])
        place = max(SHARES, key=lambda split: _need(lacking[split], counts, SHARES[split], totals))
        for count, number in counts.items():
            lacking[place][count] -= number
        splits.update({photo.id: place for photo in bins[name]})
    _refuse_missing(photos, splits)
    return splits


def _need(lacking: dict[int, float], counts: Counter[int], share: float, totals: Counter[int]) -> float:
    return sum(number * lacking[count] / (share * totals[count]) for count, number in counts.items())


def _refuse_missing(photos: Sequence[Photo], splits: dict[str, str]) -> None:
    found = Counter((splits[photo.id], photo.count) for photo in photos)
    for count in {photo.count for photo in photos}:
        for name in SHARES:
            if not found[name, count]:
                raise DataError(
                    f"the {name} split has no photo with {count} objects, of {len(photos)} photos in all; "
                    "add photos of that count, raise LIMIT or narrow COUNTS"
                )


def keep_train_share(splits: dict[str, str], share: float, seed: int) -> dict[str, str]:
    """Drop all but ``share`` of the training photos, chosen by a hash of the id; the rest stays."""
    if not 0 < share <= 1:
        raise DataError(f"the share of training photos is {share}; give a number above 0 and at most 1")
    train = sorted((i for i, name in splits.items() if name == "train"), key=partial(_hash, seed))
    dropped = set(train[math.ceil(share * len(train)) :])
    return {photo_id: name for photo_id, name in splits.items() if photo_id not in dropped}


def _decode_all(photos: Sequence[Photo], size_px: int) -> tuple[list[_Decoded], tuple[Skipped, ...]]:
    decoded: list[_Decoded] = []
    unreadable: list[Skipped] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes and resizes outside the GIL
        results = pool.map(partial(_decode, size_px=size_px), photos)
        for result in tqdm(results, total=len(photos), desc="reading photos", unit="photo"):
            if isinstance(result, Skipped):
                unreadable.append(result)
            else:
                decoded.append(result)
    return decoded, tuple(unreadable)


def _decode(photo: Photo, size_px: int) -> _Decoded | Skipped:
    try:
        data = photo.path.read_bytes()
        return _Decoded(photo, hashlib.sha256(data).hexdigest(), photos_io.read(data, size_px))
    except (PhotoError, OSError) as error:
        return Skipped(photo.id, str(error))


def _part(decoded: list[_Decoded], classes: tuple[int, ...]) -> Part:
    photos = tuple(each.photo for each in decoded)
    labels = np.array([classes.index(photo.count) for photo in photos], dtype=np.int64)
    lines = (json.dumps([each.photo.id, each.photo.count, each.digest]) for each in decoded)
    return Part(photos, np.stack([each.pixels for each in decoded]), labels, _digest(lines))


def _per_count(photos: Sequence[Photo]) -> dict[str, int]:
    return {str(count): number for count, number in sorted(Counter(photo.count for photo in photos).items())}


def _by_count(photos: Sequence[Photo], seed: int) -> dict[int, list[Photo]]:
    by_count: dict[int, list[Photo]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: _hash(seed, photo.id)):
        by_count[photo.count].append(photo)
    return by_count


def _shares_of(limit: int, sizes: dict[int, int]) -> dict[int, int]:
    """``limit`` divided like ``sizes``, by largest remainder."""
    exact = {count: limit * size / sum(sizes.values()) for count, size in sizes.items()}
    whole = {count: math.floor(value) for count, value in exact.items()}
    for count in sorted(exact, key=lambda count: whole[count] - exact[count])[: limit - sum(whole.values())]:
        whole[count] += 1
    return whole


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def _digest(lines: Any) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
