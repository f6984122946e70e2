"""Recipes: how a model is trained, as small readable values. Imports no heavy library, because every script reads it.

"The report" is an engineer's write-up of this task on SageMaker (docs/background.md).
"""

from dataclasses import dataclass, replace

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    ``weights``: initial weights of the body: ``none`` (random), ``pretrained`` (ImageNet) or a file.
    ``frozen``: train only the head. The body's features are computed once, so there is no augmentation.
    ``size_px``: side of the square that photos are squashed to.
    ``learning_rate``: the peak.
    ``optimiser``: ``adamw``, or ``sgd`` with momentum 0.9.
    ``schedule``: ``constant``, ``one-cycle``, or ``step``, which divides the rate by ten every ten epochs.
    ``extra``: also learn from photos with counts outside COUNTS, each count as a class of its own.
    ``frozen_blocks``: freeze the first blocks of the body; their outputs are computed once.
    ``label_sigma``: width, in objects, of the normal distribution over the counts that replaces a one-hot label;
    0 keeps one-hot labels.
    ``mixup``: mix photos in pairs, with shares from Beta(mixup, mixup); 0 turns it off.
    ``average``: decay per step of the moving average of the weights, which is what is scored and exported; 0 turns it
    off.
    ``mirrored``: predict the mean over a photo and its mirror image.
    ``auxiliary``: weight of the loss on the measures of a bin's record, such as the volume of its content
    (``serve/evidence/record_model.py``), which the network learns beside the count; 0 turns it off.
    ``record_folds``: train that many more networks, each on the bins that are not in its fold, so that the record model
    learns from answers to photos that a network had not learned from; 0 makes no record model.
    ``teachers``: the architectures of networks that answer the training photos; the mean of their answers is part of
    the targets (trainer/training/loop/teachers.py). ``teacher_folds``: each teacher is so many networks, at least 2,
    which answer the photos of one fold each. ``teacher_share``: the part of the teachers' mean in the targets, 0-1.
    ``erasing``: the share (0-1) of training photos in which a random rectangle is replaced by the mean of the photo.
    ``precision``: number format of the forward and backward pass: ``float32``, ``bfloat16``, or ``auto``: float16 on a
    GPU; on a CPU with instructions for bfloat16 whichever wins a short trial (trainer/training/loop/precision.py), on
    others float32. Weights, optimiser steps and scores are always float32.
    """

    name: str
    architecture: str
    weights: str = "none"
    frozen: bool = False
    size_px: int = 224
    batch_size: int = 16
    learning_rate: float = 0.002
    epochs: int = 10
    optimiser: str = "adamw"
    schedule: str = "constant"
    weight_decay: float = 0.0
    augment: bool = True
    extra: bool = False
    frozen_blocks: int = 0
    label_sigma: float = 0.0
    mixup: float = 0.0
    average: float = 0.0
    mirrored: bool = False
    auxiliary: float = 0.0
    record_folds: int = 0
    teachers: tuple[str, ...] = ()
    teacher_folds: int = 2
    teacher_share: float = 0.5
    erasing: float = 0.0
    precision: str = "auto"
    seed: int = 0


_TINY = Recipe(
    name="tiny",
    architecture="tiny",
    size_px=48,
    batch_size=32,
    learning_rate=0.03,
    epochs=20,
    schedule="one-cycle",
    weight_decay=0.02,
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # the report's experiments: Adam at a constant rate, from ImageNet weights unless "scratch"
        Recipe(
            name="hpo-frozen",
            architecture="resnet34",
            weights="pretrained",
            frozen=True,
            batch_size=32,
            epochs=5,
        ),
        Recipe(name="vgg-finetune", architecture="vgg16", weights="pretrained"),
        Recipe(name="resnet34-scratch", architecture="resnet34"),
        Recipe(
            name="resnet34-pipeline",
            architecture="resnet34",
            weights="pretrained",
            frozen=True,
            batch_size=64,
            learning_rate=0.01,
            epochs=3,
        ),
        # the report's proposed next step, the dataset's published benchmark: SGD, a tenth of the rate every 10 epochs
        Recipe(
            name="resnet34-benchmark",
            architecture="resnet34",
            batch_size=128,
            learning_rate=0.1,
            epochs=40,
            optimiser="sgd",
            schedule="step",
            weight_decay=1e-4,
        ),
        # its ImageNet weights are an installed package: no download
        Recipe(
            name="lite0-finetune",
            architecture="efficientnet-lite0",
            weights="pretrained",
            size_px=160,
            batch_size=32,
            learning_rate=0.001,
            schedule="one-cycle",
            weight_decay=0.02,
        ),
        # the most accurate recipe: ordered counts, extra photos, and half of the network computed once
        Recipe(
            name="best",
            architecture="efficientnet-lite0",
            weights="pretrained",
            batch_size=32,
            learning_rate=0.001,
            epochs=8,
            schedule="one-cycle",
            weight_decay=0.02,
            extra=True,
            frozen_blocks=5,
            label_sigma=0.6,
            average=0.998,
            mirrored=True,
            auxiliary=1.0,
            record_folds=2,
        ),
        # for machines without a GPU
        Recipe(
            name="resnet18-small",
            architecture="resnet18",
            size_px=64,
            batch_size=32,
            learning_rate=0.003,
            epochs=12,
            schedule="one-cycle",
            weight_decay=0.02,
        ),
        # to try the whole pipeline in a minute: too small a network to count well on real photos
        _TINY,
        # for the demo: the same with a record model
        replace(_TINY, name="demo", auxiliary=1.0, record_folds=2),
    )
}
