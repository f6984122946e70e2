"""The benchmark of "not a bin": its pictures, and when its target holds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.benchmarks.bench_novelty import BINS, DRAWN_BINS, TARGET, largest_share, result_of
from tests.benchmarks.other_pictures import PER_KIND, PIECES, other_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PER_KIND):
        Image.new("RGB", (120, 90), (number, 2 * number, 99)).save(folder / f"{number}.jpg")
    return sorted(folder.iterdir())


def test_there_are_at_least_200_other_pictures_and_the_same_again(photos: list[Path]) -> None:
    pictures = other_pictures(photos)
    numbers = {name: len(images) for name, images in pictures.items()}
    assert sum(numbers.values()) >= 200
    assert set(PIECES) < set(numbers)
    assert {image.mode for images in pictures.values() for image in images} == {"RGB"}
    again = other_pictures(photos)
    assert all(
        np.array_equal(np.asarray(first), np.asarray(second))
        for name in pictures
        for first, second in zip(pictures[name], again[name], strict=True)
    )


@pytest.mark.parametrize(
    ("bins", "others", "holds"),
    [(0.005, TARGET, True), (0.005, TARGET - 0.01, False), (0.03, 1.0, False), (0.0, 1.0, True)],
)
def test_it_holds_if_other_pictures_are_recognised_and_bins_are_not(bins: float, others: float, holds: bool) -> None:
    shares = {BINS: bins, "noise": others, "drawn floors": others, PIECES[0]: 0.0, DRAWN_BINS: 1.0}
    result = result_of(shares, dict.fromkeys(shares, 800), (1.0,) * 800)
    assert result.holds is holds
    assert list(result.checks.values()) == [others >= TARGET, bins < 0.03]
    assert result.ratio == pytest.approx(others)


def test_few_calibration_photos_allow_more_by_chance() -> None:
    assert 0.005 < largest_share(10_000, 100_000) < 0.0076
    assert largest_share(825, 872) == pytest.approx(0.017, abs=0.003)
    assert largest_share(240, 242) > 0.03
