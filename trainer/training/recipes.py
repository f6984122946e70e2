"""How models are trained, as small readable values. Imports nothing heavy: every script reads it."""

from dataclasses import dataclass

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    ``weights``: of the body, ``none``, ``pretrained`` (ImageNet's) or a file; ``frozen``: only the head
    learns, from features that are computed once, so nothing is augmented; ``size_px``: side of the
    squashed photo; ``learning_rate``: the peak; ``optimiser``: ``adamw`` or ``sgd`` (momentum 0.9);
    ``schedule``: ``constant``, ``one-cycle``, or ``step``: a tenth of the rate after every ten epochs.

    ``extra``: learn from photos with other counts too, as counts of their own; ``frozen_blocks``: of the
    body's first blocks, which are then computed once; ``label_sigma``: a label is a normal distribution
    of that width over the counts, in objects, and 0 is the count alone; ``mixup``: photos are mixed in
    pairs, with shares from Beta(mixup, mixup); ``average``: decay a step of the running mean of the
    weights, which is what is kept; ``mirrored``: an answer is the mean over a photo and its mirror image.

    ``precision``: of the sums while it learns: ``auto`` (float16 on a GPU, float32 on a CPU), ``float32`` or
    ``bfloat16``, which CPUs with instructions for it (avx512_bf16, amx_bf16) do up to twice as fast for ResNet and
    VGG, and slower for the depthwise convolutions of EfficientNet. Weights, their steps and scores are float32.
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
    precision: str = "auto"
    seed: int = 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # the report's experiments: Adam at a constant rate, from ImageNet's weights unless "scratch"
        Recipe("hpo-frozen", "resnet34", "pretrained", frozen=True, batch_size=32, epochs=5),
        Recipe("vgg-finetune", "vgg16", "pretrained"),
        Recipe("resnet34-scratch", "resnet34"),
        Recipe("resnet34-pipeline", "resnet34", "pretrained", frozen=True, batch_size=64, learning_rate=0.01, epochs=3),
        # the report's next step, the dataset's published benchmark: SGD, the rate cut every 10 epochs
        Recipe(
            "resnet34-benchmark",
            "resnet34",
            batch_size=128,
            learning_rate=0.1,
            epochs=40,
            optimiser="sgd",
            schedule="step",
            weight_decay=1e-4,
        ),
        # ImageNet's weights that come as a package: no download
        Recipe(
            "lite0-finetune",
            "efficientnet-lite0",
            "pretrained",
            size_px=160,
            batch_size=32,
            learning_rate=0.001,
            schedule="one-cycle",
            weight_decay=0.02,
        ),
        # ours: counts are ordered, every photo teaches, and half of the network is computed once
        Recipe(
            "best",
            "efficientnet-lite0",
            "pretrained",
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
        ),
        # for machines without a GPU and for the demo
        Recipe(
            "resnet18-small",
            "resnet18",
            size_px=64,
            batch_size=32,
            learning_rate=0.003,
            epochs=12,
            schedule="one-cycle",
            weight_decay=0.02,
        ),
    )
}
