"""What a worker costs the workers that serve beside it."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from serve.torchserve import launch
from tests.integration.serving import deployed
from trainer.training.run import Trained


@pytest.fixture
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


def test_a_worker_that_has_answered_has_not_imported_torch(trained: Trained, photo: bytes, tmp_path: Path) -> None:
    with deployed(tmp_path, trained.archive, {}) as server:
        assert requests.post(server.url, photo, timeout=60).json()["model_version"] == "1"
        libraries = [Path(f"/proc/{pid}/maps").read_text() for pid in server.workers()]
        assert libraries
        assert not [text for text in libraries if "libtorch" in text]


def may_restore() -> bool:
    """Whether this process has CAP_SYS_NICE, or the limit that does without."""
    capabilities = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.M)
    assert capabilities
    return bool(int(capabilities[1], 16) >> 23 & 1) or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20


def test_a_starting_worker_has_a_low_priority_until_its_model_is_loaded() -> None:
    code = """
import os, threading
from serve.torchserve import launch
nices = lambda: {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")}
usual = os.getpriority(os.PRIO_PROCESS, 0)
lowered = launch.lower_priority(usual)
threading.Thread(target=threading.Event().wait, daemon=True).start()  # as a runtime's, started while loading
print(lowered, nices())
launch.restoring_priority(lambda *_: print(nices()), usual)(None, None)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    usual, may = os.getpriority(os.PRIO_PROCESS, 0), may_restore()
    assert output.splitlines() == [f"{may} {{{usual + launch.STARTING_NICE * may}}}", f"{{{usual}}}"]
