"""The number format of a training: named, or chosen by a trial that leaves the training as it is."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from serve.local.servers import free_port
from tests.models import TINY
from trainer.data.abid import Photo
from trainer.data.dataset import Dataset, DataSpec, Part, Rows, load
from trainer.training import distributed, networks
from trainer.training.loop import precision
from trainer.training.loop.precision import ChosenPrecision, Trial, decide, resumed, run_trial, without_trial
from trainer.training.loop.progress import Epoch, TrainingResult
from trainer.training.networks import Architecture, create
from trainer.training.train import fit

TRIAL = Trial(
    float32_s=(9.0, 2.0, 2.2), bfloat16_s=(9.0, 1.3, 1.0), float32_losses=(1.5, 1.7), bfloat16_losses=(1.6, 1.61)
)


def test_takes_bfloat16_where_it_is_clearly_faster_and_gives_the_same_loss() -> None:
    choice = decide(TRIAL)  # the first pass of each prepares the others, so the fastest ones are compared
    assert (choice.name, choice.dtype) == ("bfloat16", torch.bfloat16)
    assert "2.00 times" in choice.reason


@pytest.mark.parametrize("fastest_s", [1.9, 2.0, 8.0])
def test_stays_with_float32_where_bfloat16_is_not_clearly_faster(fastest_s: float) -> None:
    choice = decide(replace(TRIAL, bfloat16_s=(9.0, fastest_s)))
    assert (choice.name, choice.dtype) == ("float32", None)
    assert f"{2.0 / fastest_s:.2f} times" in choice.reason


def test_stays_with_float32_where_passes_are_too_short_to_measure() -> None:
    choice = decide(replace(TRIAL, float32_s=(0.04, 0.06), bfloat16_s=(0.01, 0.02)))
    assert (choice.name, "4.00 times" in choice.reason) == ("float32", True)
    assert decide(replace(TRIAL, float32_s=(0.05, 0.06), bfloat16_s=(0.01, 0.02))).name == "bfloat16"


@pytest.mark.parametrize("loss", [1.5, 1.7, float("nan"), float("inf")])
def test_stays_with_float32_where_the_losses_differ(loss: float) -> None:
    choice = decide(replace(TRIAL, bfloat16_losses=(loss, loss)))
    assert choice.name == "float32"
    assert "0.05 is allowed" in choice.reason


def test_large_losses_may_differ_by_a_share_of_themselves() -> None:
    trial = replace(TRIAL, float32_losses=(10.0,), bfloat16_losses=(10.4,))
    assert decide(trial).name == "bfloat16"
    assert decide(replace(trial, bfloat16_losses=(10.6,))).name == "float32"


@pytest.mark.parametrize(
    ("named", "device", "photos", "has_instructions", "name"),
    [
        ("bfloat16", "cpu", 9, False, "bfloat16"),
        ("float32", "cpu", 9999, True, "float32"),
        ("float32", "cuda", 9999, True, "float32"),
        ("bfloat16", "cuda", 9999, True, "bfloat16"),
        ("auto", "cuda", 9999, True, "float16"),
        ("auto", "cpu", 9999, False, "float32"),
        ("auto", "cpu", 479, True, "float32"),
        ("auto", "cpu", 480, True, None),
    ],
)
def test_tries_only_what_can_pay(
    named: str, device: str, photos: int, has_instructions: bool, name: str | None
) -> None:
    choice = without_trial(replace(TINY, precision=named, epochs=1), device, photos, has_instructions)
    assert (choice and choice.name) == name


def test_a_head_alone_is_trained_in_float32() -> None:
    choice = without_trial(replace(TINY, frozen=True), "cpu", 9999, True)
    assert (choice and choice.name) == "float32"


@pytest.mark.parametrize(
    ("recorded", "named", "device", "name"),
    [
        ("bfloat16", "auto", "cpu", "bfloat16"),
        ("float32", "auto", "cuda", "float32"),
        ("float16", "auto", "cpu", "float32"),
        (None, "auto", "cpu", "float32"),
        (None, "auto", "cuda", "float16"),
        (None, "bfloat16", "cpu", "bfloat16"),
    ],
)
def test_a_resumed_training_keeps_its_format_where_the_device_has_it(
    recorded: str | None, named: str, device: str, name: str
) -> None:
    assert resumed(recorded, replace(TINY, precision=named), device).name == name


def with_dropout() -> nn.Module:
    """A body whose result depends on random numbers and on the statistics of batches."""
    layers = (nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


networks.ARCHITECTURES["with-dropout"] = Architecture(with_dropout, 8, dict)
RECIPE = replace(TINY, architecture="with-dropout", epochs=8, mixup=0.2, average=0.9)


@pytest.fixture(scope="module")
def data(drawn: Path) -> Dataset:
    return load(DataSpec(drawn, limit=100), 32)


Force = Callable[[float], None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    """Makes ``auto`` try on any processor, and bfloat16 win where it is that many times as fast."""

    def set_gain(min_gain: float) -> None:
        monkeypatch.setattr(precision, "INSTRUCTIONS", tuple(torch.cpu.get_capabilities()))
        monkeypatch.setattr(precision, "MIN_GAIN", min_gain)
        monkeypatch.setattr(precision, "MIN_PASS_S", 0.0)

    return set_gain


def assert_same_weights(result: TrainingResult, expected: TrainingResult) -> None:
    for key, value in result.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key]), key
    losses = [[(epoch.train_loss, epoch.validation_loss) for epoch in fitted.epochs] for fitted in (result, expected)]
    assert losses[0] == losses[1]


def test_a_trial_that_float32_wins_leaves_the_training_as_it_is(
    data: Dataset, force: Force, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fit(data, replace(RECIPE, precision="float32"))
    force(float("inf"))
    caplog.set_level("INFO")
    result = fit(data, RECIPE)
    assert (result.precision.name, "in a trial" in result.precision.reason) == ("float32", True)
    assert result.precision.reason in caplog.text
    assert_same_weights(result, expected)


def test_a_trial_that_bfloat16_wins_trains_as_if_it_had_been_named(data: Dataset, force: Force) -> None:
    expected = fit(data, replace(RECIPE, precision="bfloat16"))
    force(0.0)
    result = fit(data, RECIPE)
    assert (result.precision.name, expected.precision.name) == ("bfloat16", "bfloat16")
    assert_same_weights(result, expected)


def test_a_resumed_training_is_not_tried_again(data: Dataset, force: Force, tmp_path: Path) -> None:
    force(0.0)
    expected = fit(data, RECIPE)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data, RECIPE, interrupt, checkpoints=tmp_path)
    force(float("inf"))
    result = fit(data, RECIPE, checkpoints=tmp_path)
    assert (result.resumed_at, result.precision.name) == (3, "bfloat16")
    assert_same_weights(result, expected)


def test_a_trial_runs_both_formats_on_a_copy(data: Dataset) -> None:
    model = create("with-dropout", 5, 32).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    trial = run_trial(model, data.train, RECIPE)
    assert len(trial.float32_s) == len(trial.bfloat16_s) == precision.STEPS
    assert min(*trial.float32_s, *trial.bfloat16_s) > 0
    assert trial.float32_losses != trial.bfloat16_losses
    assert trial.float32_losses == pytest.approx(trial.bfloat16_losses, abs=0.05)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training


def choose_in_process(rank: int, port: int) -> ChosenPrecision:
    """The choice of one of two processes: bfloat16 wins the first one's trial, and loses the second one's."""
    torch.set_num_threads(1)
    precision.INSTRUCTIONS = tuple(torch.cpu.get_capabilities())
    precision.MIN_GAIN, precision.MIN_PASS_S = (0.0, float("inf"))[rank], 0.0
    networks.ARCHITECTURES["with-dropout"] = Architecture(with_dropout, 8, dict)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    photos = tuple(Photo(str(number), 1, Path(), str(number)) for number in range(96))
    part = Part(photos, Rows(pixels, np.arange(96)), np.arange(96) % 5, "")
    world = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= world
    with distributed.process_group(world):
        model = create("with-dropout", 5, 32)
        distributed.wrap_ddp(model)
        return precision.choose(model, part, RECIPE, torch.device("cpu"))


def test_of_several_processes_the_first_one_decides() -> None:
    port = free_port()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        first, second = pool.map(choose_in_process, (0, 1), (port, port))
    assert first.name == "bfloat16"
    assert second == first
