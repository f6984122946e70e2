"""The sizing of a machine, with a real TorchServe and a small model."""

import json
import subprocess
import sys
from pathlib import Path

from serve.local.sizing import size
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]


def test_the_script_prints_what_goes_into_the_settings(trained: Trained) -> None:
    words = ["--rate", "20", "--p99-ms", "30000", "--seconds", "1", "--max-workers", "1", "--json"]
    command = [sys.executable, "scripts/size.py", *words, "--archive", str(trained.archive)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sizing = json.loads(done.stdout)
    (row,) = sizing["measurements"]
    assert sizing["form"] in ("fp32", "bf16", "int8")
    assert (sizing["workers"], row["workers"], row["rate"], row["failed"]) == (1, 1, 20, 0)
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert 50 < row["memory_mb"] < sizing["memory_limit_mb"]
    assert sizing["env"]["BINWATCH_SERVE_MEMORY"] == f"{sizing['memory_limit_mb']}m"


def test_a_limit_that_no_server_keeps_is_not_reached(trained: Trained, tmp_path: Path) -> None:
    sizing = size(trained.archive, 100, 0.001, tmp_path, max_workers=1, seconds=1)
    assert (sizing.workers, sizing.reached, sizing.env()) == (None, 0, [])
    assert len(sizing.measurements) > 1
