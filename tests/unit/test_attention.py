"""Where the model looked: a small transparent picture, the same each time, brightest where the count gets its logit."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve.evidence.attention import LEVELS, MAX_OPACITY, SIDE_PX, attention, heat_map, heat_picture

PNG = "data:image/png;base64,"
MAX_BYTES = 20_000


def maps_with_peak(row: int, column: int) -> NDArray[np.float32]:
    """Maps ``(5, 7, 7)`` of which that of class 2 has one high place."""
    maps = np.zeros((5, 7, 7), dtype=np.float32)
    maps[2, row, column] = 3
    return maps


def opacities(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))[..., 3]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 5), (6, 3)])
def test_the_picture_is_most_opaque_where_the_count_gets_its_logit(row: int, column: int) -> None:
    shown = attention(maps_with_peak(row, column), 2, "3", 224)
    assert shown is not None
    assert shown["count"] == "3"
    opacity = opacities(base64.b64decode(shown["image"].removeprefix(PNG)))
    assert opacity.shape == (224, 224)
    assert opacity.max() == MAX_OPACITY
    highest = np.argwhere(opacity == opacity.max()).mean(axis=0)
    assert highest == pytest.approx((32 * row + 15.5, 32 * column + 15.5), abs=12)
    assert (opacity == 0).mean() > 0.7


def test_what_a_place_says_for_all_counts_alike_is_not_drawn() -> None:
    maps = maps_with_peak(1, 1)
    everywhere = maps + np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    assert heat_map(everywhere, 2) == pytest.approx(heat_map(maps, 2), abs=1e-6)
    assert heat_map(maps, 1).max() == 0  # what speaks for another count speaks against this one


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_map_that_says_nothing_is_clear(value: float) -> None:
    heat = heat_map(np.full((5, 7, 7), value, dtype=np.float32), 0)
    assert not heat.any()
    assert not opacities(heat_picture(heat, 224)).any()


@pytest.mark.parametrize(("side", "size_px"), [(1, 32), (4, 64), (7, 224), (10, 320), (28, 448)])
def test_it_is_small_and_the_same_each_time(side: int, size_px: int) -> None:
    maps = np.random.default_rng(1).normal(size=(6, side, side)).astype(np.float32)
    first, second = (attention(maps, 4, "5+", size_px) for _ in range(2))
    assert first is not None
    assert first == second
    assert len(first["image"]) <= MAX_BYTES
    picture = Image.open(io.BytesIO(base64.b64decode(first["image"].removeprefix(PNG))))
    assert picture.size == (min(size_px, SIDE_PX),) * 2
    assert len(picture.getcolors() or ()) <= LEVELS


def test_a_network_without_maps_shows_nothing() -> None:
    assert attention(None, 0, "1", 224) is None
