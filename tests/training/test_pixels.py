"""The pixels of many photos, and of the largest: those that models were trained on."""

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from serve import photo
from tests import edge_photos
from tests.conftest import rounds
from tests.unit.test_photo import as_pil
from trainer.data import synthetic


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.draw_dataset(tmp_path_factory.mktemp("few") / "bins", 150, seed=1)


@pytest.mark.parametrize(("size_px", "most", "mean"), [(224, 1, 0.2), (160, 1, 0.2), (64, 20, 1.0)])
def test_real_photos_are_within_the_tolerance_of_a_whole_decode(
    full_size: Path, size_px: int, most: int, mean: float
) -> None:
    distances = []
    for path in sorted(full_size.iterdir())[:: rounds(4, 1)]:
        data = path.read_bytes()
        distances.append(np.abs(photo.read(data, size_px) - as_pil(data, size_px)))
    assert max(int(distance.max()) for distance in distances) <= most
    assert max(float(distance.mean()) for distance in distances) <= mean


def digest(paths: Iterable[Path], *sizes: int) -> str:
    """SHA-256 of the pixels of photos."""
    whole = hashlib.sha256()
    for data in (path.read_bytes() for path in paths):
        for size_px in sizes:
            whole.update(photo.read(data, size_px).tobytes())
    return whole.hexdigest()


needs_resizer = pytest.mark.skipif(find_spec("cykooz_resizer") is None, reason="PIL's resize may differ by 1 of 255")


@needs_resizer
def test_the_pixels_of_drawn_photos_are_those_that_models_were_trained_on(few: Path) -> None:
    """The digest is of the code before decoding got its limits; a change gives old golden photos other answers."""
    paths = sorted((few / "bin-images").iterdir())
    assert digest(paths, 32, 64, 224) == "6e0886ece88f825dd893c71ad9e5da30c25c55511c4ed4da5b4f2b888b24bcad"


@needs_resizer
def test_the_pixels_of_real_photos_are_those_that_models_were_trained_on(abid: Path, full_size: Path) -> None:
    paths, large = sorted((abid / "bin-images").iterdir())[:200], sorted(full_size.iterdir())[:: rounds(10, 1)]
    assert digest(paths, 224) == "1ffa7d80f2ad1c5f9f28150335a93d31713b3609f13d180fe85eb18c50b5bd9d"
    if rounds(0, 1):
        assert digest(large, 64, 224) == "ba0e55e932526c4e6b68cc69b68a6f6b30059a10af22c97c8f48cd90c46288f0"


@pytest.mark.parametrize("size", [(8000, 6000), (12_000, 9000), (16_320, 12_240)])
def test_counts_the_photos_of_phones(size: tuple[int, int]) -> None:
    """48, 108 and 200 megapixels."""
    assert photo.read(edge_photos.jpeg(*size, before=edge_photos.oriented(6)), 224).shape == (224, 224, 3)
    assert np.prod(photo.decode(edge_photos.jpeg(*size)).size) <= photo.MAX_PIXELS
