"""Unit tests start no process: what they test is values in, values out."""

import subprocess

import pytest


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts a process belongs into another folder."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a unit test starts a process: move it to tests/training or tests/integration")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
