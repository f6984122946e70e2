"""Photos that show the same picture twice: they are one bin, whatever their records say.

Two photos are the same when their decoded pixels are equal, or when their difference hashes are
close and their pictures correlate above 0.99. dHash: N. Krawetz, "Kind of Like That", 2013,
https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.abid import Photo

MAX_DISTANCE = 3
"""Bits of 64 that two hashes may differ in; then at least one of four 16-bit words is equal."""
MIN_CORRELATION = 0.99
THUMB_PX = 64


@dataclass(frozen=True)
class Signature:
    """What a photo is recognised by: a digest of its pixels, a 64-bit dHash, a grey ``(64, 64)`` uint8 picture."""

    pixels: str
    dhash: int
    thumb: NDArray[np.uint8]


def signature(image: Image.Image) -> Signature:
    """The signature of a decoded RGB image."""
    grey = image.convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = np.packbits(small[:, 1:] > small[:, :-1]).tobytes()
    thumb = np.asarray(grey.resize((THUMB_PX, THUMB_PX), Image.Resampling.BILINEAR))
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Signature(digest, int.from_bytes(bits, "big"), thumb)


def find_duplicates(signatures: Sequence[Signature]) -> list[tuple[int, int]]:
    """Pairs of positions that hold the same picture, each the lower position first."""
    equal = _groups((each.pixels, i) for i, each in enumerate(signatures))
    found = {(group[0], other) for group in equal for other in group[1:]}
    # of photos with equal pixels the first one stands for all
    distinct = sorted(set(range(len(signatures))) - {other for _, other in found})
    found |= {pair for pair in _close(signatures, distinct) if _same_picture(*(signatures[i] for i in pair))}
    return sorted(found)


def merge_bins(photos: Sequence[Photo], pairs: Iterable[tuple[int, int]]) -> list[Photo]:
    """Give photos with the same picture, and all photos of their bins, one bin."""
    parent = {photo.bin: photo.bin for photo in photos}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for first, second in pairs:
        parent[root(photos[second].bin)] = root(photos[first].bin)
    return [replace(photo, bin=root(photo.bin)) for photo in photos]


def _close(signatures: Sequence[Signature], positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    words = ((word, i) for i in positions for word in _words(signatures[i].dhash))
    seen = {pair for group in _groups(words) for pair in combinations(group, 2)}
    for first, second in seen:
        if (signatures[first].dhash ^ signatures[second].dhash).bit_count() <= MAX_DISTANCE:
            yield first, second


def _words(dhash: int) -> Iterator[tuple[int, int]]:
    return ((place, dhash >> place & 0xFFFF) for place in (0, 16, 32, 48))


def _groups(keyed: Iterable[tuple[object, int]]) -> list[list[int]]:
    groups: dict[object, list[int]] = defaultdict(list)
    for key, position in keyed:
        groups[key].append(position)
    return [group for group in groups.values() if len(group) > 1]


def _same_picture(first: Signature, second: Signature) -> bool:
    a, b = (each.thumb.astype(np.float64).ravel() for each in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return bool(scale > 0 and a @ b / scale > MIN_CORRELATION)
