"""How models are trained, as small readable values. Imports nothing heavy: every script reads it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. ``size_px``: side of the squashed photo; ``learning_rate``: the peak."""

    name: str
    architecture: str
    size_px: int = 224
    batch_size: int = 16
    learning_rate: float = 0.002
    epochs: int = 10
    weight_decay: float = 0.0
    one_cycle: bool = False
    augment: bool = True
    seed: int = 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # the report's reference: Adam, constant rate, from scratch
        Recipe("resnet34-scratch", "resnet34"),
        # for machines without a GPU and for the demo
        Recipe("resnet18-small", "resnet18", size_px=64, batch_size=32, learning_rate=0.003, epochs=12,
               weight_decay=0.02, one_cycle=True),
    )
}  # fmt: skip
