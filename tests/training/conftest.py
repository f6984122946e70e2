"""What the tests of training share beside the fixtures of all tests."""

from pathlib import Path

import pytest

from tests.once import Run


@pytest.fixture(scope="session")
def many(once: Run) -> Path:
    """600 drawn bins: enough of them for a record model."""
    from trainer.data import synthetic

    return once.value("many-drawn", lambda folder: synthetic.draw_dataset(folder / "bins", 600, seed=5))
