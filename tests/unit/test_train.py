from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve.errors import TrainingError
from tests.conftest import TINY
from trainer.dataset import Dataset, DataSpec, load
from trainer.model import ARCHITECTURES, create
from trainer.recipes import RECIPES
from trainer.train import batches, fit, score


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
    labels = torch.cat([labels for _, labels in batches(data.train, recipe, 1)])
    assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())
    again = torch.cat([labels for _, labels in batches(data.train, recipe, 2)])
    assert not torch.equal(labels, again)


def test_augmentation_leaves_the_data_as_it_was(data: Dataset) -> None:
    before = data.train.pixels[:].copy()
    shown = torch.cat([pixels for pixels, _ in batches(data.train, TINY, 1)])
    assert shown.shape[1:] == (32, 32, 3)
    assert np.array_equal(before, data.train.pixels[:])


def test_a_last_batch_of_one_photo_does_not_stop_the_training(data: Dataset) -> None:
    fitted = fit(data, replace(TINY, batch_size=len(data.train) - 1))
    assert np.isfinite(fitted.epochs[0].validation_loss)


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


def test_the_report_s_reference_is_a_recipe() -> None:
    recipe = RECIPES["resnet34-scratch"]
    assert (recipe.batch_size, recipe.learning_rate, recipe.epochs, recipe.size_px) == (16, 0.002, 10, 224)
