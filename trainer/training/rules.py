"""Rules: what goes wrong in a training, detected from its numbers. Pure functions that return a reason or None.

They are the built-in rules of SageMaker Debugger for such trainings, and one that it lacks, ``stuck-on-majority``.
https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html
A rule fires at most once, at the first step where its condition holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MIN_GRADIENT = 1e-7
"""Mean |gradient| of a layer below which the layer does not learn."""
MAX_MAGNITUDE = 1e4
"""Size of a weight or of a mean gradient that no healthy training reaches."""
MIN_SPREAD, MAX_SPREAD = 1e-3, 30.0
"""Spread of a layer's initial weights, as standard deviation x sqrt(inputs); He's is 1.4, Glorot's about 1."""
PATIENCE, MIN_DECREASE = 3, 0.005
OVERFIT, OVERFIT_EPOCHS = 0.25, 2
OVERTRAINED_EPOCHS = 4
MIN_UTILISATION = 0.7
MAX_MAJORITY_SHARE, MAJORITY_EPOCHS = 0.95, 2


class EpochLike(Protocol):
    """The fields of an epoch that the rules read; losses in nats, shares 0-1."""

    @property
    def train_loss(self) -> float:
        """Mean over the training photos."""

    @property
    def validation_loss(self) -> float:
        """Mean over the validation photos."""

    @property
    def majority_share(self) -> float:
        """Share of the validation photos with the most frequent prediction."""

    @property
    def gpu_utilisation(self) -> float | None:
        """Mean share of the time in which the GPU was busy; None without a GPU."""


@dataclass(frozen=True)
class Layer:
    """One layer's numbers at a step: mean |gradient|, largest |weight|, and the spread of its weights."""

    name: str
    gradient: float
    largest: float
    spread: float


@dataclass(frozen=True)
class FiredRule:
    """A rule that fired, where, and why."""

    rule: str
    epoch: int
    step: int
    reason: str


def poor_initialisation(layers: Sequence[Layer]) -> str | None:
    """Before the first step, the weights of a layer are all the same or far too large."""
    for layer in layers:
        if not MIN_SPREAD <= layer.spread <= MAX_SPREAD:
            return f"the weights of {layer.name} have a spread of {layer.spread:.2g}; He's initialisation has 1.4"
    return None


def vanishing_gradient(layers: Sequence[Layer]) -> str | None:
    """A layer's gradient is almost zero, so it does not learn."""
    for layer in layers:
        if layer.gradient < MIN_GRADIENT:
            return f"the gradient of {layer.name} is {layer.gradient:.1g} on average"
    return None


def exploding_tensor(layers: Sequence[Layer]) -> str | None:
    """Weights or gradients are huge or not finite."""
    for layer in layers:
        for tensor, value in (("weight", layer.largest), ("gradient", layer.gradient)):
            if not math.isfinite(value) or value > MAX_MAGNITUDE:
                return f"a {tensor} of {layer.name} is {value:.3g}"
    return None


def loss_not_decreasing(epochs: Sequence[EpochLike]) -> str | None:
    """The training loss has not fallen by half a percent within three epochs."""
    if len(epochs) <= PATIENCE:
        return None
    before, best = epochs[-1 - PATIENCE].train_loss, min(epoch.train_loss for epoch in epochs[-PATIENCE:])
    if best < before * (1 - MIN_DECREASE):
        return None
    return f"the training loss was {before:.4f} and is at best {best:.4f} {PATIENCE} epochs later"


def overfit(epochs: Sequence[EpochLike]) -> str | None:
    """In two consecutive epochs, the validation loss is past its minimum and a quarter above the training loss."""
    best = min(epoch.validation_loss for epoch in epochs)
    last = epochs[-OVERFIT_EPOCHS:]
    worse = [epoch.validation_loss > max(best, (1 + OVERFIT) * epoch.train_loss) for epoch in last]
    if len(last) < OVERFIT_EPOCHS or not all(worse):
        return None
    return f"the validation loss is {last[-1].validation_loss:.3f}, the training loss {last[-1].train_loss:.3f}"


def overtraining(epochs: Sequence[EpochLike]) -> str | None:
    """The validation loss has not improved for four epochs."""
    losses = [epoch.validation_loss for epoch in epochs]
    age = len(losses) - 1 - losses.index(min(losses))
    return f"the best validation loss, {min(losses):.3f}, was {age} epochs ago" if age >= OVERTRAINED_EPOCHS else None


def low_gpu_utilisation(epochs: Sequence[EpochLike]) -> str | None:
    """The GPU waits for data or for the CPU."""
    busy = epochs[-1].gpu_utilisation
    return f"the GPU was busy for {busy:.0%} of the epoch" if busy is not None and busy < MIN_UTILISATION else None


def stuck_on_majority(epochs: Sequence[EpochLike]) -> str | None:
    """In two consecutive epochs nearly all predictions are the same, as those of an untrained network can be."""
    shares = [epoch.majority_share for epoch in epochs[-MAJORITY_EPOCHS:]]
    if len(shares) < MAJORITY_EPOCHS or min(shares) < MAX_MAJORITY_SHARE:
        return None
    return f"{shares[-1]:.0%} of the validation photos get the same prediction"


AT_START: Mapping[str, Callable[[Sequence[Layer]], str | None]] = {"poor-initialisation": poor_initialisation}
AT_STEP: Mapping[str, Callable[[Sequence[Layer]], str | None]] = {
    "vanishing-gradient": vanishing_gradient,
    "exploding-tensor": exploding_tensor,
}
AT_EPOCH: Mapping[str, Callable[[Sequence[EpochLike]], str | None]] = {
    "loss-not-decreasing": loss_not_decreasing,
    "overfit": overfit,
    "overtraining": overtraining,
    "low-gpu-utilisation": low_gpu_utilisation,
    "stuck-on-majority": stuck_on_majority,
}
RULES = (*AT_START, *AT_STEP, *AT_EPOCH)
