"""Finding photos that show the same image: they belong to one bin, whatever their records say.

Two photos are duplicates if their decoded pixels are equal, or if their difference hashes are close and their grey
images correlate above 0.99. dHash: N. Krawetz, "Kind of Like That", 2013,
https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html

A photo that looks like more than MAX_LOOKALIKES others says nothing about bins: a fixed camera takes thousands that are
alike, and one bin of all of them could not be split. Such a photo is a duplicate only of photos with equal pixels.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 3
"""Bits of 64 that two hashes may differ in; then at least one of their four 16-bit words is equal."""
MIN_CORRELATION = 0.99
THUMB_PX = 64
MAX_LOOKALIKES, MAX_CANDIDATES = 50, 200
"""How many others a photo may look like, and have a hash close to. A photo with more candidates is not compared."""

Indices = NDArray[np.int64]
_WORD_SHIFTS = (0, 16, 32, 48)
_BLOCK_PAIRS, _BLOCK_CORRELATIONS = 1 << 22, 1 << 8
log = logging.getLogger(__name__)


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
    """Sorted pairs of positions in ``signatures`` that are duplicates; the lower position comes first in each.

    Time grows with the number of photos times MAX_CANDIDATES; memory with the number of photos.
    """
    equal = _groups((signature.pixels, position) for position, signature in enumerate(signatures))
    pairs = {(group[0], position) for group in equal for position in group[1:]}
    # of photos with equal pixels, only the first is compared with the rest
    repeated = {position for _, position in pairs}
    distinct = np.array([i for i in range(len(signatures)) if i not in repeated], dtype=np.int64)
    alike, crowded = _lookalikes([signatures[int(position)] for position in distinct])
    if crowded:
        log.warning(
            "%d of %d photos look like more than %d others, as those of a fixed camera do; of these, only photos with "
            "equal pixels count as one bin: if several show the same bin, say which in labels.csv or a column group",
            crowded,
            len(signatures),
            MAX_LOOKALIKES,
        )
    return sorted(pairs | {(int(first), int(second)) for first, second in distinct[alike]})


def pairs_among(rows: Sequence[int], pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs of which both are in ``rows``, as positions in ``rows``."""
    position_of = {row: position for position, row in enumerate(rows)}
    return [(position_of[a], position_of[b]) for a, b in pairs if a in position_of and b in position_of]


def _lookalikes(signatures: Sequence[Signature]) -> tuple[Indices, int]:
    """Pairs of positions ``(N, 2)`` that look alike, and how many photos look like too many others."""
    hashes = np.array([signature.dhash for signature in signatures], dtype=np.uint64)
    candidates = np.zeros(len(hashes), dtype=np.int64)
    for first, second in _close(hashes):
        candidates += np.bincount(first, minlength=len(hashes)) + np.bincount(second, minlength=len(hashes))
    compared = np.flatnonzero(candidates <= MAX_CANDIDATES)
    thumbs = np.array([signatures[int(position)].thumb.ravel() for position in compared], dtype=np.uint8)
    pairs = [
        np.stack((first, second), axis=1)[_correlate(thumbs, first, second)]
        for first, second in _close(hashes[compared])
    ]
    alike = compared[np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])]
    lookalikes = np.bincount(alike.ravel(), minlength=len(hashes))
    crowded = (candidates > MAX_CANDIDATES) | (lookalikes > MAX_LOOKALIKES)
    return alike[~crowded[alike].any(axis=1)], int(crowded.sum())


def _close(hashes: NDArray[np.uint64]) -> Iterator[tuple[Indices, Indices]]:
    """All pairs of positions, the lower first, whose hashes differ in at most MAX_DISTANCE bits, in blocks.

    Each pair comes once: with the first of the four words in which its hashes are equal.
    """
    words = np.stack([hashes >> np.uint64(shift) & np.uint64(0xFFFF) for shift in _WORD_SHIFTS])
    for number, word in enumerate(words):
        order = np.argsort(word, kind="stable")
        starts = np.flatnonzero(np.diff(word[order], prepend=-1))
        for group in (group for group in np.split(order, starts[1:]) if len(group) > 1):
            rows = max(_BLOCK_PAIRS // len(group), 1)
            for top in range(0, len(group) - 1, rows):
                first, second = group[top : top + rows, None], group[None, top:]
                close = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_DISTANCE
                for earlier in words[:number]:
                    close &= earlier[first] != earlier[second]
                row, column = np.nonzero(np.triu(close, 1))
                yield group[top + row], group[top + column]


def _groups(keyed: Iterable[tuple[object, int]]) -> list[list[int]]:
    """Positions with the same key, in groups of two and more."""
    groups: dict[object, list[int]] = defaultdict(list)
    for key, position in keyed:
        groups[key].append(position)
    return [group for group in groups.values() if len(group) > 1]


def _correlate(thumbs: NDArray[np.uint8], first: Indices, second: Indices) -> NDArray[np.bool_]:
    """Which pairs of the ``thumbs`` ``(N, P)`` correlate above MIN_CORRELATION, ``(K,)``."""
    starts = range(0, len(first), _BLOCK_CORRELATIONS)
    blocks = (slice(start, start + _BLOCK_CORRELATIONS) for start in starts)
    values = [_correlations(thumbs[first[block]], thumbs[second[block]]) for block in blocks]
    return np.concatenate([np.empty(0), *values]) > MIN_CORRELATION


def _correlations(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    a, b = (thumbs.astype(np.float64) for thumbs in (first, second))
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    products, squares = np.einsum("ij,ij->i", a, b), np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
    scales = np.sqrt(np.where(squares > 0, squares, np.inf))  # photos of one colour are like none
    return np.asarray(products / scales, dtype=np.float64)
