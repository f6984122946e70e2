"""The input of the training loop: shuffling, augmentation, and soft labels.

All randomness comes from the recipe's seed, the epoch and the batch number: a resumed training sees the same batches.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve.evidence.record_model import MEASURES, measures
from trainer.data.bin_records.records import records_of
from trainer.data.counts import Counts, all_counts
from trainer.data.dataset import Dataset, Part, Rows, Stacked
from trainer.training import distributed
from trainer.training.recipes import Recipe

Array = NDArray[np.generic]


def learned_counts(counts: Counts, recipe: Recipe) -> Counts:
    """The counts that the network has an output for; predictions use only those in ``counts``."""
    return all_counts(counts) if recipe.extra else counts


def soft_labels(counts: Counts, sigma: float) -> Tensor:
    """The target distribution for each count, ``(C, C)``: a normal distribution of ``sigma`` objects around it."""
    values = torch.tensor(counts.values, dtype=torch.float32)
    if sigma == 0:
        return torch.eye(len(values))
    return (-((values[:, None] - values) ** 2) / (2 * sigma**2)).softmax(1)


def join_extra(data: Dataset, class_indices: tuple[int, ...]) -> Part:
    """The training photos and the extra ones, with labels that are indices into the learned counts.

    ``class_indices``: the index of each count of ``data`` in the learned counts.
    """
    train, extra = data.train, data.extra
    labels = np.array(class_indices)[train.labels]
    if extra is None:
        return replace(train, labels=labels)
    stacked = Stacked(train.pixels, len(train), extra.pixels)
    return Part(
        photos=(*train.photos, *extra.photos),
        pixels=Rows(stacked, np.arange(len(train) + len(extra))),
        labels=np.concatenate([labels, extra.labels]),
        fingerprint=data.fingerprint,
    )


def with_measures(part: Part) -> Part:
    """``part`` with the measures of its photos' records."""
    records = records_of(part.photos)
    known = [measures(records[photo.id]) if photo.id in records else np.full(MEASURES, np.nan) for photo in part.photos]
    return replace(part, measures=np.array(known, dtype=np.float32).reshape(-1, MEASURES))


class Batch(NamedTuple):
    """This process's share of a shuffled batch.

    ``inputs``: pixels uint8 ``(B, S, S, 3)``, augmented; with a frozen body, features float32 ``(B, F)``; with frozen
    blocks, their outputs float16 ``(B, s, s, C)``, augmented. ``labels``: int64 ``(B,)``. ``measures``: float32
    ``(B, M)``, NaN where unknown; M is 0 where they are not learned. ``taught``: float32 ``(B, C)``, what teachers say;
    C is 0 where there are none. ``size``: photos of the whole batch.
    """

    inputs: Tensor
    labels: Tensor
    measures: Tensor
    taught: Tensor
    size: int

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        inputs, labels, measures, taught = (item.to(device, non_blocking=True) for item in self[:4])
        return Batch(inputs, labels, measures, taught, self.size)


def batches(part: Part, recipe: Recipe, epoch: int, first: int = 0) -> Iterator[Batch]:
    """Yield the batches of an epoch, from batch number ``first`` on."""
    rank, processes = distributed.rank(), distributed.world_size()
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(part))
    for number in range(first, -(-len(part) // recipe.batch_size)):
        chosen = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        min_size = max(2, processes)  # batch normalisation needs two photos, every process needs one
        batch = np.append(chosen, order[: max(0, min_size - len(chosen))])
        share = batch[rank::processes]
        inputs: Array = part.pixels[share]
        if not recipe.frozen:
            rng = np.random.default_rng([recipe.seed, epoch, number])
            moves = _draw_moves(len(batch), inputs.shape[-2], rng)[rank::processes] * recipe.augment
            inputs = _augment(inputs, moves)
            if recipe.erasing:
                inputs = _erase(inputs, _draw_rectangles(len(batch), recipe.erasing, rng)[rank::processes])
        arrays = (inputs, part.labels[share], _rows_of(part.measures, share), _rows_of(part.taught, share))
        tensors = [torch.from_numpy(array) for array in arrays]
        if torch.cuda.is_available():  # copies from pinned memory to the GPU are asynchronous
            tensors = [tensor.pin_memory() for tensor in tensors]
        yield Batch(tensors[0], tensors[1], tensors[2], tensors[3], len(batch))


def _rows_of(values: NDArray[np.float32] | None, share: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.empty((len(share), 0), np.float32) if values is None else values[share]


def _draw_moves(photos: int, size_px: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random augmentation: shift down and right by up to a sixteenth of the side, and mirror or not, ``(N, 3)``.

    Drawn for the whole batch, so that a photo moves the same way with one process and with several.
    """
    reach = size_px // 16
    return np.column_stack([rng.integers(-reach, reach + 1, (photos, 2)), rng.integers(0, 2, photos)])


def _augment(photos: Array, moves: NDArray[np.int64]) -> Array:
    """Shift and mirror photos, edges repeated; outputs of frozen blocks come with their mirror image already."""
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


def _draw_rectangles(photos: int, share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """One rectangle a photo as top, left, bottom and right, 0-1 of the side, ``(N, 4)``; empty but in ``share``.

    Its area is 2 to 20 % of the photo, its sides differ by a factor of three at most. Zhong et al. 2017,
    https://arxiv.org/abs/1708.04896.
    """
    area, ratio = rng.uniform(0.02, 0.2, photos), np.exp(rng.uniform(-np.log(3), np.log(3), photos))
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
    rectangles = np.column_stack([top, left, top + height, left + width])
    return np.where(rng.random(photos)[:, None] < share, rectangles, 0.0)


def _erase(photos: Array, rectangles: NDArray[np.float64]) -> Array:
    """``photos`` ``(B, S, S, C)`` with the mean of each in its rectangle."""
    erased, corners = photos.copy(), np.rint(rectangles * photos.shape[1]).astype(int)
    for photo, (top, left, bottom, right) in zip(erased, corners, strict=True):
        if bottom > top and right > left:
            photo[top:bottom, left:right] = photo.mean((0, 1), dtype=np.float32)
    return erased
