"""An interrupted training resumes and ends with the same result as one without an interruption."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serve.errors import TrainingError
from tests.conftest import rounds
from tests.models import TINY
from trainer.data.dataset import Dataset, DataSpec, load
from trainer.training import checkpoint, networks
from trainer.training.loop.epochs import Training
from trainer.training.loop.progress import Epoch, TrainingResult
from trainer.training.networks import Architecture
from trainer.training.train import fit

RECIPE = replace(TINY, architecture="efficientnet-lite0", epochs=3)  # it has dropout: its random state counts


@pytest.fixture(scope="module")
def data(drawn: Path) -> Dataset:
    return load(DataSpec(drawn, limit=100), 32)


@pytest.fixture(scope="module")
def whole(data: Dataset) -> TrainingResult:
    """The training without an interruption."""
    return fit(data, RECIPE)


class Killed(BaseException):
    """The process is gone."""


def without_times(result: TrainingResult) -> list[Epoch]:
    times = {"photos_per_second": 0.0, "step_ms": 0.0, "data_wait_share": 0.0, "seconds": 0.0}
    return [replace(epoch, **times) for epoch in result.epochs]  # type: ignore[arg-type]


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    for key, value in result.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key]), key
    assert without_times(result) == without_times(expected)
    assert (result.best_epoch, result.fired) == (expected.best_epoch, expected.fired)


@pytest.mark.parametrize("epoch", [1, 2])
def test_killed_after_an_epoch(data: Dataset, whole: TrainingResult, tmp_path: Path, epoch: int) -> None:
    def die(current: Epoch) -> None:
        if current.number == epoch + 1:
            raise Killed

    with pytest.raises(Killed):
        fit(data, RECIPE, die, checkpoints=tmp_path)
    numbers: list[int] = []
    resumed = fit(data, RECIPE, lambda current: numbers.append(current.number), checkpoints=tmp_path)
    assert resumed.resumed_at == epoch + 1
    assert resumed.earlier_s == pytest.approx(sum(past.seconds for past in resumed.epochs[:epoch]))
    assert resumed.earlier_s > 0
    assert numbers == [1, 2, 3], "the new record is whole"
    assert_same(resumed, whole)


@pytest.mark.parametrize("batch", range(1, 1 + rounds(2, 8)))
def test_sigterm_in_the_middle_of_an_epoch(
    data: Dataset, whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    ran = 0
    train_batch = Training._train_batch

    def terminate(self: Any, *arguments: Any) -> None:
        nonlocal ran
        train_batch(self, *arguments)
        ran += 1
        if ran == batch:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_batch", terminate)
        with pytest.raises(SystemExit) as exit_info:
            fit(data, RECIPE, checkpoints=tmp_path)
    assert exit_info.value.code == 143
    assert ran == batch
    resumed = fit(data, RECIPE, checkpoints=tmp_path)
    assert (resumed.earlier_s > 0, whole.earlier_s) == (True, 0)
    assert_same(resumed, whole)


def test_a_checkpoint_of_another_training_is_refused(data: Dataset, drawn: Path, tmp_path: Path) -> None:
    fit(data, TINY, checkpoints=tmp_path)
    with pytest.raises(TrainingError, match=r"learning_rate .*0\.003.*0\.01"):
        fit(data, replace(TINY, learning_rate=0.01), checkpoints=tmp_path)
    with pytest.raises(TrainingError, match="dataset"):
        fit(load(DataSpec(drawn, limit=110), 32), TINY, checkpoints=tmp_path)


def test_a_damaged_checkpoint_is_refused(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match=r"(?s)checkpoint\.pt .*remove it"):
        fit(data, TINY, checkpoints=tmp_path)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoint.save(tmp_path, {"belongs_to": {"old": 1}})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not checkpoint.save(tmp_path, {"belongs_to": {"new": 1}})
    assert "No space left" in caplog.text
    assert checkpoint.load(tmp_path, {"old": 1}) == {"belongs_to": {"old": 1}}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]
    assert fit(data, TINY, checkpoints=tmp_path / "other").best_epoch == 1


class Breaking(nn.Module):
    """A body whose features are NaN from its 14th training batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.batches = 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += self.training
        features: Tensor = self.pool(images).flatten(1)
        return features * float("nan") if self.batches >= 14 else features


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(networks.ARCHITECTURES, "breaking", Architecture(Breaking, 12, dict))
    recipe = replace(TINY, architecture="breaking", epochs=3, batch_size=7)  # ten batches an epoch
    with pytest.raises(TrainingError, match=r"nan .*epoch 2, batch 4 of 10"):
        fit(data, recipe, checkpoints=tmp_path)
    state = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
    assert (state["done"]["epoch"], state["done"]["batch"]) == (2, 0)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_script_that_is_killed_and_started_again_gives_the_same_archive(drawn: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]

    def command(out: str) -> list[str]:
        return [
            sys.executable,
            "scripts/train.py",
            "tiny",
            "--data",
            str(drawn),
            "--no-tracking",
            "--size-px",
            "32",
            "--epochs",
            "20",
            "--out",
            str(tmp_path / out),
        ]

    clean = subprocess.run(command("clean"), cwd=root, capture_output=True, text=True, timeout=300)
    assert clean.returncode == 0, clean.stderr
    process = subprocess.Popen(command("torn"), cwd=root, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "torn" / checkpoint.NAME
    deadline = time.monotonic() + 120
    while not path.is_file() and time.monotonic() < deadline and process.poll() is None:
        threading.Event().wait(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was still training"
    resumed = subprocess.run(command("torn"), cwd=root, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert not path.exists()
    evaluation = (tmp_path / "clean" / "evaluation.json").read_text()
    assert evaluation == (tmp_path / "torn" / "evaluation.json").read_text()


def test_a_checkpoint_of_before_an_option_existed_belongs_to_a_training_that_leaves_it_off(tmp_path: Path) -> None:
    recipe = asdict(TINY)
    earlier = {name: value for name, value in recipe.items() if name not in ("auxiliary", "record_folds")}
    assert checkpoint.save(tmp_path, {"belongs_to": earlier})
    assert checkpoint.load(tmp_path, recipe)
    with pytest.raises(TrainingError, match="record_folds"):
        checkpoint.load(tmp_path, {**recipe, "record_folds": 2})
