"""Finding photos that show the same image: they belong to one bin, whatever their records say.

Two photos are duplicates if their decoded pixels are equal, or if their difference hashes are close and their grey
images correlate above 0.99. dHash: N. Krawetz, "Kind of Like That", 2013,
https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 3
"""Bits of 64 that two hashes may differ in; then at least one of their four 16-bit words is equal."""
MIN_CORRELATION = 0.99
THUMB_PX = 64


@dataclass(frozen=True)
class Signature:
    """What photos are compared by: a digest of the pixels, a 64-bit dHash, and a grey uint8 ``(64, 64)`` thumbnail."""

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
    """Sorted pairs of positions in ``signatures`` that are duplicates; the lower position comes first in each."""
    equal = _groups((signature.pixels, position) for position, signature in enumerate(signatures))
    pairs = {(group[0], position) for group in equal for position in group[1:]}
    # of photos with equal pixels, only the first is compared with the rest
    repeated = {position for _, position in pairs}
    distinct = [position for position in range(len(signatures)) if position not in repeated]
    pairs |= {pair for pair in _close(signatures, distinct) if _correlate(*(signatures[i] for i in pair))}
    return sorted(pairs)


def _close(signatures: Sequence[Signature], positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of ``positions`` whose hashes differ in at most MAX_DISTANCE bits."""
    words = ((word, position) for position in positions for word in _words(signatures[position].dhash))
    candidates = {pair for group in _groups(words) for pair in combinations(group, 2)}
    for first, second in candidates:
        if (signatures[first].dhash ^ signatures[second].dhash).bit_count() <= MAX_DISTANCE:
            yield first, second


def _words(dhash: int) -> Iterator[tuple[int, int]]:
    return ((shift, dhash >> shift & 0xFFFF) for shift in (0, 16, 32, 48))


def _groups(keyed: Iterable[tuple[object, int]]) -> list[list[int]]:
    """Positions with the same key, in groups of two and more."""
    groups: dict[object, list[int]] = defaultdict(list)
    for key, position in keyed:
        groups[key].append(position)
    return [group for group in groups.values() if len(group) > 1]


def _correlate(first: Signature, second: Signature) -> bool:
    a, b = (signature.thumb.astype(np.float64).ravel() for signature in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return bool(scale > 0 and a @ b / scale > MIN_CORRELATION)
