"""What must never leave the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.archives.archive import unpacked
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]
COUNT = """
import socket, sys
calls = []
sys.addaudithook(lambda event, args: calls.append((event, args)) if event.startswith("socket.") else None)
from serve.counter import Counter
from pathlib import Path
Counter(Path(sys.argv[1])).answer([Path(sys.argv[1], "golden", "0.jpg").read_bytes()])
assert "openvino" in sys.modules
print([name for name in sys.modules if "telemetry" in name and sys.modules[name]], calls)
"""


@pytest.mark.parametrize("module", ["serve.counter", "trainer.training.features", "trainer.training.quantise"])
def test_onnx_runtime_sends_no_telemetry(module: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # where CI is set, it never tells
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT, env=environ)
    assert not list(tmp_path.rglob("onnxruntime.db"))  # what waits to be sent
    assert not list(tmp_path.rglob("deviceid"))


def test_openvino_answers_without_telemetry_and_without_a_connection(trained: Trained, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with unpacked(trained.archive) as folder:
        command = [sys.executable, "-c", COUNT, str(folder)]
        done = subprocess.run(command, check=True, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.stdout.strip() == "[] []"
    assert list(tmp_path.iterdir()) == []  # its telemetry would leave an identity in the home folder
