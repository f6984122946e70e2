"""The number format of a training's forward and backward passes, and the trial that chooses it on a CPU.

bfloat16 pays where the processor multiplies it (AMX, avx512_bf16, ARM's bf16) and the convolutions of the network are
dense. So ``auto`` tries both formats on a few batches, with a copy of the network: the training itself, its random
numbers and the order of its photos stay as they are.
"""

import copy
import logging
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from torch.nn import functional as F

from trainer.data.dataset import Part
from trainer.training import distributed
from trainer.training.loop.batches import Batch, batches
from trainer.training.recipes import Recipe

FLOAT32, BFLOAT16, FLOAT16 = "float32", "bfloat16", "float16"
FORMATS = {"cpu": (FLOAT32, BFLOAT16), "cuda": (FLOAT16, BFLOAT16, FLOAT32)}
"""The formats that a device can train in; the first is the one of ``auto`` where there is no trial."""
DTYPES = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
INSTRUCTIONS: tuple[str, ...] = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""What torch calls the instructions of x86 and ARM processors that multiply bfloat16."""
STEPS, PHOTOS = 3, 8
"""Batches of a trial, each in both formats, and the photos that each process takes from one."""
MAX_SHARE = 0.1
"""Share of a training's photos, over all epochs, that a trial may cost."""
MIN_PASS_S = 0.05
"""Seconds of a pass in float32 below which no time is to be gained, and what was measured is mostly noise."""
MIN_GAIN = 1.1
"""How many times as fast as float32 bfloat16 must be: it is less exact."""
TOLERANCE = 0.05
"""Largest difference of the mean losses, in nats, or relative for losses above one nat."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenPrecision:
    """The number format of a training, ``float32``, ``bfloat16`` or ``float16``, and why it was chosen."""

    name: str
    reason: str

    @property
    def dtype(self) -> torch.dtype | None:
        """The format that replaces float32; None where nothing does."""
        return DTYPES.get(self.name)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Both formats on the same batches and weights: seconds of each pass, and its loss in nats."""

    float32_s: tuple[float, ...]
    bfloat16_s: tuple[float, ...]
    float32_losses: tuple[float, ...]
    bfloat16_losses: tuple[float, ...]


def choose(model: nn.Module, train: Part, recipe: Recipe, device: torch.device) -> ChosenPrecision:
    """The format for a new training of ``model``; several processes choose together, and the first one's choice holds.

    ``train``: the photos that it will learn from.
    """
    has_instructions = not distributed.any_process(not has_bfloat16())
    choice = without_trial(recipe, device.type, len(train), has_instructions)
    if choice is None:
        choice = distributed.broadcast_from_rank0(decide(run_trial(model, train, recipe)))
    if distributed.rank() == 0:
        log.info("trains in %s: %s", choice.name, choice.reason)
    return choice


def resumed(recorded: str | None, recipe: Recipe, device_type: str) -> ChosenPrecision:
    """The format of a resumed training; ``recorded``: its checkpoint's, None in those of earlier versions."""
    formats = FORMATS[device_type]
    if recorded in formats:
        return ChosenPrecision(recorded, "its checkpoint was trained in it")
    if recipe.precision in formats:
        return ChosenPrecision(recipe.precision, "the recipe names it")
    return ChosenPrecision(formats[0], f"its checkpoint was trained in {recorded or 'a format that it does not name'}")


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS)


def without_trial(recipe: Recipe, device_type: str, photos: int, has_instructions: bool) -> ChosenPrecision | None:
    """The format where none is to be tried, else None. ``photos``: per epoch."""
    if recipe.precision in FORMATS[device_type]:
        return ChosenPrecision(recipe.precision, "the recipe names it")
    default = FORMATS[device_type][0]
    if device_type != "cpu":
        return ChosenPrecision(default, "the format of a GPU")
    if not has_instructions:
        return ChosenPrecision(default, "the processor has no instructions for bfloat16")
    if recipe.frozen:
        return ChosenPrecision(default, "only the head is trained, which has no convolutions")
    cost = 2 * STEPS * PHOTOS
    if cost > MAX_SHARE * recipe.epochs * photos:
        return ChosenPrecision(
            default, f"{recipe.epochs} epochs of {photos} photos are too few for a trial, which takes {cost}"
        )
    return None


def decide(trial: Trial) -> ChosenPrecision:
    """The faster format; float32 where bfloat16 is not clearly faster, or gives other losses."""
    full, half = statistics.mean(trial.float32_losses), statistics.mean(trial.bfloat16_losses)
    difference = abs(half - full) / max(1.0, full)
    gain = min(trial.float32_s) / min(trial.bfloat16_s)  # the least disturbed pass of each
    measured = f"in a trial bfloat16 was {gain:.2f} times as fast and its loss differed by {difference:.4f}"
    if not difference <= TOLERANCE:  # so that a loss that is no number is refused
        return ChosenPrecision(FLOAT32, f"{measured}; {TOLERANCE} is allowed")
    if gain < MIN_GAIN:
        return ChosenPrecision(FLOAT32, f"{measured}; it must be {MIN_GAIN} times as fast")
    if min(trial.float32_s) < MIN_PASS_S:
        return ChosenPrecision(FLOAT32, f"{measured}, but passes of less than {MIN_PASS_S} s are noise")
    return ChosenPrecision(BFLOAT16, measured)


def run_trial(model: nn.Module, train: Part, recipe: Recipe) -> Trial:
    """Forward and backward passes of a copy of ``model`` in both formats in turn; the optimiser is float32 in both."""
    with torch.random.fork_rng(devices=[]):
        network = copy.deepcopy(model).train()
        passes = [
            [_timed_pass(network, batch, dtype) for dtype in (None, torch.bfloat16)]
            for batch in islice(batches(train, recipe, epoch=1), STEPS)
        ]
    full, half = zip(*passes, strict=True)
    return Trial(
        float32_s=_column(full, 0),
        bfloat16_s=_column(half, 0),
        float32_losses=_column(full, 1),
        bfloat16_losses=_column(half, 1),
    )


def _timed_pass(network: nn.Module, batch: Batch, dtype: torch.dtype | None) -> tuple[float, float]:
    """Seconds and loss of one forward and backward pass; the same dropout in both formats."""
    inputs, labels = batch.inputs[:PHOTOS], batch.labels[:PHOTOS]
    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = F.cross_entropy(network(inputs), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start, loss.item()


def _column(rows: Iterable[tuple[float, float]], index: int) -> tuple[float, ...]:
    return tuple(row[index] for row in rows)
