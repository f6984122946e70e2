"""Training: one epoch, and the loop around it that keeps the best weights.

Read ``fit`` first. A recipe is a small value; everything random comes from its seed.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from serve.errors import TrainingError
from trainer.dataset import Dataset, Part
from trainer.model import Counter, create
from trainer.recipes import Recipe


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave. Losses are mean cross-entropies in nats, accuracies 0-1."""

    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    photos_per_second: float


@dataclass
class Fitted:
    """A trained counter with the weights of its best epoch (lowest validation loss)."""

    model: Counter
    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0


def pick_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    data: Dataset, recipe: Recipe, on_epoch: Callable[[Epoch], object] = lambda _: None,
    device: torch.device | None = None,
) -> Fitted:  # fmt: skip
    """Train ``recipe`` on ``data.train`` and keep the weights with the lowest validation loss.

    ``on_epoch`` is called after each epoch. Raises TrainingError when the loss is not finite.
    """
    device = device or pick_device()
    torch.manual_seed(recipe.seed)
    model = (
        create(recipe.architecture, len(data.counts.values), recipe.size_px)
        .to(device)
        .to(memory_format=torch.channels_last)
    )
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = -(-len(data.train) // recipe.batch_size)
    schedule = _schedule(optimiser, recipe, steps)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    fitted = Fitted(model)
    best_weights, best_loss = copy.deepcopy(model.state_dict()), float("inf")
    with tqdm(total=recipe.epochs * steps, desc=f"training {recipe.name}", unit="batch") as bar:
        for number in range(1, recipe.epochs + 1):
            start, rate = time.perf_counter(), optimiser.param_groups[0]["lr"]
            loss, accuracy = _train_epoch(model, data.train, recipe, number, optimiser, schedule, scaler, bar)
            speed = len(data.train) / (time.perf_counter() - start)
            validation_loss, validation_accuracy = score(model, data.validation)
            epoch = Epoch(number, loss, accuracy, validation_loss, validation_accuracy, rate, speed)
            fitted.epochs.append(epoch)
            on_epoch(epoch)
            bar.set_postfix(loss=f"{loss:.3f}", val=f"{validation_loss:.3f}", acc=f"{validation_accuracy:.1%}")
            if validation_loss < best_loss:
                best_loss, fitted.best_epoch = validation_loss, number
                best_weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return fitted


def _schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.one_cycle:  # Smith, Topin 2018, https://arxiv.org/abs/1708.07120
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _train_epoch(
    model: Counter, part: Part, recipe: Recipe, number: int, optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler, scaler: "torch.amp.GradScaler", bar: "tqdm[None]",
) -> tuple[float, float]:  # fmt: skip
    """One pass over ``part``. Returns mean loss and accuracy as seen while training."""
    device = next(model.parameters()).device
    model.train()
    loss_sum, correct = 0.0, 0
    for pixels, labels in batches(part, recipe, number):
        pixels, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with _precision(device):
            logits = model(pixels)  # (B, C)
            loss = F.cross_entropy(logits, labels)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {number}; lower the learning rate "
                f"(now {optimiser.param_groups[0]['lr']:.2g})"
            )
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimiser)
        scaler.update()
        schedule.step()
        loss_sum += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        bar.update()
    return loss_sum / len(part), correct / len(part)


def _precision(device: torch.device) -> "torch.autocast | nullcontext[None]":
    """Mixed precision on a GPU. On a CPU float32: bfloat16 was measured 3-4 times slower."""
    return torch.autocast("cuda", dtype=torch.float16) if device.type == "cuda" else nullcontext()


def batches(part: Part, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled, augmented batches: pixels uint8 ``(B, S, S, 3)``, labels int64 ``(B,)``."""
    rng = np.random.default_rng([recipe.seed, epoch])
    order = rng.permutation(len(part))
    for start in range(0, len(part), recipe.batch_size):
        chosen = order[start : start + recipe.batch_size]
        pixels = part.pixels[chosen]
        if recipe.augment:
            pixels = _augment(pixels, rng)
        if len(chosen) > 1:  # batch normalisation needs two
            batch = torch.from_numpy(pixels), torch.from_numpy(part.labels[chosen])
            # from pinned memory a copy to the GPU does not wait
            yield (batch[0].pin_memory(), batch[1].pin_memory()) if torch.cuda.is_available() else batch


def _augment(
    pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", rng: np.random.Generator
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Mirror half of the photos and shift each by up to a sixteenth, edges repeated."""
    size = pixels.shape[1]
    reach = size // 16
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    out = np.empty_like(pixels)
    for i, (y, x) in enumerate(rng.integers(0, 2 * reach + 1, (len(pixels), 2))):
        shifted = padded[i, y : y + size, x : x + size]
        out[i] = shifted[:, ::-1] if rng.random() < 0.5 else shifted
    return out


@torch.no_grad()
def score(model: nn.Module, part: Part, batch_size: int = 64) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on ``part``, without augmentation."""
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([
        model(torch.from_numpy(part.pixels[i : i + batch_size]).to(device)).float().cpu()
        for i in range(0, len(part), batch_size)
    ])  # fmt: skip
    labels = torch.from_numpy(part.labels)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
