"""What a training is fed with: which photos, in which order, moved how, and what is learned of their counts.

Everything random comes from the recipe's seed, the epoch and the batch.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.counts import Counts, all_counts
from trainer.data.dataset import Dataset, Part, Rows, Stacked
from trainer.training import distributed
from trainer.training.recipes import Recipe


def learned_counts(counts: Counts, recipe: Recipe) -> Counts:
    """The counts that a network has an output for; the answers are some of them."""
    return all_counts(counts) if recipe.extra else counts


def soft_labels(counts: Counts, sigma: float) -> Tensor:
    """For each count what is learned of it, ``(C, C)``: a normal distribution around it of ``sigma`` objects."""
    values = torch.tensor(counts.values, dtype=torch.float32)
    if sigma == 0:
        return torch.eye(len(values))
    return (-((values[:, None] - values) ** 2) / (2 * sigma**2)).softmax(1)


def join_extra(data: Dataset, answers: tuple[int, ...]) -> Part:
    """The training photos and the extra ones, with labels that are indices into the learned counts."""
    train, extra = data.train, data.extra
    labels = np.array(answers)[train.labels]
    if extra is None:
        return replace(train, labels=labels)
    stacked = Stacked(train.pixels, len(train), extra.pixels)
    whole = Rows(stacked, np.arange(len(train) + len(extra)))
    return Part((*train.photos, *extra.photos), whole, np.concatenate([labels, extra.labels]), data.fingerprint)


def batches(part: Part, recipe: Recipe, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
    """This process's share of shuffled batches, from number ``first`` on, and the size of the whole batch.

    First comes what the model takes: pixels uint8 ``(B, S, S, 3)``, augmented; for a frozen body features
    float32 ``(B, F)``; for frozen blocks what they have seen, float16 ``(B, s, s, C)``, augmented. Then the
    labels, int64 ``(B,)``.
    """
    rank, size = distributed.rank(), distributed.size()
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(part))
    for number in range(first, -(-len(part) // recipe.batch_size)):
        chosen = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        least = max(2, size)  # batch normalisation needs two, every process one
        whole = np.append(chosen, order[: max(0, least - len(chosen))])
        mine = whole[rank::size]
        inputs: NDArray[Any] = part.pixels[mine]
        if not recipe.frozen:
            rng = np.random.default_rng([recipe.seed, epoch, number])
            moves = _draw_moves(len(whole), inputs.shape[-2], rng)[rank::size] * recipe.augment
            inputs = _augment(inputs, moves)
        tensors = torch.from_numpy(inputs), torch.from_numpy(part.labels[mine])
        # from pinned memory a copy to the GPU does not wait
        photos, labels = (each.pin_memory() for each in tensors) if torch.cuda.is_available() else tensors
        yield photos, labels, len(whole)


def _draw_moves(photos: int, size_px: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How photos are moved: down and right by up to a sixteenth of their side, and mirrored or not, ``(N, 3)``.

    They are drawn for the whole batch, so that a photo is moved alike in one process and in several.
    """
    reach = size_px // 16
    return np.column_stack([rng.integers(-reach, reach + 1, (photos, 2)), rng.integers(0, 2, photos)])


def _augment(photos: NDArray[Any], moves: NDArray[np.int64]) -> NDArray[Any]:
    """Shift and mirror photos, edges repeated; what frozen blocks have seen is there mirrored already."""
    mirrored = moves[:, 2]
    if photos.ndim == 5:  # (B, 2, s, s, C)
        photos = photos[np.arange(len(photos)), mirrored]
    else:
        photos = np.where(mirrored[:, None, None, None] == 1, photos[:, :, ::-1], photos)
    size = photos.shape[1]
    reach = size // 16
    padded = np.pad(photos, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    starts = reach - moves[:, :2]
    return np.stack([padded[i, y : y + size, x : x + size] for i, (y, x) in enumerate(starts)])
