"""Training: from a dataset and a recipe to a network with its best weights.

Read ``fit`` first, then ``loop/epochs.py`` and ``loop/step.py``. All randomness comes from the recipe's seed, the epoch
and the batch, so a resumed training ends with the same weights as one without an interruption.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from serve.evidence.record_model import MEASURES
from trainer.data.dataset import Dataset, Part
from trainer.training import distributed
from trainer.training.features import split_frozen
from trainer.training.loop.batches import join_extra, learned_counts, with_measures
from trainer.training.loop.epochs import Training
from trainer.training.loop.folds import Fold, HeldOut
from trainer.training.loop.progress import Epoch, TrainingResult
from trainer.training.loop.teachers import Lesson
from trainer.training.networks import create
from trainer.training.recipes import Recipe
from trainer.training.rules import FiredRule
from trainer.training.scoring import predict_outputs


def fit(
    data: Dataset,
    recipe: Recipe,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    *,
    on_rule: Callable[[FiredRule], object] = lambda _: None,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    device: torch.device | None = None,
    fold: Fold | None = None,
    lesson: Lesson | None = None,
) -> TrainingResult:
    """Train ``recipe`` on ``data.train`` and keep the weights with the lowest loss on ``data.validation``.

    ``on_epoch`` and ``on_rule`` are called when an epoch ends and when a rule fires; after resuming, also for those
    from before the interruption. ``stop_on``: rules that stop the training early. A checkpoint is written to
    ``checkpoints`` after each epoch and on SIGTERM, which then raises SystemExit; an existing one is resumed. With
    several processes (``trainer/training/distributed.py``) every one calls this and gets the same weights. With a
    ``fold``, its photos are left out of the training, and answered. With a ``lesson``, what teachers say is part of the
    targets. Raises TrainingError when the loss is not finite, or when a rule stops the training before the first epoch
    ends.
    """
    device = device or distributed.pick_device()
    torch.manual_seed(recipe.seed)
    counts = learned_counts(data.counts, recipe)
    class_indices = tuple(counts.values.index(value) for value in data.counts.values)
    model = create(
        recipe.architecture,
        len(counts.values) + (MEASURES if recipe.auxiliary else 0),
        recipe.size_px,
        recipe.weights,
        recipe.frozen,
        class_indices,
        recipe.mirrored,
    )
    model.freeze_blocks(recipe.frozen_blocks)
    model = model.to(device).to(memory_format=torch.channels_last)
    trainable, data = split_frozen(model, data, recipe)
    if recipe.extra:
        data = replace(data, train=join_extra(data, class_indices))
    train, left_out = fold.divide(data.train) if fold else (data.train, None)
    data = replace(data, train=_with_targets(train, recipe, lesson))
    training = Training(trainable, data, recipe, device, stop_on=stop_on, on_epoch=on_epoch, on_rule=on_rule)
    training.begin(checkpoints)
    for epoch in training.state.epochs:
        on_epoch(epoch)
    for rule in training.state.fired:
        on_rule(rule)
    training.run(checkpoints)
    return TrainingResult(
        model=model,
        epochs=training.state.epochs,
        best_epoch=training.state.best_epoch,
        fired=training.state.fired,
        stopped_by=training.stopped_by,
        resumed_at=training.resumed_at,
        earlier_s=training.earlier_s,
        precision=training.step.precision,
        held_out=HeldOut(left_out.photos, predict_outputs(trainable, left_out).numpy()) if left_out else None,
    )


def _with_targets(train: Part, recipe: Recipe, lesson: Lesson | None) -> Part:
    """The photos to train on, with all that is learned beside their labels."""
    train = with_measures(train) if recipe.auxiliary else train
    return replace(train, taught=lesson.of(train)) if lesson else train
