"""Benchmarks of training: both sides learn the same thing from the same photos, and must reach the same losses."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from serve.errors import TrainingError
from tests.benchmarks.benches import COUNTS, Result, Server, result, timed
from trainer.data import dataset, prepared
from trainer.data.dataset import Dataset, DataSpec
from trainer.data.layouts import read_source
from trainer.data.split import subset
from trainer.training.batches import batches
from trainer.training.networks import create
from trainer.training.recipes import RECIPES, Recipe
from trainer.training.scoring import score
from trainer.training.train import fit

Losses = list[tuple[float, float]]
"""Of every epoch, the training and the validation loss, in nats."""


def bench_tune(data: Path, _server: Server, photos: int = 600, size_px: int = 112) -> Result:
    """Five trials on frozen bodies, VGG-16 twice, ResNet-34 twice, AlexNet: from nothing but the decoded photos.

    Peer: the same trials with the body run again in every epoch. The bodies' weights are random: what
    they are does not change the time.
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
        made = prepared.prepare(_some(data, photos, Path(folder)), Path(folder) / "prepared", COUNTS)
        prepared.decoded(made, size_px)
        found = prepared.load_any(DataSpec(made.folder), size_px)
        theirs_s, theirs = timed(lambda: [_every_epoch(found, each) for each in trials])
        ours_s, ours = timed(lambda: [_losses(found, each) for each in trials])
    for mine, other in zip(ours, theirs, strict=True):
        _refuse_other_losses(mine, other, 0.001)
    return result("tune", 7.0, {"the body in every epoch": [theirs_s], "ours": [ours_s]})


def _losses(data: Dataset, recipe: Recipe) -> Losses:
    return [(epoch.train_loss, epoch.validation_loss) for epoch in fit(data, recipe).epochs]


def _every_epoch(data: Dataset, recipe: Recipe) -> Losses:
    torch.manual_seed(recipe.seed)
    model = create(recipe.architecture, len(COUNTS.values), recipe.size_px, recipe.weights, frozen=True)
    model = model.to(memory_format=torch.channels_last)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    # fused as ours: losses of some dozens, which features of random weights give, follow every rounding
    optimiser = torch.optim.AdamW(model.head.parameters(), rate, weight_decay=decay, fused=True)
    found = []
    for number in range(1, recipe.epochs + 1):
        model.train()
        total = 0.0
        for pixels, labels, _ in batches(data.train, replace(recipe, frozen=False, augment=False), number):
            with torch.no_grad():
                features = model.features(pixels)
            loss = F.cross_entropy(model.classify(features), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(labels)
        found.append((total / len(data.train), score(model, data.validation).loss))
    return found


def bench_train(data: Path, _server: Server, photos: int = 160, size_px: int = 224, runs: int = 5) -> Result:
    """Three epochs of ResNet-34 from scratch, batch 16, from JPEG files to the validation loss.

    Peer: the loop of torchvision's references/classification/train.py: ImageFolder, a DataLoader with
    two workers, accuracies at every step.
    """
    recipe = replace(RECIPES["resnet34-scratch"], size_px=size_px, epochs=3, learning_rate=0.0001, augment=False)
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        spec = DataSpec(_some(data, photos, Path(folder)))
        division = dataset.load(spec, 32)
        times: dict[str, list[float]] = {"torchvision's reference loop": [], "ours": []}
        for _ in range(runs):
            theirs_s, theirs = timed(lambda: _reference(division, recipe))
            ours_s, ours = timed(lambda: _losses(dataset.load(spec, size_px), recipe))
            times["torchvision's reference loop"].append(theirs_s)
            times["ours"].append(ours_s)
            # a hundred photos are soon learned by heart: the validation loss then follows every rounding
            _refuse_other_losses(ours, theirs, 0.1)
    return result("train", 1.15, times)


def bench_precision(data: Path, _server: Server, photos: int = 160, size_px: int = 160, runs: int = 3) -> Result:
    """An epoch of ResNet-34 from scratch, batch 16, in bfloat16. Peer: the same in float32.

    What comes out depends on the CPU: one without instructions for bfloat16 is slower with it.
    """
    whole = replace(RECIPES["resnet34-scratch"], size_px=size_px, epochs=1, learning_rate=0.0001, precision="float32")
    times: dict[str, list[float]] = {"float32": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        found = dataset.load(DataSpec(_some(data, photos, Path(folder))), size_px)
        for _ in range(runs):
            float32_s, theirs = timed(lambda: _losses(found, whole))
            bfloat16_s, ours = timed(lambda: _losses(found, replace(whole, precision="bfloat16")))
            times["float32"].append(float32_s)
            times["ours"].append(bfloat16_s)
            _refuse_other_losses(ours, theirs, 0.1)
    return result("precision", 1.2, times)


def _some(data: Path, photos: int, folder: Path) -> Path:
    """A folder per count with links to some of the photos."""
    for photo in subset(read_source(data, COUNTS).photos, photos, 0):
        target = folder / "images" / str(photo.count) / f"{photo.id}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(photo.path.resolve())
    return folder / "images"


def _refuse_other_losses(ours: Losses, theirs: Losses, tolerance: float) -> None:
    """``tolerance``: in nats, and of a loss above one nat a share."""
    for mine, other in zip(ours, theirs, strict=True):
        if any(abs(a - b) > tolerance * max(1.0, b) for a, b in zip(mine, other, strict=True)):
            raise TrainingError(f"the two sides did not learn the same: ours {ours}, theirs {theirs}; compare nothing")


@dataclass
class _Order:
    """The order of our batches, for the other side's loader."""

    order: Sequence[int] = ()

    def __iter__(self) -> Any:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def _reference(data: Dataset, recipe: Recipe) -> Losses:
    """What torchvision's reference does for such a training, with our order of the photos and our first weights."""
    import numpy as np
    from torch.utils.data import DataLoader
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

    squash = Compose(
        [
            Resize((recipe.size_px, recipe.size_px), InterpolationMode.BILINEAR, antialias=True),
            PILToTensor(),
        ]
    )

    class Photos(torch.utils.data.Dataset[Any]):
        def __init__(self, part: dataset.Part) -> None:
            self.part = part

        def __len__(self) -> int:
            return len(self.part)

        def __getitem__(self, row: int) -> Any:
            return squash(default_loader(str(self.part.photos[row].path))), int(self.part.labels[row])

    torch.manual_seed(recipe.seed)
    model, criterion, order = (
        create(recipe.architecture, len(COUNTS.values), recipe.size_px),
        nn.CrossEntropyLoss(),
        _Order(),
    )
    optimiser = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    train = DataLoader(Photos(data.train), recipe.batch_size, sampler=order, num_workers=2)
    validation = DataLoader(Photos(data.validation), recipe.batch_size, num_workers=2)
    found = []
    for number in range(1, recipe.epochs + 1):
        order.order = np.random.default_rng([recipe.seed, number]).permutation(len(data.train)).tolist()
        model.train()
        total = correct = 0.0
        for image, target in train:
            output = model(image.permute(0, 2, 3, 1))
            loss = criterion(output, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            correct += int((output.argmax(1) == target).sum())
            total += loss.item() * len(target)
        model.eval()
        with torch.inference_mode():
            losses = [criterion(model(i.permute(0, 2, 3, 1)), t).item() * len(t) for i, t in validation]
        found.append((total / len(data.train), sum(losses) / len(data.validation)))
    return found


BENCHES = {"tune": bench_tune, "train": bench_train, "precision": bench_precision}
