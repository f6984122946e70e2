"""Trains the record model (``serve/evidence/record_model.py``) on right records and on records that were made wrong.

The photos' outputs come from networks that had not learned from them (``trainer/training/loop/folds.py``). Each right
record is given errors of every kind (``trainer/data/bin_records/wrong_records.py``), which count alike. What a record
gains comes from records of the same quantity, so that a wrong record looks like a right one; what can still be told
from the record alone is learned first, without the photo, and the ensemble that sees the photo learns the rest.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from serve.evidence.record import Record
from serve.evidence.record_model import (
    MAX_FEATURE,
    Columns,
    Ensemble,
    Floats,
    RecordModel,
    record_features,
    size_features,
)
from serve.runtime import Outputs
from trainer.data.bin_records.records import right_records
from trainer.data.bin_records.wrong_records import Catalogue, Pairs, make_pairs
from trainer.data.counts import Counts
from trainer.data.dataset import Part
from trainer.training.loop.folds import HeldOut

MEMBERS, DROPOUT, WEIGHT_DECAY, RATE = 3, 0.25, 0.01, 4e-3
MIN_RECORDS, MIN_CHOOSING = 200, 30
"""With fewer records to learn from, or to choose by, there is no record model."""
MIN_SPREAD = 0.01
"""An input that hardly differs between the examples is not scaled up by more than that."""
log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]
"""The loss of outputs ``(B, O)`` for the examples with these numbers ``(B,)``."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How one perceptron is trained: its hidden ``width``, and for how long."""

    width: int
    epochs: int
    batch_size: int
    min_steps: int = 200

    def steps(self, examples: int) -> int:
        """How many steps that is."""
        return max(self.min_steps, self.epochs * -(-examples // self.batch_size))


AGREEMENT, COUNT = Schedule(width=96, epochs=8, batch_size=512), Schedule(width=64, epochs=15, batch_size=256)


def are_enough(right: Mapping[int, Record]) -> bool:
    """Whether a record model can be trained with the right records of these training photos."""
    if len(right) < MIN_RECORDS:
        log.info("no record model: %d training photos have a record with sizes, it takes %d", len(right), MIN_RECORDS)
    return len(right) >= MIN_RECORDS


def fit_record_model(
    held_out: HeldOut, columns: Columns, counts: Counts, head: tuple[Floats, Floats], seed: int
) -> RecordModel | None:
    """The record model of a network whose head has the weight and bias ``head``; None where records are too few.

    ``counts``: those that the network has learned.
    """
    right = right_records(held_out.photos, counts)
    if not are_enough(right):
        return None
    photos = columns.photo_features(held_out.outputs.astype(np.float64))
    pairs = make_pairs(right, Catalogue(list(right.values())), seed)
    features = np.array([record_features(record) for record in pairs.records])
    inputs = columns.pair_features(photos[pairs.rows], features, pairs.quantities.astype(np.float64))
    targets, weights = torch.from_numpy(pairs.right).float(), torch.from_numpy(pairs.weights()).float()

    blank = columns.without_photo(inputs)

    def prior_loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], targets[rows], weight=weights[rows])

    prior = _fit_ensemble(blank, 1, prior_loss, AGREEMENT, seed)
    known = torch.from_numpy(prior(blank)[:, :1]).float()

    def agreement_loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return prior_loss(known[rows] + outputs, rows)

    return RecordModel(
        columns=columns,
        weight=head[0],
        bias=head[1],
        agreement=_fit_ensemble(inputs, 1, agreement_loss, AGREEMENT, seed),
        prior=prior,
        count=_fit_count(photos, right, counts, columns.classes, seed),
    )


def helps(model: RecordModel, answered: HeldOut, counts: Counts, seed: int) -> bool:
    """Whether the model tells right records from wrong ones better than the counts of the photos alone do.

    ``answered``: photos that selected the weights and that nothing was trained on. Compared is the share of wrong
    records that fit worse than the right record of the same photo; where both fit alike, half counts.
    """
    right = right_records(answered.photos, counts)
    if len(right) < MIN_CHOOSING:
        log.info(
            "no record model: %d validation photos have a record with sizes, it takes %d", len(right), MIN_CHOOSING
        )
        return False
    photos = model.columns.photo_features(answered.outputs.astype(np.float64))
    pairs = make_pairs(right, Catalogue(list(right.values())), seed)
    by_count = model.columns.count_nonconformity(photos[pairs.rows], pairs.quantities)
    shares = [
        _share_told(pairs, scores) for scores in (by_count, model.nonconformity(photos[pairs.rows], pairs.records))
    ]
    log.info(
        "of wrong records, %.1f %% fit worse than the right one by the photo alone, %.1f %% with products",
        100 * shares[0],
        100 * shares[1],
    )
    return shares[1] > shares[0]


def _share_told(pairs: Pairs, nonconformity: Floats) -> float:
    """The share (0-1) of wrong records that fit worse than the right one of the same photo; all kinds count alike."""
    of_right = dict(zip(pairs.rows[pairs.right].tolist(), nonconformity[pairs.right].tolist(), strict=True))
    differences = nonconformity - np.array([of_right[row] for row in pairs.rows.tolist()])
    told = (differences > 0) + 0.5 * (differences == 0)
    wrong = ~pairs.right
    return float(np.average(told[wrong], weights=pairs.weights()[wrong]))


def record_scores(
    model: RecordModel, outputs: Outputs, calibration: Part, counts: Counts
) -> dict[str, tuple[float, ...]]:
    """Per count, the nonconformity of the records with sizes of its calibration photos, ascending.

    ``outputs``: what one form of the network gives for these photos.
    """
    assert outputs.features is not None
    right = right_records(calibration.photos, counts)
    if not right:
        return {}
    photos = model.photo_features(outputs.features[list(right)])
    scores = model.nonconformity(photos, list(right.values())).round(6)
    labels = calibration.labels[list(right)]
    return {name: tuple(sorted(scores[labels == label].tolist())) for label, name in enumerate(counts.names)}


def _fit_count(
    photos: Floats, right: Mapping[int, Record], counts: Counts, classes: Sequence[int], seed: int
) -> Ensemble:
    counted = {row: record for row, record in right.items() if counts.count_of(record.quantity) in classes}
    sizes = np.array([size_features(record) for record in counted.values()])
    targets = torch.tensor([classes.index(counts.count_of(record.quantity)) for record in counted.values()])
    inputs = np.concatenate([photos[list(counted)], sizes], axis=1)

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets[rows])

    return _fit_ensemble(inputs, len(classes), loss, COUNT, seed)


def _fit_ensemble(inputs: Floats, outputs: int, loss: Loss, schedule: Schedule, seed: int) -> Ensemble:
    """MEMBERS perceptrons with two hidden layers, which differ by their seeds. ``inputs``: ``(N, I)``."""
    mean, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), MIN_SPREAD)
    scaled = torch.from_numpy(((inputs - mean) / spread).clip(-MAX_FEATURE, MAX_FEATURE)).float()
    members = [_fit_member(scaled, outputs, loss, schedule, seed + number) for number in range(MEMBERS)]
    layers = list(zip(*members, strict=True))  # of each layer, the weight and the bias of every member
    return Ensemble(
        mean=mean,
        spread=spread,
        weights=tuple(np.stack([weight for weight, _ in layer]) for layer in layers),
        biases=tuple(np.stack([bias for _, bias in layer]) for layer in layers),
    )


def _fit_member(inputs: Tensor, outputs: int, loss: Loss, schedule: Schedule, seed: int) -> list[tuple[Floats, Floats]]:
    """The weights ``(in, out)`` and biases ``(out,)`` of the layers of one perceptron, trained with AdamW."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (inputs.shape[1], schedule.width, schedule.width)
        hidden = [(nn.Linear(*pair), nn.ReLU(), nn.Dropout(DROPOUT)) for pair in pairwise(widths)]
        network = nn.Sequential(*[layer for block in hidden for layer in block], nn.Linear(schedule.width, outputs))
        optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY, fused=True)
        steps = schedule.steps(len(inputs))
        rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for _, rows in zip(range(steps), _batches(len(inputs), schedule.batch_size), strict=False):
            optimiser.zero_grad(set_to_none=True)
            loss(network(inputs[rows]), rows).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rates.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().T.double().numpy(), layer.bias.detach().double().numpy()) for layer in layers]


def _batches(examples: int, size: int) -> Iterator[Tensor]:
    """The numbers of the examples of one batch after another, in a new order in each epoch, for ever."""
    while True:
        yield from torch.split(torch.randperm(examples), size)
