import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serve.errors import DataError, SettingsError
from tests.models import LEFT
from trainer.aws import training_container
from trainer.aws.training_jobs import metric_definitions
from trainer.data.counts import Counts


@pytest.fixture
def base(tmp_path: Path, drawn: Path) -> Path:
    """An /opt/ml as SageMaker lays it out."""
    (tmp_path / "input" / "config").mkdir(parents=True)
    (tmp_path / "input" / "data").mkdir()
    (tmp_path / "input" / "data" / "training").symlink_to(drawn)
    return tmp_path


def put(base: Path, **hyperparameters: str) -> None:
    named = {key.replace("_", "-"): value for key, value in hyperparameters.items()}
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(named))


def environment(base: Path) -> dict[str, str]:
    return {"SAGEMAKER_BASE_DIR": str(base)}


def test_reads_hyperparameters_that_are_strings(base: Path) -> None:
    put(base, recipe="resnet18-small", epochs="3", batch_size="8", learning_rate="0.01", limit="200", counts="1-4")
    job = training_container.read_job(base, {})
    assert (job.recipe.epochs, job.recipe.batch_size, job.recipe.learning_rate) == (3, 8, 0.01)
    assert (job.spec.limit, job.spec.counts) == (200, Counts((1, 2, 3, 4)))
    assert job.model_dir == base / "model"
    assert job.tracking_uri is None


def test_what_aws_adds_is_no_hyperparameter_of_ours_and_recipe_leaves_a_value_to_the_recipe(base: Path) -> None:
    put(base, recipe="best", epochs="recipe", batch_size="64", learning_rate="recipe", sagemaker_region="x")
    path = base / "input" / "config" / "hyperparameters.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_tuning_objective_metric": "best_validation_loss"}))
    recipe = training_container.read_job(base, {}).recipe
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.learning_rate) == ("best", 8, 64, 0.001)


def test_a_failure_that_cannot_be_stored_is_printed(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where /opt/ml belongs to somebody else."""
    put(base, epochs="0")
    (base / "output").write_text("in the way")
    assert training_container.main(environment(base)) == 1
    assert "error: epochs is 0" in capsys.readouterr().err


def test_takes_what_the_training_toolkit_has_set(base: Path, tmp_path: Path, drawn: Path) -> None:
    put(base, epochs="3")
    environ = {
        "SM_HPS": '{"epochs": 7, "recipe": "\\"resnet18-small\\"", "sagemaker_program": "x.py"}',
        "SM_CHANNEL_TRAINING": str(drawn),
        "SM_MODEL_DIR": str(tmp_path / "elsewhere"),
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    job = training_container.read_job(base, environ)
    assert (job.recipe.name, job.recipe.epochs, job.spec.source) == ("resnet18-small", 7, drawn)
    assert job.model_dir == tmp_path / "elsewhere"
    assert job.tracking_uri == "http://mlflow:5000"


def test_finds_the_photos_one_folder_below_the_channel(base: Path, drawn: Path) -> None:
    channel = base / "input" / "data" / "training"
    channel.unlink()
    channel.mkdir()
    (channel / "aft-vbi-pds").symlink_to(drawn)
    assert training_container.read_job(base, {}).spec.source == channel / "aft-vbi-pds"


def test_without_hyperparameters_it_is_the_report_s_reference(base: Path) -> None:
    assert training_container.read_job(base, {}).recipe.name == "resnet34-scratch"


def test_refuses_unknown_hyperparameters_and_a_missing_channel(base: Path) -> None:
    put(base, epoch="3")
    with pytest.raises(SettingsError, match="unknown hyperparameters epoch;"):
        training_container.read_job(base, {})
    put(base)
    (base / "input" / "data" / "training").unlink()
    with pytest.raises(SettingsError, match="channel 'training'"):
        training_container.read_job(base, {})


def test_a_job_leaves_the_archive_and_the_evaluation(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(base, recipe="tiny", epochs="1", size_px="32", limit="150")
    assert training_container.main(environment(base)) == 0
    assert {path.name for path in (base / "model").iterdir()} == LEFT
    assert not (base / "output" / "failure").exists()
    log = capsys.readouterr().out
    assert all(len(re.findall(metric["Regex"], log)) == 1 for metric in metric_definitions()), "what SageMaker reads"


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        ({"epochs": "0"}, "epochs is 0"),
        ({"recipe": "x"}, "there is no recipe 'x'"),
        ({"counts": "8-9"}, "no usable photo"),
    ],
)
def test_a_failure_leaves_its_reason_and_exit_code_1(
    base: Path, hyperparameters: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(base, **hyperparameters)
    assert training_container.main(environment(base)) == 1
    failure = (base / "output" / "failure").read_text()
    assert reason in failure
    assert "Traceback" not in failure
    assert reason in capsys.readouterr().err


def test_a_bug_leaves_its_traceback(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_container, "train", lambda job, environ: 1 / 0)
    assert training_container.main(environment(base)) == 1
    assert "ZeroDivisionError" in (base / "output" / "failure").read_text()


def test_a_data_error_is_one_line(base: Path) -> None:
    put(base, counts="8-9", recipe="resnet18-small")
    job = training_container.read_job(base, {})
    with pytest.raises(DataError):
        training_container.train(job, {})


def test_a_job_that_is_stopped_is_resumed_by_the_next(base: Path) -> None:
    put(base, recipe="tiny", epochs="20", size_px="32", limit="200")
    command = [sys.executable, "-m", "trainer.aws.training_container"]
    environ = {**os.environ, **environment(base), "MLFLOW_TRACKING_URI": ""}
    job = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    checkpoint, deadline = base / "checkpoints" / "checkpoint.pt", time.monotonic() + 120
    while not checkpoint.is_file() and time.monotonic() < deadline and job.poll() is None:
        threading.Event().wait(0.01)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=120)
    assert job.returncode == 143
    assert not (base / "output" / "failure").exists()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "training tiny:   0%" not in done.stderr, "it resumes where the first one stopped"
    assert (base / "model" / "bin-counter.mar").is_file()
    assert not checkpoint.exists()
