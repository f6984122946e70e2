"""What a worker costs the workers that serve beside it."""

from pathlib import Path

import pytest
import requests

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
