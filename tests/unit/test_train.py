from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from serve.errors import TrainingError
from tests.conftest import TINY
from trainer.data import prepared
from trainer.data.counts import Counts
from trainer.data.dataset import Dataset, DataSpec, load
from trainer.training.batches import batches
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
    other = fit(data, replace(TINY, seed=1))
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


def test_keeps_the_weights_of_the_lowest_validation_loss(data: Dataset) -> None:
    fitted = fit(data, replace(TINY, epochs=4))
    losses = [epoch.validation_loss for epoch in fitted.epochs]
    assert fitted.best_epoch == 1 + losses.index(min(losses))
    assert score(fitted.model, data.validation)[0] == pytest.approx(min(losses), abs=1e-5)


def test_an_epoch_sees_every_photo_once(data: Dataset) -> None:
    recipe = replace(TINY, augment=False)
    labels = torch.cat([labels for _, labels, _ in batches(data.train, recipe, 1)])
    assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())
    again = torch.cat([labels for _, labels, _ in batches(data.train, recipe, 2)])
    assert not torch.equal(labels, again)


def test_augmentation_leaves_the_data_as_it_was(data: Dataset) -> None:
    before = data.train.pixels[:].copy()
    shown = torch.cat([pixels for pixels, _, _ in batches(data.train, TINY, 1)])
    assert shown.shape[1:] == (32, 32, 3)
    assert np.array_equal(before, data.train.pixels[:])


def test_a_last_batch_of_one_photo_does_not_stop_the_training(data: Dataset) -> None:
    fitted = fit(data, replace(RESNET, batch_size=len(data.train) - 1))  # its last maps are a pixel
    assert np.isfinite(fitted.epochs[0].validation_loss)


def test_bfloat16_computes_with_less_and_keeps_and_scores_float32(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RESNET, epochs=2, augment=False)
    whole = fit(data, recipe)
    assert fit(data, replace(recipe, precision="float32")).epochs[0].train_loss == whole.epochs[0].train_loss
    seen, real = [], F.cross_entropy

    def noting(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(logits.dtype)
        return real(logits, *args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", noting)
    half = fit(data, replace(recipe, precision="bfloat16"))
    scored = 2
    assert seen.count(torch.bfloat16) == len(seen) - scored > 0
    assert {each.dtype for each in half.model.parameters()} == {torch.float32}
    assert half.epochs[0].train_loss != whole.epochs[0].train_loss
    assert half.epochs[0].train_loss == pytest.approx(whole.epochs[0].train_loss, abs=0.05)
    best = min(epoch.validation_loss for epoch in half.epochs)
    assert score(half.model, data.validation).loss == pytest.approx(best, abs=1e-5)


def test_says_when_the_loss_is_no_number(data: Dataset) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
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
    with pytest.raises(TrainingError, match="alexnet needs photos of at least 63 px; size_px is 32"):
        create("alexnet", 5, 32)


def test_pretrained_weights_without_a_network_name_the_alternatives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(TrainingError, match=r"--weights FILE, .* --weights none, or take efficientnet-lite0"):
        create("resnet34", 5, 64, weights="pretrained")


def test_imagenet_s_weights_come_with_the_package() -> None:
    first, second = (create("efficientnet-lite0", 5, 64, weights="pretrained") for _ in range(2))
    assert torch.equal(first.body.network._conv_stem.weight, second.body.network._conv_stem.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(first.head.weight, second.head.weight), "the head is new"


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    counter = create("resnet18", 5, 64)
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pt"
    torch.save(counter.state_dict(), ours)
    torch.save({key.removeprefix("body."): value for key, value in counter.state_dict().items()}, theirs)
    for path in (ours, theirs):
        loaded = create("resnet18", 9, 64, weights=str(path))
        for key, value in counter.body.state_dict().items():
            assert torch.equal(value, loaded.body.state_dict()[key])


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"weights"])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"weights\.pt cannot be read"):
        create("resnet18", 5, 64, weights=str(path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(create("resnet18", 5, 64).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(TrainingError, match=r"does not fit the model: \d+ of 216 tensors are missing"):
        create("resnet34", 5, 64, weights=str(tmp_path / "weights.pt"))


FROZEN = replace(TINY, frozen=True, epochs=3, batch_size=16)


def test_a_frozen_body_does_not_learn(data: Dataset) -> None:
    torch.manual_seed(FROZEN.seed)
    fresh = create(FROZEN.architecture, 5, 32)
    fitted = fit(data, FROZEN)
    for key, value in fresh.body.state_dict().items():
        assert torch.equal(value, fitted.model.body.state_dict()[key]), key
    assert not torch.equal(fresh.head.weight, fitted.model.head.weight)


def test_features_that_are_computed_once_give_the_losses_of_running_the_body_every_epoch(
    drawn: Path, tmp_path: Path
) -> None:
    made = prepared.prepare(drawn, tmp_path / "out", Counts())
    spec = DataSpec(made.folder)
    kept = fit(prepared.load_any(spec, 32), FROZEN)
    features = [path for path in (tmp_path / "out" / "cache").iterdir() if path.name.startswith("small-32px")]
    assert len(features) == 1
    stamp = features[0].stat().st_mtime_ns
    again = fit(prepared.load_any(spec, 32), replace(FROZEN, learning_rate=0.01))
    assert features[0].stat().st_mtime_ns == stamp, "another trial reads the same features"
    assert len(again.epochs) == 3
    slow = fit_every_epoch(prepared.load_any(spec, 32))
    assert [epoch.train_loss for epoch in kept.epochs] == pytest.approx(slow, abs=1e-5)
    memory = fit(load(DataSpec(drawn), 32), FROZEN)
    assert [epoch.train_loss for epoch in memory.epochs] == pytest.approx(slow, abs=1e-5)


def test_the_half_of_the_validation_photos_that_selects_gets_its_own_features(drawn: Path, tmp_path: Path) -> None:
    """A part of a part still names the rows of the whole table."""
    spec = DataSpec(prepared.prepare(drawn, tmp_path / "out", Counts()).folder)
    for recipe in (FROZEN, replace(RECIPES["best"], size_px=64, epochs=1, extra=False)):
        losses = []
        for data in (prepared.load_any(spec, recipe.size_px), load(DataSpec(drawn), recipe.size_px)):
            selection, _ = data.validation.halves(0)
            losses.append([each.validation_loss for each in fit(replace(data, validation=selection), recipe).epochs])
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def fit_every_epoch(data: Dataset) -> list[float]:
    """The plain loop: the frozen body runs over every batch of every epoch."""
    torch.manual_seed(FROZEN.seed)
    counter = create(FROZEN.architecture, 5, 32, frozen=True)
    optimiser = torch.optim.AdamW(counter.head.parameters(), FROZEN.learning_rate, weight_decay=FROZEN.weight_decay)
    steps = -(-len(data.train) // FROZEN.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, FROZEN.learning_rate, total_steps=FROZEN.epochs * steps)
    losses = []
    for number in range(1, FROZEN.epochs + 1):
        counter.train()
        total, seen = 0.0, 0
        for pixels, labels, _ in batches(data.train, replace(FROZEN, frozen=False, augment=False), number):
            loss = torch.nn.functional.cross_entropy(counter(pixels), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total, seen = total + loss.item() * len(labels), seen + len(labels)
        losses.append(total / seen)
    return losses
