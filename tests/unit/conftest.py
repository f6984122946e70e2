"""Unit tests start no process: what they test is values in, values out."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.once import Run
from trainer.data import synthetic

settings.register_profile("unit", database=None, deadline=None)  # thousands of small files otherwise
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts a process belongs into another folder."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a unit test starts a process: move it to tests/training or tests/integration")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(os, "fork", refuse)


@pytest.fixture(scope="session")
def drawn(once: Run) -> Path:
    """Twenty drawn bins: what decodes hundreds is no unit test."""
    return once.value("few-drawn", lambda folder: synthetic.draw_dataset(folder / "bins", 20, seed=1))
