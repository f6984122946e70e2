"""The score of a network on some photos; the epoch with the best score is kept."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.dataset import Part
from trainer.training import distributed
from trainer.training.features import Head, Tail
from trainer.training.networks import Counter


class Score(NamedTuple):
    """Mean cross-entropy in nats, accuracy (0-1), and the share (0-1) of photos with the most frequent prediction."""

    loss: float
    accuracy: float
    majority_share: float


def predict_logits(model: nn.Module, part: Part, batch_size: int = 64) -> Tensor:
    """Logits float32 ``(N, C)`` for ``part``, on the CPU, without augmentation."""
    return _predict(model, model, part, batch_size)


def predict_outputs(model: Counter | Head | Tail, part: Part, batch_size: int = 64) -> Tensor:
    """All outputs of the head, float32 ``(N, O)``, for ``part``, on the CPU, without augmentation."""
    return _predict(model, model.head_outputs, part, batch_size)


@torch.no_grad()
def _predict(model: nn.Module, forward: Callable[[Tensor], Tensor], part: Part, batch_size: int) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    starts = range(0, len(part), batch_size)
    batches = (part.pixels[np.arange(start, min(start + batch_size, len(part)))] for start in starts)
    return torch.cat([forward(torch.from_numpy(inputs).to(device)).float().cpu() for inputs in batches])


def score(model: nn.Module, part: Part) -> Score:
    """Score ``model`` on ``part``; with several processes each predicts its share of the photos."""
    share = part.rows(np.arange(distributed.rank(), len(part), distributed.world_size()))
    logits, labels = predict_logits(model, share), torch.from_numpy(share.labels)
    predictions = logits.argmax(1)
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    frequencies = predictions.bincount(minlength=logits.shape[1])
    sums = torch.cat([loss[None], (predictions == labels).sum()[None], frequencies])
    mean_loss, accuracy, *shares = (distributed.all_reduce_sum(sums) / len(part)).tolist()
    return Score(mean_loss, accuracy, max(shares))
