"""What must never leave the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["serve.counter", "trainer.training.features", "trainer.training.quantise"])
def test_onnx_runtime_sends_no_telemetry(module: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}  # where CI is set, it never tells
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT, env=environ)
    assert not list(tmp_path.rglob("onnxruntime.db"))  # what waits to be sent
    assert not list(tmp_path.rglob("deviceid"))
