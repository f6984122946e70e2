"""Every rule fires in some training, and none in a healthy one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from serve.errors import TrainingError
from tests.models import TINY
from trainer.data.dataset import Dataset, DataSpec, load
from trainer.training import networks, rules
from trainer.training.loop import optimiser
from trainer.training.networks import Architecture
from trainer.training.rules import FiredRule
from trainer.training.train import fit

PLAIN = replace(
    TINY, architecture="small", augment=False, schedule="constant", learning_rate=0.003, weight_decay=0.0, epochs=2
)


class Scaled(nn.Module):
    """Makes features almost zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e-12


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def constant() -> nn.Module:
    body = small()
    nn.init.constant_(body[0].weight, 0.1)  # type: ignore[index,arg-type]
    return body


def faint() -> nn.Module:
    return nn.Sequential(small(), Scaled())


@pytest.fixture(scope="module")
def data(drawn: Path) -> Dataset:
    return load(DataSpec(drawn, limit=120), 32)


def fired(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, body: Callable[[], nn.Module], width: int = 8, **recipe: object
) -> dict[str, FiredRule]:
    monkeypatch.setitem(networks.ARCHITECTURES, "small", Architecture(body, width, dict))
    reported: list[FiredRule] = []
    result = fit(data, replace(PLAIN, **recipe), on_rule=reported.append)  # type: ignore[arg-type]
    assert reported == result.fired
    assert len({rule.rule for rule in reported}) == len(reported)
    return {rule.rule: rule for rule in reported}


def test_weights_that_are_all_the_same(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = fired(data, monkeypatch, constant)["poor-initialisation"]
    assert (rule.epoch, rule.step) == (1, 0)
    assert "body.0.weight" in rule.reason


def test_a_vanishing_gradient(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = fired(data, monkeypatch, faint)["vanishing-gradient"]
    assert rule.step == 1
    assert "body.0.0.weight" in rule.reason


def test_an_exploding_tensor(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fired(data, monkeypatch, small, learning_rate=1e5, batch_size=8)["exploding-tensor"].step == 10


def test_a_loss_that_does_not_decrease(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = fired(data, monkeypatch, small, learning_rate=1e-12, epochs=4)
    assert by_name["loss-not-decreasing"].epoch == 4
    assert by_name["stuck-on-majority"].epoch == 2


def test_overfitting_and_overtraining(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = fired(data, monkeypatch, nn.Flatten, width=3 * 32 * 32, epochs=12)
    assert by_name["overfit"].epoch <= by_name["overtraining"].epoch


def test_a_gpu_that_waits(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimiser, "gpu_utilisation", lambda device: [0.2])
    assert "20%" in fired(data, monkeypatch, small)["low-gpu-utilisation"].reason
    monkeypatch.setattr(optimiser, "gpu_utilisation", lambda device: [0.9])
    assert "low-gpu-utilisation" not in fired(data, monkeypatch, small)


def test_a_healthy_training_trips_no_rule(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(DataSpec(drawn), 32)
    assert fired(whole, monkeypatch, small, learning_rate=0.02, epochs=6) == {}


def test_every_rule_was_tripped() -> None:
    assert set(rules.RULES) == {
        "poor-initialisation",
        "vanishing-gradient",
        "exploding-tensor",
        "loss-not-decreasing",
        "overfit",
        "overtraining",
        "low-gpu-utilisation",
        "stuck-on-majority",
    }


def test_a_rule_can_end_the_training(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.ARCHITECTURES, "small", Architecture(small, 8, dict))
    recipe = replace(PLAIN, learning_rate=1e-12, epochs=9)
    result = fit(data, recipe, stop_on=frozenset({"stuck-on-majority"}))
    assert result.stopped_by == "stuck-on-majority"
    assert len(result.epochs) == 2
    assert result.best_epoch in (1, 2)


def test_a_rule_that_ends_it_before_an_epoch_says_why(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.ARCHITECTURES, "small", Architecture(constant, 8, dict))
    with pytest.raises(TrainingError, match=r"poor-initialisation .*body\.0\.weight"):
        fit(data, PLAIN, stop_on=frozenset({"poor-initialisation"}))


def test_weights_that_were_loaded_are_not_suspected(data: Dataset, tmp_path: Path) -> None:
    counter = networks.create("resnet18", 5, 32)
    nn.init.constant_(counter.body.layer4[1].conv2.weight, 0.0)  # type: ignore[union-attr,index,arg-type]
    torch.save(counter.state_dict(), tmp_path / "weights.pt")
    result = fit(data, replace(TINY, architecture="resnet18", weights=str(tmp_path / "weights.pt")))
    assert "poor-initialisation" not in {rule.rule for rule in result.fired}
