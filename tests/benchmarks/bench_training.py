"""The benchmarks of training. Both sides train the same network on the same photos and must learn the same."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets.folder import default_loader
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

from serve.errors import TrainingError
from tests.benchmarks.results import COUNTS, Result, Server, compare_seconds, timed
from trainer.data import dataset, prepared
from trainer.data.dataset import Dataset, DataSpec
from trainer.data.layouts import read_source
from trainer.data.prepare import prepare
from trainer.data.split import subset
from trainer.training.loop.batches import batches
from trainer.training.loop.precision import has_bfloat16
from trainer.training.networks import create
from trainer.training.recipes import RECIPES, Recipe
from trainer.training.scoring import score
from trainer.training.train import fit

Losses = list[tuple[float, float]]
"""The training and the validation loss of every epoch, in nats."""


def bench_tune(data: Path, _server: Server, photos: int = 600, size_px: int = 112) -> Result:
    """Five trials on frozen bodies (VGG-16 twice, ResNet-34 twice, AlexNet), starting from the decoded photos.

    Peer: the same trials, but the body runs in every epoch. The weights of the bodies are random, because they do not
    change the time.
    """
    base = replace(RECIPES["hpo-frozen"], weights="none", size_px=size_px, epochs=5)
    trials = [
        replace(base, architecture=name, learning_rate=rate, batch_size=size)
        for name, rate, size in (
            ("vgg16", 0.001, 32),
            ("vgg16", 0.003, 16),
            ("resnet34", 0.001, 64),
            ("resnet34", 0.01, 32),
            ("alexnet", 0.001, 16),
        )
    ]
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        source = prepare(_link_photos(data, photos, Path(folder)), Path(folder) / "prepared", COUNTS)
        prepared.decoded(source, size_px)
        data_split = prepared.load_any(DataSpec(source.folder), size_px)
        peer_s, peer_losses = timed(lambda: [_fit_every_epoch(data_split, trial) for trial in trials])
        own_s, own_losses = timed(lambda: [_fit(data_split, trial) for trial in trials])
    for own, peer in zip(own_losses, peer_losses, strict=True):
        _check_losses(own, peer, 0.001)
    return compare_seconds("tune", 10.0, {"the body in every epoch": [peer_s], "ours": [own_s]})


def _fit(data: Dataset, recipe: Recipe) -> Losses:
    return [(epoch.train_loss, epoch.validation_loss) for epoch in fit(data, recipe).epochs]


def _fit_every_epoch(data: Dataset, recipe: Recipe) -> Losses:
    """Train the head on a frozen body that runs in every epoch."""
    torch.manual_seed(recipe.seed)
    model = create(recipe.architecture, len(COUNTS.values), recipe.size_px, recipe.weights, frozen=True)
    model = model.to(memory_format=torch.channels_last)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # fused as in the product: losses of several dozen, as random weights give, amplify every rounding difference
    optimiser = torch.optim.AdamW(model.head.parameters(), rate, weight_decay=decay, fused=True)
    losses = []
    for number in range(1, recipe.epochs + 1):
        model.train()
        total = 0.0
        for pixels, labels, *_ in batches(data.train, replace(recipe, frozen=False, augment=False), number):
            with torch.no_grad():
                features = model.features(pixels)
            loss = F.cross_entropy(model.classify(features), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(labels)
        losses.append((total / len(data.train), score(model, data.validation).loss))
    return losses


def bench_train(data: Path, _server: Server, size_px: int = 224) -> Result:
    """Three epochs of ResNet-34 from scratch, batch 16, from JPEG files to the validation loss.

    Peer: the loop of torchvision's references/classification/train.py, in float32 as it is: ImageFolder, a DataLoader
    with two workers, accuracy at every step. On a processor that multiplies bfloat16 this project chooses that format
    itself, and the trial that it chooses by is part of its time.
    """
    target, photos, runs = (2.5, 480, 2) if has_bfloat16() else (1.15, 160, 5)
    recipe = replace(RECIPES["resnet34-scratch"], size_px=size_px, epochs=3, learning_rate=0.0001, augment=False)
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        spec = DataSpec(_link_photos(data, photos, Path(folder)))
        data_split = dataset.load(spec, 32)
        seconds: dict[str, list[float]] = {"torchvision's reference loop": [], "ours": []}
        for _ in range(runs):
            peer_s, peer_losses = timed(lambda: _fit_as_torchvision(data_split, recipe))
            own_s, own_losses = timed(lambda: _fit(dataset.load(spec, size_px), recipe))
            seconds["torchvision's reference loop"].append(peer_s)
            seconds["ours"].append(own_s)
            check_curve(own_losses, peer_losses)
    return compare_seconds("train", target, seconds)


def bench_precision(data: Path, _server: Server, photos: int = 800, size_px: int = 160, runs: int = 3) -> Result:
    """An epoch of ResNet-34 from scratch, batch 16, in the number format that is chosen. Peer: the same in float32.

    The target depends on the processor: where it multiplies no bfloat16, choosing must cost nothing.
    """
    chosen = replace(RECIPES["resnet34-scratch"], size_px=size_px, epochs=1, learning_rate=0.0001)
    seconds: dict[str, list[float]] = {"float32": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        data_split = dataset.load(DataSpec(_link_photos(data, photos, Path(folder))), size_px)
        for _ in range(runs):
            float32_s, float32_losses = timed(lambda: _fit(data_split, replace(chosen, precision="float32")))
            own_s, own_losses = timed(lambda: _fit(data_split, chosen))
            seconds["float32"].append(float32_s)
            seconds["ours"].append(own_s)
            check_curve(own_losses, float32_losses)
    return compare_seconds("precision", 1.2 if has_bfloat16() else 0.95, seconds)


def _link_photos(data: Path, photos: int, folder: Path) -> Path:
    """A folder per count with links to some of the photos."""
    for photo in subset(read_source(data, COUNTS).photos, photos, 0):
        target = folder / "images" / str(photo.count) / f"{photo.id}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(photo.path.resolve())
    return folder / "images"


def _check_losses(losses: Losses, peer_losses: Losses, tolerance: float) -> None:
    """Raises TrainingError for different losses. ``tolerance``: in nats, or relative for losses above one nat."""
    for epoch, peer_epoch in zip(losses, peer_losses, strict=True):
        if any(abs(a - b) > tolerance * max(1.0, b) for a, b in zip(epoch, peer_epoch, strict=True)):
            raise TrainingError(
                f"the two sides did not learn the same, so their times cannot be compared: losses {losses}, the peer's "
                f"{peer_losses}"
            )


def check_curve(losses: Losses, peer_losses: Losses) -> None:
    """Raises TrainingError where the training losses differ by more than rounding can make of them.

    Rounding differs between the formats and between the loops, and grows from step to step: a tenth of a nat in the
    first epoch, two tenths later; relative for losses above one nat. The validation losses are left out: those of a
    network that has memorised a few hundred photos are noise.
    """
    for number, ((loss, _), (peer_loss, _)) in enumerate(zip(losses, peer_losses, strict=True), 1):
        tolerance = (0.1 if number == 1 else 0.2) * max(1.0, peer_loss)
        if not abs(loss - peer_loss) <= tolerance:
            raise TrainingError(
                f"the two sides did not learn the same, so their times cannot be compared: in epoch {number} the "
                f"training losses are {loss:.3f} and {peer_loss:.3f}; a difference of {tolerance:.3f} is allowed"
            )


class _Order(Sampler[int]):
    """A sampler with the order of this project's batches."""

    order: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class _Photos(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Photos of a split as torchvision's ImageFolder reads them: uint8 ``(3, S, S)``, and their labels."""

    def __init__(self, part: dataset.Part, size_px: int) -> None:
        squash = Resize((size_px, size_px), InterpolationMode.BILINEAR, antialias=True)
        self.part, self.transform = part, Compose([squash, PILToTensor()])

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(default_loader(str(self.part.photos[row].path))), int(self.part.labels[row])


def _fit_as_torchvision(data: Dataset, recipe: Recipe) -> Losses:
    """Train as torchvision's reference, with this project's order of the photos and initial weights."""
    torch.manual_seed(recipe.seed)
    model = create(recipe.architecture, len(COUNTS.values), recipe.size_px)
    criterion, order = nn.CrossEntropyLoss(), _Order()
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    train = DataLoader(_Photos(data.train, recipe.size_px), recipe.batch_size, sampler=order, num_workers=2)
    validation = DataLoader(_Photos(data.validation, recipe.size_px), recipe.batch_size, num_workers=2)
    losses = []
    for number in range(1, recipe.epochs + 1):
        order.order = np.random.default_rng([recipe.seed, number]).permutation(len(data.train)).tolist()
        model.train()
        total = correct = 0.0
        for images, targets in train:
            logits = model(images.permute(0, 2, 3, 1))
            loss = criterion(logits, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            correct += int((logits.argmax(1) == targets).sum())
            total += loss.item() * len(targets)
        model.eval()
        with torch.inference_mode():
            sums = [criterion(model(i.permute(0, 2, 3, 1)), t).item() * len(t) for i, t in validation]
        losses.append((total / len(data.train), sum(sums) / len(data.validation)))
    return losses
