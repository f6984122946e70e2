"""The parts of a training step: optimiser, schedule, weight averaging, and the statistics that the rules read."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.training.recipes import Recipe
from trainer.training.rules import Layer

AUTOCAST_DTYPES = {
    ("cuda", "auto"): torch.float16,
    ("cuda", "bfloat16"): torch.bfloat16,
    ("cpu", "bfloat16"): torch.bfloat16,
}
"""The number format that replaces float32, by device type and ``Recipe.precision``."""


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser for the trainable parameters of ``model``."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # fused: one pass over the weights, on a CPU ten times as fast, which VGG's many weights need
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay, fused=True)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)


def make_schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's learning rate schedule; ``steps``: per epoch."""
    if recipe.schedule == "one-cycle":  # Smith, Topin 2018, https://arxiv.org/abs/1708.07120
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps)
    if recipe.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimiser, 10 * steps, gamma=0.1)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def layer_statistics(model: nn.Module, scale: float, only: str = "") -> list[Layer]:
    """The numbers that the rules read, for every trainable layer whose name contains ``only``.

    ``scale``: the factor that the gradients were multiplied with. All numbers reach the CPU in one copy.
    """
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.dim() > 1 and only in name
    }
    rows = torch.stack([_statistics(weight, scale) for weight in weights.values()]).tolist()
    return [Layer(name, *row) for name, row in zip(weights, rows, strict=True)]


def _statistics(weight: Tensor, scale: float) -> Tensor:
    """Mean |gradient|, largest |weight|, and spread of the weights, ``(3,)``."""
    gradient = weight.grad.abs().mean().float() / scale if weight.grad is not None else weight.new_zeros(()).float()
    largest = weight.detach().abs().max().float()
    spread = weight.detach().float().std() * math.sqrt(weight.numel() / weight.shape[0])
    return torch.stack([gradient, largest, spread])


def gpu_utilisation(device: torch.device) -> list[float]:
    """The share (0-1) of the last second in which the GPU was busy; empty when it cannot be read."""
    if device.type != "cuda":
        return []
    try:
        return [torch.cuda.utilization(device) / 100]
    except (ModuleNotFoundError, RuntimeError):  # NVIDIA's management library is not installed
        return []


def update_average(decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor) -> None:
    """Update the moving average of the weights in place; in the first steps the decay is lower."""
    decay = min(decay, (1 + int(steps)) / (10 + int(steps)))
    for mean, value in zip(averaged, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
