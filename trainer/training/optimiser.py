"""What a step of a training needs beside the loop: optimiser, schedule, running mean, and what the rules look at."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.training.recipes import Recipe
from trainer.training.rules import Layer

PRECISION = {("cuda", "auto"): torch.float16, ("cuda", "bfloat16"): torch.bfloat16, ("cpu", "bfloat16"): torch.bfloat16}
"""What is computed with in place of float32, by device and a recipe's word."""


def optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What changes the weights that learn."""
    learning = [each for each in model.parameters() if each.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # fused: one pass over the weights, on a CPU ten times as fast, which those of VGG need
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(learning, rate, momentum=0.9, weight_decay=decay, fused=True)
    return torch.optim.AdamW(learning, rate, weight_decay=decay, fused=True)


def schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """What the learning rate does from one step to the next."""
    if recipe.schedule == "one-cycle":  # Smith, Topin 2018, https://arxiv.org/abs/1708.07120
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps)
    if recipe.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimiser, 10 * steps, gamma=0.1)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def layers(model: nn.Module, scale: float, only: str = "") -> list[Layer]:
    """The numbers of all layers that learn. ``scale``: what the gradients were multiplied with."""
    weights = [
        (name, each)
        for name, each in model.named_parameters()
        if each.requires_grad and each.dim() > 1 and only in name
    ]
    nothing = torch.zeros((), device=weights[0][1].device)
    numbers = torch.stack(
        [
            torch.stack(
                [
                    each.grad.abs().mean().float() / scale if each.grad is not None else nothing,
                    each.detach().abs().max().float(),
                    each.detach().float().std() * math.sqrt(each.numel() / each.shape[0]),
                ]
            )
            for _, each in weights
        ]
    ).tolist()
    return [Layer(name, *row) for (name, _), row in zip(weights, numbers, strict=True)]


def utilisation(device: torch.device) -> list[float]:
    """The share (0-1) of the last second that the GPU computed; nothing where it cannot be read."""
    if device.type != "cuda":
        return []
    try:
        return [torch.cuda.utilization(device) / 100]
    except (ModuleNotFoundError, RuntimeError):  # NVIDIA's library of measurements is not installed
        return []


def average(decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor) -> None:
    """A running mean that forgets what it began with the sooner, the fewer the steps."""
    decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
    for mean, value in zip(averaged, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
