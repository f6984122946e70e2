"""The trainer under the ``train`` command of AWS's real training toolkit, on real photos.

As a module, ``SAGEMAKER_TRAINING_MODULE``, the trainer runs in the toolkit's process and receives SIGTERM. As a script,
``SAGEMAKER_PROGRAM``, it is a child process, to which the toolkit does not forward the signal: a training that is cut
off there is resumed from its last epoch.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import rounds
from tests.models import LEFT

ROOT = Path(__file__).parents[2]
EPOCHS = 8
SMALL = {"recipe": "tiny", "size-px": "32", "limit": "150"}
SCRIPT = "import sys\n\nfrom trainer.aws.training_container import main\n\nsys.exit(main())\n"
AS_MODULE = {"SAGEMAKER_TRAINING_MODULE": "trainer.aws.training_container:toolkit"}
AS_SCRIPT = {"SAGEMAKER_PROGRAM": "train.py"}


@pytest.fixture
def base(tmp_path: Path, abid: Path) -> Path:
    """An /opt/ml as SageMaker lays it out, with real photos as the channel."""
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "localhost", "hosts": ["localhost"]}))
    channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    (config / "inputdataconfig.json").write_text(json.dumps({"training": channel}))
    (tmp_path / "input" / "data").mkdir()
    (tmp_path / "input" / "data" / "training").symlink_to(abid)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(SCRIPT)
    return tmp_path


@contextmanager
def training(
    toolkits: Path, base: Path, mode: dict[str, str], **hyperparameters: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """``train`` with these hyperparameters; it logs to ``base/log``."""
    named = {key.replace("_", "-"): value for key, value in hyperparameters.items()}
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps({**SMALL, **named}))
    environ = {
        **os.environ,
        **mode,
        "SAGEMAKER_BASE_DIR": str(base),
        "CURRENT_HOST": "localhost",
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": "",
        "OMP_NUM_THREADS": "1",
        "AWS_REGION": "us-east-1",
        "PATH": f"{toolkits}:{os.environ['PATH']}",
    }
    with (base / "log").open("ab") as log:
        process = subprocess.Popen(
            [toolkits / "train"], cwd=base, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # the script outlives the toolkit
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def log_of(base: Path) -> str:
    return (base / "log").read_text(errors="replace")


def epochs(base: Path) -> list[int]:
    path = base / "output" / "epochs.jsonl"
    return [json.loads(line)["number"] for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for_second_epoch(base: Path, process: "subprocess.Popen[bytes]", timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while len(epochs(base)) < 2:
        assert process.poll() is None, log_of(base)
        assert time.monotonic() < deadline, log_of(base)
        time.sleep(0.05)


def first_batch(log: str) -> float:
    """The share of all batches that were done when a training started, from its progress bar."""
    return min(int(done) / int(total) for done, total in re.findall(r"\| (\d+)/(\d+) \[[^]]*batch", log))


def assert_succeeded(base: Path) -> None:
    assert {path.name for path in (base / "model").iterdir()} == LEFT, log_of(base)
    assert (base / "output" / "success").is_file()
    assert not (base / "output" / "failure").exists()


@pytest.mark.parametrize(("mode", "stop"), [(AS_MODULE, signal.SIGTERM), (AS_SCRIPT, signal.SIGKILL)][: rounds(1, 2)])
def test_a_training_that_is_stopped_is_resumed_by_the_next_and_succeeds(
    toolkits: Path, base: Path, mode: dict[str, str], stop: signal.Signals
) -> None:
    with training(toolkits, base, mode, epochs=str(EPOCHS)) as process:
        wait_for_second_epoch(base, process)
        os.killpg(process.pid, stop)
        process.wait(120)
    assert not (base / "output" / "failure").exists(), log_of(base)
    assert not (base / "output" / "success").exists()
    assert len(epochs(base)) < EPOCHS
    before = len(log_of(base))
    with training(toolkits, base, mode, epochs=str(EPOCHS)) as process:
        assert process.wait(600) == 0, log_of(base)
    assert_succeeded(base)
    assert epochs(base)[-EPOCHS:] == [*range(1, EPOCHS + 1)]  # epochs before the stop are repeated
    assert first_batch(log_of(base)[before:]) >= 1 / EPOCHS
    assert "Reporting training SUCCESS" in log_of(base)


@pytest.mark.parametrize("mode", [AS_SCRIPT, AS_MODULE][: rounds(1, 2)])
def test_the_toolkit_reports_a_failure_with_the_trainer_s_message(
    toolkits: Path, base: Path, mode: dict[str, str]
) -> None:
    with training(toolkits, base, mode, epochs="0") as process:
        assert process.wait(600) == 1, log_of(base)
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("epochs is 0")
    assert "Traceback" not in failure
    assert "Reporting training FAILURE" in log_of(base)
    assert not (base / "output" / "success").exists()
