"""Pictures that are not photos of bins, by kind, for the benchmark of "not a bin". Nothing is stored."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIZE = (480, 360)
PER_KIND = 30
PACKAGES = (Path("/usr/share"), Path("/usr/lib/python3"))
"""Where packages of the system have pictures."""
MIN_SIDE_PX, MAX_BYTES = 96, 400_000
"""A smaller picture is an icon."""


def other_pictures(photos: Sequence[Path], seed: int = 0) -> dict[str, list[Image.Image]]:
    """PER_KIND pictures of each kind, RGB. ``photos``: of bins, which some kinds are made from.

    Pictures of the system's packages are as many as there are, at most PER_KIND.
    """
    rng = random.Random(seed)
    drawn = {name: [draw(rng) for _ in range(PER_KIND)] for name, draw in _DRAWN.items()}
    chosen = rng.sample(list(photos), min(len(photos), PER_KIND))
    changed = {name: [change(Image.open(path).convert("RGB"), rng) for path in chosen] for name, change in _CHANGED}
    return {**drawn, **changed, "pictures of packages": list(islice(_package_pictures(rng), PER_KIND))}


def _frame(rng: random.Random) -> Image.Image:
    """A covered lens, or one that looks into a lamp: nearly one colour, with a little noise."""
    level = rng.choice([rng.uniform(0, 15), rng.uniform(240, 255), rng.uniform(0, 255)])
    return _noisy(np.full((SIZE[1], SIZE[0], 3), level), rng.uniform(0, 4), rng)


def _floor(rng: random.Random) -> Image.Image:
    """Planks, tiles or bare concrete."""
    base, image = _colour(rng, 70, 190), Image.new("RGB", SIZE)
    draw, width, height = ImageDraw.Draw(image), rng.randint(30, 160), rng.randint(20, 160)
    for top in range(0, SIZE[1], height):
        shift = rng.randint(0, width)
        for left in range(-shift, SIZE[0], width):
            shade = tuple(int(channel * rng.uniform(0.85, 1.1)) for channel in base)
            draw.rectangle((left, top, left + width, top + height), fill=shade, outline=tuple(c // 2 for c in shade))
    return _noisy(np.asarray(image.rotate(rng.uniform(-20, 20), fillcolor=base), float), rng.uniform(3, 14), rng)


def _hand(rng: random.Random) -> Image.Image:
    """A palm with five fingers in front of a plain wall."""
    image, skin = Image.new("RGB", SIZE, _colour(rng, 60, 220)), (rng.randint(120, 230), rng.randint(80, 170), 90)
    draw, x, y, size = ImageDraw.Draw(image), rng.randint(160, 320), rng.randint(200, 280), rng.randint(60, 110)
    draw.ellipse((x - size, y - size, x + size, y + size), fill=skin)
    for finger in range(5):
        tip = (x + (finger - 2) * size * 0.6 + rng.uniform(-9, 9), y - size * (1.9 - 0.25 * abs(finger - 2)))
        draw.line((x + (finger - 2) * size * 0.4, y, *tip), fill=skin, width=int(size * 0.38))
        radius = size * 0.19
        draw.ellipse((tip[0] - radius, tip[1] - radius, tip[0] + radius, tip[1] + radius), fill=skin)
    return _noisy(np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4))), float), 4, rng)


def _screenshot(rng: random.Random) -> Image.Image:
    """A window with a title bar and lines of text."""
    image = Image.new("RGB", SIZE, _colour(rng, 0, 255))
    draw, paper = ImageDraw.Draw(image), rng.choice([(255, 255, 255), (30, 30, 34), (240, 240, 230)])
    left, top, right, bottom = rng.randint(0, 90), rng.randint(0, 60), rng.randint(330, 480), rng.randint(240, 360)
    draw.rectangle((left, top, right, bottom), fill=paper)
    draw.rectangle((left, top, right, top + 22), fill=_colour(rng, 20, 200))
    ink = (20, 20, 20) if paper[0] > 99 else (220, 220, 220)
    for line in range(top + 30, bottom - 12, 13):
        text = "".join(rng.choice("abcdefghijklmnop   rstuvw,.()=") for _ in range(rng.randint(4, 60)))
        draw.text((left + 8, line), text[: (right - left) // 7], fill=ink)
    return image


def _noise(rng: random.Random) -> Image.Image:
    """Random pixels, coarse or fine."""
    grid = rng.choice([4, 16, 64, 360])
    samples = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (grid, grid, 3), dtype=np.uint8)
    return Image.fromarray(samples).resize(SIZE, Image.Resampling.BICUBIC)


def _crop(photo: Image.Image, rng: random.Random) -> Image.Image:
    """A piece of a bin, a quarter of its width and height, blown up."""
    width, height = photo.width // 4, photo.height // 4
    left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    return photo.crop((left, top, left + width, top + height)).resize(photo.size, Image.Resampling.BICUBIC)


def _blur(photo: Image.Image, rng: random.Random) -> Image.Image:
    """A photo of a bin that nobody could count in: blurred over a twentieth of its width or more."""
    return photo.filter(ImageFilter.GaussianBlur(photo.width * rng.uniform(0.05, 0.12)))


def _negative(photo: Image.Image, _: random.Random) -> Image.Image:
    return ImageOps.invert(photo)


def _dark(photo: Image.Image, rng: random.Random) -> Image.Image:
    """A photo of a bin whose lamp has failed: at most 4 % of the light."""
    factor = rng.uniform(0.005, 0.04)
    return _noisy(np.asarray(photo, float) * factor, 1.5, rng)


def _package_pictures(rng: random.Random) -> Iterator[Image.Image]:
    paths = sorted({path for folder in PACKAGES for path in folder.rglob("*.png")})
    for path in rng.sample(paths, len(paths)):
        if path.stat().st_size <= MAX_BYTES:
            with Image.open(path) as picture:
                if min(picture.size) >= MIN_SIDE_PX:
                    white = Image.new("RGBA", picture.size, "white")
                    yield Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _colour(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    level = rng.uniform(low, high)
    red, green, blue = (int(min(255, max(0, level + rng.uniform(-30, 30)))) for _ in range(3))
    return red, green, blue


def _noisy(samples: NDArray[np.float64], sigma: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, sigma, samples.shape)
    return Image.fromarray((samples + noise).clip(0, 255).astype(np.uint8))


_DRAWN: dict[str, Callable[[random.Random], Image.Image]] = {
    "frames of one colour": _frame,
    "drawn floors": _floor,
    "drawn hands": _hand,
    "drawn screenshots": _screenshot,
    "noise": _noise,
}
PIECES = ("sixteenths of bins, blown up", "bins, negative")
"""Kinds that show much of a bin: they are reported, but nothing is expected of them."""
_CHANGED: tuple[tuple[str, Callable[[Image.Image, random.Random], Image.Image]], ...] = (
    ("sixteenths of bins, blown up", _crop),
    ("bins, blurred", _blur),
    ("bins in the dark", _dark),
    ("bins, negative", _negative),
)
