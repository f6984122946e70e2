"""Photos of a fixed camera look alike, and are not one bin."""

import logging
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import rounds
from trainer.data.duplicates import MAX_LOOKALIKES, Signature, find_duplicates, signature


def camera(number: int, seed: int = 0) -> list[Signature]:
    """Photos of one place that differ by noise and by a small object."""
    rng = np.random.default_rng(seed)
    base = np.asarray(Image.radial_gradient("L").resize((64, 64))).astype(np.int16)
    pixels = np.clip(base + rng.integers(-4, 5, (number, 64, 64)), 0, 255).astype(np.uint8)
    return [signature(Image.fromarray(photo).convert("RGB")) for photo in pixels]


def scenes(number: int) -> list[Image.Image]:
    """Photos of different places."""
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(number)]
    return [Image.fromarray(pixels).resize((120, 90), Image.Resampling.BICUBIC) for pixels in noise]


def test_a_few_photos_that_look_alike_are_one_bin() -> None:
    pairs = find_duplicates(camera(10))
    assert {position for pair in pairs for position in pair} == set(range(10))


@pytest.mark.parametrize("number", [2 * MAX_LOOKALIKES, 300])
def test_the_photos_of_a_fixed_camera_are_not_one_bin_and_the_user_is_told(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    alike = camera(number)
    with caplog.at_level(logging.WARNING):
        pairs = find_duplicates([*alike, alike[3]])
    assert pairs == [(3, number)]  # equal pixels are still one bin
    assert f"of {number + 1} photos look like more than {MAX_LOOKALIKES} others" in caplog.text
    assert "labels.csv" in caplog.text


def test_a_fixed_camera_does_not_hide_the_duplicates_of_other_photos(caplog: pytest.LogCaptureFixture) -> None:
    images = scenes(20)
    copies = [image.resize((100, 70)) for image in images]
    pairs = find_duplicates([*camera(100), *map(signature, images), *map(signature, copies)])
    assert pairs == [(100 + number, 120 + number) for number in range(20)]


def test_thousands_of_alike_photos_take_seconds_and_little_memory() -> None:
    alike, start = camera(rounds(1200, 3000)), time.monotonic()
    assert find_duplicates(alike) == []
    assert time.monotonic() - start < 60


def test_photos_of_one_colour_are_like_none() -> None:
    shades = [signature(Image.new("RGB", (50, 40), (shade, shade, shade))) for shade in (0, 5, 90, 255, 255)]
    assert find_duplicates(shades) == [(3, 4)]


@pytest.mark.parametrize("number", [0, 1])
def test_no_photo_has_no_duplicate(number: int) -> None:
    assert find_duplicates(camera(number)) == []
