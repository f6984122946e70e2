"""Painting one drawn bin: yellow fabric, objects, elastic bands and a label; light, focus and noise vary."""

import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.synthetic.catalogue import COLOURS
from trainer.data.synthetic.stocking import SIZE_PX, Bin, Item


def draw_bin(drawn_bin: Bin) -> Image.Image:
    """Draw one bin: RGB, SIZE_PX square."""
    rng = random.Random(drawn_bin.seed)
    image = _fabric(rng)
    floor = SIZE_PX * rng.uniform(0.82, 0.9)
    for item in sorted(drawn_bin.items, key=lambda item: -item.height * rng.uniform(0.8, 1.2)):
        _place(image, item, floor - rng.uniform(0, 10), rng)
    _bands(image, rng)
    _label(image, rng)
    return _camera(image, rng)


def _fabric(rng: random.Random) -> Image.Image:
    base = [rng.uniform(0.85, 1.1) * c for c in (170, 150, 80)]
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), _rgb(base))
    pen = ImageDraw.Draw(image)
    depth = rng.randint(12, 34)
    pen.rectangle([depth, 18, SIZE_PX - depth, SIZE_PX - 40], fill=_rgb([c * 0.8 for c in base]))
    pen.rectangle([0, SIZE_PX * 0.78, SIZE_PX, SIZE_PX], fill=_rgb([c * 0.72 for c in (150, 145, 135)]))
    for _ in range(rng.randint(2, 6)):  # folds
        x = rng.randint(0, SIZE_PX)
        pen.line(
            [x, 0, x + rng.randint(-30, 30), SIZE_PX],
            fill=_rgb([c * rng.uniform(0.7, 1.15) for c in base]),
            width=rng.randint(1, 4),
        )
    return image.filter(ImageFilter.GaussianBlur(1.5))


def _place(image: Image.Image, item: Item, floor: float, rng: random.Random) -> None:
    side = int(math.hypot(item.width, item.height)) + 8
    patch = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(patch)
    left, top = (side - item.width) / 2, (side - item.height) / 2
    frame = (left, top, left + item.width, top + item.height)
    edge = _rgb([c * 0.45 for c in item.product.colour])
    if item.product.kind == "bag":
        pen.ellipse(frame, fill=item.product.colour, outline=edge, width=2)
        for _ in range(5):  # creases of the plastic
            x, y = rng.uniform(left, left + item.width * 0.8), rng.uniform(top, top + item.height * 0.8)
            pen.line([x, y, x + rng.uniform(4, 14), y + rng.uniform(-8, 8)], fill=(255, 255, 255, 120), width=2)
    else:
        radius = {"bottle": item.width * 0.4, "book": 1, "box": 3}[item.product.kind]
        pen.rounded_rectangle(frame, radius, fill=item.product.colour, outline=edge, width=2)
        stripe = top + item.height * rng.uniform(0.2, 0.6)
        pen.rectangle(
            [left + 3, stripe, left + item.width - 3, stripe + item.height * 0.14],
            fill=_rgb([min(255.0, c * 1.3 + 30) for c in item.product.colour]),
        )
        pen.rectangle(
            [left + item.width * 0.8, top + 2, left + item.width - 2, top + item.height - 2], fill=(0, 0, 0, 50)
        )
    patch = patch.rotate(item.tilt_deg, Image.Resampling.BILINEAR)
    image.paste(patch, (int(item.x - side / 2), int(floor - (side + item.height) / 2)), patch)


def _bands(image: Image.Image, rng: random.Random) -> None:
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.randint(1, 2)):
        y, tilt = rng.uniform(30, 170), rng.uniform(-8, 8)
        for strand in range(rng.randint(4, 9)):
            offset = y + strand * 3.4
            pen.line([0, offset, SIZE_PX, offset + tilt], fill=(205, 200, 185, rng.randint(90, 170)), width=2)
    image.paste(layer, (0, 0), layer)


def _label(image: Image.Image, rng: random.Random) -> None:
    pen = ImageDraw.Draw(image)
    x = rng.randint(40, 130)
    pen.rectangle([x, SIZE_PX - 22, x + 60, SIZE_PX], fill=(235, 232, 225))
    pen.rectangle([x + 4, SIZE_PX - 18, x + 34, SIZE_PX - 3], fill=rng.choice(tuple(COLOURS.values())))


def _camera(image: Image.Image, rng: random.Random) -> Image.Image:
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2)))
    noise = np.random.default_rng(rng.randrange(2**32))
    ramp = np.linspace(rng.uniform(0.65, 1.1), rng.uniform(0.65, 1.1), SIZE_PX, dtype=np.float32)
    light = ramp[None, :, None] if rng.random() < 0.5 else ramp[:, None, None]
    pixels = np.asarray(image, dtype=np.float32) * light * rng.uniform(0.75, 1.15)
    grain = noise.standard_normal((SIZE_PX, SIZE_PX, 1), dtype=np.float32) * rng.uniform(1, 7)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _rgb(colour: list[float]) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, round(c))) for c in colour)
    return red, green, blue
