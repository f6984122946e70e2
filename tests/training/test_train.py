from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from serve.errors import TrainingError
from tests.models import TINY
from trainer.data import prepared
from trainer.data.counts import Counts
from trainer.data.dataset import Dataset, DataSpec, load
from trainer.data.prepare import prepare
from trainer.training.loop.batches import batches
from trainer.training.networks import ARCHITECTURES, create
from trainer.training.recipes import RECIPES
from trainer.training.scoring import score
from trainer.training.train import fit

RESNET = replace(TINY, architecture="resnet18")


@pytest.fixture(scope="module")
def data(drawn: Path) -> Dataset:
    return load(DataSpec(drawn, limit=100), 32)


def test_the_same_seed_gives_the_same_weights(data: Dataset) -> None:
    first, second = fit(data, TINY), fit(data, TINY)
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    reseeded = fit(data, replace(TINY, seed=1))
    assert not torch.equal(first.model.head.weight, reseeded.model.head.weight)


def test_keeps_the_weights_of_the_lowest_validation_loss(data: Dataset) -> None:
    result = fit(data, replace(TINY, epochs=4))
    losses = [epoch.validation_loss for epoch in result.epochs]
    assert result.best_epoch == 1 + losses.index(min(losses))
    assert score(result.model, data.validation).loss == pytest.approx(min(losses), abs=1e-5)


def test_an_epoch_sees_every_photo_once(data: Dataset) -> None:
    recipe = replace(TINY, augment=False)
    labels = torch.cat([batch.labels for batch in batches(data.train, recipe, 1)])
    assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())
    next_epoch = torch.cat([batch.labels for batch in batches(data.train, recipe, 2)])
    assert not torch.equal(labels, next_epoch)


def test_augmentation_leaves_the_data_as_it_was(data: Dataset) -> None:
    before = data.train.pixels[:].copy()
    augmented = torch.cat([batch.inputs for batch in batches(data.train, TINY, 1)])
    assert augmented.shape[1:] == (32, 32, 3)
    assert np.array_equal(before, data.train.pixels[:])


def test_a_last_batch_of_one_photo_does_not_stop_the_training(data: Dataset) -> None:
    result = fit(data, replace(RESNET, batch_size=len(data.train) - 1))  # its last feature maps have one pixel
    assert np.isfinite(result.epochs[0].validation_loss)


def test_bfloat16_computes_with_less_and_keeps_and_scores_float32(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RESNET, epochs=2, augment=False)
    full = fit(data, recipe)
    assert fit(data, replace(recipe, precision="float32")).epochs[0].train_loss == full.epochs[0].train_loss
    dtypes, cross_entropy = [], F.cross_entropy

    def recording(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        dtypes.append(logits.dtype)
        return cross_entropy(logits, *args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", recording)
    half = fit(data, replace(recipe, precision="bfloat16"))
    scored = 2
    assert dtypes.count(torch.bfloat16) == len(dtypes) - scored > 0
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert half.epochs[0].train_loss != full.epochs[0].train_loss
    assert half.epochs[0].train_loss == pytest.approx(full.epochs[0].train_loss, abs=0.05)
    best = min(epoch.validation_loss for epoch in half.epochs)
    assert score(half.model, data.validation).loss == pytest.approx(best, abs=1e-5)


def test_says_when_the_loss_is_no_number(data: Dataset) -> None:
    with pytest.raises(TrainingError, match=r"\b(nan|inf)\b.* learning rate"):
        fit(data, replace(TINY, learning_rate=1e30, epochs=3, schedule="constant"))


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(TrainingError, match="resnet18"):
        create("resnet99", 5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model_gives_one_logit_a_count(name: str) -> None:
    logits = create(name, 7).eval()(torch.zeros((2, 64, 64, 3), dtype=torch.uint8))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "architecture", "frozen", "batch_size", "learning_rate", "epochs"),
    [
        ("hpo-frozen", "resnet34", True, 32, 0.002, 5),
        ("vgg-finetune", "vgg16", False, 16, 0.002, 10),
        ("resnet34-scratch", "resnet34", False, 16, 0.002, 10),
        ("resnet34-pipeline", "resnet34", True, 64, 0.01, 3),
        ("resnet34-benchmark", "resnet34", False, 128, 0.1, 40),
    ],
)
def test_the_report_s_experiments_are_recipes(
    name: str, architecture: str, frozen: bool, batch_size: int, learning_rate: float, epochs: int
) -> None:
    recipe = RECIPES[name]
    assert (recipe.architecture, recipe.frozen, recipe.batch_size) == (architecture, frozen, batch_size)
    assert (recipe.learning_rate, recipe.epochs, recipe.size_px) == (learning_rate, epochs, 224)


def test_the_rate_falls_to_a_tenth_every_ten_epochs(data: Dataset) -> None:
    recipe = replace(TINY, schedule="step", optimiser="sgd", learning_rate=0.1, epochs=21, batch_size=70)
    rates = [epoch.learning_rate for epoch in fit(data, recipe).epochs]
    assert rates == pytest.approx([0.1] * 9 + [0.01] * 10 + [0.001] * 2)


def test_photos_too_small_for_a_network_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"alexnet .*\b63\b.*\b32\b"):
        create("alexnet", 5, 32)


def test_pretrained_weights_without_a_network_name_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(TrainingError, match=r"--weights FILE, .* --weights none, .* efficientnet-lite0"):
        create("resnet34", 5, 64, weights="pretrained")


def test_imagenet_s_weights_come_with_the_package() -> None:
    first, second = (create("efficientnet-lite0", 5, 64, weights="pretrained") for _ in range(2))
    assert torch.equal(first.body.network._conv_stem.weight, second.body.network._conv_stem.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(first.head.weight, second.head.weight), "the head is new"


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    counter = create("resnet18", 5, 64)
    own, torchvision = tmp_path / "own.pt", tmp_path / "torchvision.pt"
    torch.save(counter.state_dict(), own)
    torch.save({key.removeprefix("body."): value for key, value in counter.state_dict().items()}, torchvision)
    for path in (own, torchvision):
        loaded = create("resnet18", 9, 64, weights=str(path))
        for key, value in counter.body.state_dict().items():
            assert torch.equal(value, loaded.body.state_dict()[key])


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"weights"])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"weights\.pt"):
        create("resnet18", 5, 64, weights=str(path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(create("resnet18", 5, 64).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(TrainingError, match=r"weights\.pt .*\b216\b"):
        create("resnet34", 5, 64, weights=str(tmp_path / "weights.pt"))


FROZEN = replace(TINY, frozen=True, epochs=3, batch_size=16)


def test_a_frozen_body_does_not_learn(data: Dataset) -> None:
    torch.manual_seed(FROZEN.seed)
    fresh = create(FROZEN.architecture, 5, 32)
    result = fit(data, FROZEN)
    for key, value in fresh.body.state_dict().items():
        assert torch.equal(value, result.model.body.state_dict()[key]), key
    assert not torch.equal(fresh.head.weight, result.model.head.weight)


def test_features_that_are_computed_once_give_the_losses_of_running_the_body_every_epoch(
    drawn: Path, tmp_path: Path
) -> None:
    spec = DataSpec(prepare(drawn, tmp_path / "out", Counts()).folder)
    cached = fit(prepared.load_any(spec, 32), FROZEN)
    features = [path for path in (tmp_path / "out" / "cache").iterdir() if path.name.startswith("small-32px")]
    assert len(features) == 1
    stamp = features[0].stat().st_mtime_ns
    second = fit(prepared.load_any(spec, 32), replace(FROZEN, learning_rate=0.01))
    assert features[0].stat().st_mtime_ns == stamp, "another trial reads the same features"
    assert len(second.epochs) == 3
    losses = fit_every_epoch(prepared.load_any(spec, 32))
    assert [epoch.train_loss for epoch in cached.epochs] == pytest.approx(losses, abs=1e-5)
    in_memory = fit(load(DataSpec(drawn), 32), FROZEN)
    assert [epoch.train_loss for epoch in in_memory.epochs] == pytest.approx(losses, abs=1e-5)


def test_the_half_of_the_validation_photos_that_selects_gets_its_own_features(drawn: Path, tmp_path: Path) -> None:
    """A part of a part still names the rows of the whole table."""
    spec = DataSpec(prepare(drawn, tmp_path / "out", Counts()).folder)
    for recipe in (FROZEN, replace(RECIPES["best"], size_px=64, epochs=1, extra=False)):
        losses = []
        for data in (prepared.load_any(spec, recipe.size_px), load(DataSpec(drawn), recipe.size_px)):
            selection, _ = data.validation.halves(0)
            result = fit(replace(data, validation=selection), recipe)
            losses.append([epoch.validation_loss for epoch in result.epochs])
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def fit_every_epoch(data: Dataset) -> list[float]:
    """The training losses of a plain loop: the frozen body runs on every batch of every epoch."""
    torch.manual_seed(FROZEN.seed)
    counter = create(FROZEN.architecture, 5, 32, frozen=True)
    optimiser = torch.optim.AdamW(counter.head.parameters(), FROZEN.learning_rate, weight_decay=FROZEN.weight_decay)
    steps = -(-len(data.train) // FROZEN.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, FROZEN.learning_rate, total_steps=FROZEN.epochs * steps)
    losses = []
    for number in range(1, FROZEN.epochs + 1):
        counter.train()
        loss_sum, photos = 0.0, 0
        for pixels, labels, *_ in batches(data.train, replace(FROZEN, frozen=False, augment=False), number):
            loss = torch.nn.functional.cross_entropy(counter(pixels), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            loss_sum, photos = loss_sum + loss.item() * len(labels), photos + len(labels)
        losses.append(loss_sum / photos)
    return losses
