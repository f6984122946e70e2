"""How well a network does on some photos: what chooses the best epoch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.dataset import Part
from trainer.training import distributed


class Score(NamedTuple):
    """Mean cross-entropy, accuracy (0-1), and the share of the photos that got the most frequent answer (0-1)."""

    loss: float
    accuracy: float
    majority_share: float


@torch.no_grad()
def predict_logits(model: nn.Module, part: Part, batch_size: int = 64) -> Tensor:
    """Logits float32 ``(N, C)`` for ``part``, on the CPU, without augmentation."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat(
        [
            model(torch.from_numpy(part.pixels[i : i + batch_size]).to(device)).float().cpu()
            for i in range(0, len(part), batch_size)
        ]
    )


def score(model: nn.Module, part: Part) -> Score:
    """How well ``model`` does on ``part``, of which each process looks at its share."""
    mine = part.rows(np.arange(distributed.rank(), len(part), distributed.size()))
    logits, labels = predict_logits(model, mine), torch.from_numpy(mine.labels)
    answers = logits.argmax(1)
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    sums = torch.cat([loss[None], (answers == labels).sum()[None], answers.bincount(minlength=logits.shape[1])])
    loss_sum, correct, *frequencies = (distributed.all_reduce_sum(sums) / len(part)).tolist()
    return Score(loss_sum, correct, max(frequencies))
