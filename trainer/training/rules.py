"""Rules: what a debugger would have noticed while a model trains. Pure: numbers in, a reason out.

They are those that SageMaker Debugger ran for such trainings, and one that it lacked:
``stuck-on-majority``. https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html
Each fires once, at the step where it is first seen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

VANISHED = 1e-7
"""Mean size of a layer's gradient below which the layer does not learn."""
EXPLODED = 1e4
"""Size of a weight or a mean gradient that no healthy training reaches."""
LEAST_SPREAD, MOST_SPREAD = 1e-3, 30.0
"""Spread of a layer's first weights, as standard deviation x sqrt(inputs); He's is 1.4, Glorot's about 1."""
PATIENCE, LEAST_FALL = 3, 0.005
OVERFIT, OVERFIT_EPOCHS = 0.25, 2
OVERTRAINED_EPOCHS = 4
LEAST_UTILISATION = 0.7
MAJORITY = 0.95


class EpochLike(Protocol):
    """What the rules read of an epoch; losses in nats, shares 0-1."""

    @property
    def train_loss(self) -> float:
        """Mean over the training photos."""

    @property
    def validation_loss(self) -> float:
        """Mean over the validation photos."""

    @property
    def majority_share(self) -> float:
        """Share of the validation photos that got the most frequent answer."""

    @property
    def gpu_utilisation(self) -> float | None:
        """Mean share of the time that the GPU computed; None without one."""


@dataclass(frozen=True)
class Layer:
    """One layer's numbers at a step: mean |gradient|, largest |weight|, and the spread of its weights."""

    name: str
    gradient: float
    largest: float
    spread: float


@dataclass(frozen=True)
class Fired:
    """A rule that fired: where, and why."""

    rule: str
    epoch: int
    step: int
    reason: str


def poor_initialisation(layers: Sequence[Layer]) -> str | None:
    """Before the first step: weights that are all the same, or far too large."""
    for each in layers:
        if not LEAST_SPREAD <= each.spread <= MOST_SPREAD:
            return f"the weights of {each.name} have a spread of {each.spread:.2g}; He's initialisation has 1.4"
    return None


def vanishing_gradient(layers: Sequence[Layer]) -> str | None:
    """A layer whose gradient is next to nothing: it does not learn."""
    for each in layers:
        if each.gradient < VANISHED:
            return f"the gradient of {each.name} is {each.gradient:.1g} on average"
    return None


def exploding_tensor(layers: Sequence[Layer]) -> str | None:
    """Weights or gradients that are huge or no numbers."""
    for each in layers:
        for what, value in (("weight", each.largest), ("gradient", each.gradient)):
            if not math.isfinite(value) or value > EXPLODED:
                return f"a {what} of {each.name} is {value:.3g}"
    return None


def loss_not_decreasing(epochs: Sequence[EpochLike]) -> str | None:
    """The training loss has not fallen by half a percent within three epochs."""
    if len(epochs) <= PATIENCE:
        return None
    before, now = epochs[-1 - PATIENCE].train_loss, min(each.train_loss for each in epochs[-PATIENCE:])
    fell = now < before * (1 - LEAST_FALL)
    return None if fell else f"the training loss was {before:.4f} and is at best {now:.4f} {PATIENCE} epochs later"


def overfit(epochs: Sequence[EpochLike]) -> str | None:
    """The validation loss is a quarter above the training loss, and past its best, two epochs running."""
    best = min(each.validation_loss for each in epochs)
    last = epochs[-OVERFIT_EPOCHS:]
    worse = [each.validation_loss > max(best, (1 + OVERFIT) * each.train_loss) for each in last]
    if len(last) < OVERFIT_EPOCHS or not all(worse):
        return None
    return f"the validation loss is {last[-1].validation_loss:.3f}, the training loss {last[-1].train_loss:.3f}"


def overtraining(epochs: Sequence[EpochLike]) -> str | None:
    """Four epochs without a better validation loss: the time is wasted."""
    losses = [each.validation_loss for each in epochs]
    waited = len(losses) - 1 - losses.index(min(losses))
    late = waited >= OVERTRAINED_EPOCHS
    return f"the best validation loss, {min(losses):.3f}, was {waited} epochs ago" if late else None


def low_gpu_utilisation(epochs: Sequence[EpochLike]) -> str | None:
    """The GPU waits for data or for the processor."""
    found = epochs[-1].gpu_utilisation
    return f"the GPU computed {found:.0%} of the epoch" if found is not None and found < LEAST_UTILISATION else None


def stuck_on_majority(epochs: Sequence[EpochLike]) -> str | None:
    """Nearly every photo gets the same answer, two epochs running: an untrained network does that too."""
    shares = [each.majority_share for each in epochs[-2:]]
    if len(shares) < 2 or min(shares) < MAJORITY:
        return None
    return f"{shares[-1]:.0%} of the validation photos get the same answer"


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
