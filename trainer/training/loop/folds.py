"""Cross-fitting: answers to the training photos from networks that had not learned from them.

A network's answers to its own training photos are too good to learn from. So the bins are divided into folds, one
network is trained on all others for each, and answers the photos of its fold. The networks of the folds share nothing
but the order of their outputs, so only these are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from trainer.data.abid import Photo
from trainer.data.dataset import Part
from trainer.data.split import stable_hash


@dataclass(frozen=True)
class Fold:
    """Fold ``number``, from 0, of ``folds``; ``seed`` decides which bins are in it."""

    number: int
    folds: int
    seed: int

    def divide(self, part: Part) -> tuple[Part, Part]:
        """The photos to train on, and those of the fold."""
        bins = sorted({photo.bin for photo in part.photos}, key=partial(stable_hash, self.seed))
        members = set(bins[self.number :: self.folds])
        inside = np.array([photo.bin in members for photo in part.photos], dtype=bool)
        return part.rows(np.flatnonzero(~inside)), part.rows(np.flatnonzero(inside))


@dataclass(frozen=True)
class HeldOut:
    """Photos, and the outputs float32 ``(N, O)`` of a network that had not learned from them."""

    photos: tuple[Photo, ...]
    outputs: NDArray[np.float32]


def joined(parts: Sequence[HeldOut]) -> HeldOut:
    """The photos of all folds."""
    photos = tuple(photo for part in parts for photo in part.photos)
    return HeldOut(photos, np.concatenate([part.outputs for part in parts]))
