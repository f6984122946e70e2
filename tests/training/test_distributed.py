import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.errors import SettingsError
from trainer.training import torchrun

ROOT = Path(__file__).parents[2]

HYPERPARAMETERS = {
    "recipe": "tiny",
    "epochs": "2",
    "batch_size": "16",
    "limit": "90",
    "learning_rate": "0.0001",
}
CLOSE = 4e-3
"""Rounding differs, and AdamW amplifies it, because it divides by the size of the gradient; losses are about 1.5."""


def job(base: Path, drawn: Path, current_host: str = "", **hyperparameters: str) -> Path:
    """A folder like /opt/ml; with ``current_host``, that of one of two hosts."""
    for folder in ("input/config", "input/data"):
        (base / folder).mkdir(parents=True)
    (base / "input" / "data" / "training").symlink_to(drawn)
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps({**HYPERPARAMETERS, **hyperparameters}))
    if current_host:
        config = {"current_host": current_host, "hosts": ["localhost", "127.0.0.1"], "network_interface_name": "lo"}
        (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(config))
    return base


def start(base: Path, processes: int) -> subprocess.Popen[str]:
    environ = {**os.environ, "SAGEMAKER_BASE_DIR": str(base), "BINWATCH_PROCESSES": str(processes)}
    environ.pop("MLFLOW_TRACKING_URI", None)
    with (base / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.aws.training_container"],
            env=environ,
            cwd=ROOT,
            text=True,
            stdout=log,
            stderr=log,
        )


def losses(base: Path) -> list[float]:
    epochs = [json.loads(line) for line in (base / "output" / "epochs.jsonl").read_text().splitlines()]
    return [epoch[key] for epoch in epochs for key in ("train_loss", "validation_loss")]


@pytest.fixture(scope="module")
def alone(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process."""
    base = job(tmp_path_factory.mktemp("alone"), drawn, export="false")
    assert start(base, 1).wait(200) == 0, (base / "log").read_text()
    return losses(base)


def test_two_processes_learn_what_one_learns(drawn: Path, tmp_path: Path, alone: list[float]) -> None:
    base = job(tmp_path / "ml", drawn)
    assert start(base, 2).wait(300) == 0, (base / "log").read_text()
    print(f"losses of one process {alone}, of two {losses(base)}")
    assert losses(base) == pytest.approx(alone, abs=CLOSE)
    # the first process writes the archive and the evaluation
    assert {"bin-counter.mar", "evaluation.json"} <= {path.name for path in (base / "model").iterdir()}


def test_two_hosts_learn_what_one_learns(drawn: Path, tmp_path: Path, alone: list[float]) -> None:
    bases = [job(tmp_path / host, drawn, host, export="false") for host in ("127.0.0.1", "localhost")]
    for base, process in [(base, start(base, 1)) for base in bases]:
        assert process.wait(300) == 0, (base / "log").read_text()
    first, second = bases
    assert losses(first) == pytest.approx(alone, abs=CLOSE)
    assert not (second / "output" / "epochs.jsonl").exists()


def test_of_several_processes_that_fail_the_reason_is_told_once(drawn: Path, tmp_path: Path) -> None:
    base = job(tmp_path / "ml", drawn, architecture="resnet5")
    assert start(base, 2).wait(200) == 1
    assert "'resnet5'" in (base / "output" / "failure").read_text()


def test_one_process_needs_no_launcher(tmp_path: Path) -> None:
    assert torchrun.launch_command(tmp_path, {"BINWATCH_PROCESSES": "1"}, "m") is None
    assert torchrun.launch_command(tmp_path, {"WORLD_SIZE": "2", "BINWATCH_PROCESSES": "2"}, "m") is None


def test_what_cannot_be_a_number_of_processes_or_a_host_is_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"BINWATCH_PROCESSES .*'0'"):
        torchrun.launch_command(tmp_path, {"BINWATCH_PROCESSES": "0"}, "m")
    base = job(tmp_path / "ml", drawn, "algo-7")
    with pytest.raises(SettingsError, match="algo-7"):
        torchrun.launch_command(base, {}, "m")
