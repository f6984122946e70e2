"""Drawing photos of bins in the format of the dataset, for machines without the real photos.

    python -m trainer.data.synthetic OUT --photos 1000 --seed 0

writes ``OUT/bin-images/<id>.jpg``, ``OUT/metadata/<id>.json`` and ``OUT/file_list.json``. A photo shows a yellow fabric
bin with one to five objects, elastic bands and a label, and light, focus and noise vary. As in the real dataset, about
a third of the photos show the bin of the previous photo after an object was taken out or put in, so that splitting by
bin matters.
"""

import argparse
import json
import math
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from trainer.data.abid import FILE_LIST, file_list_json

SIZE_PX = 224
_KINDS = ("box", "book", "bag", "bottle")
_PALETTE = [
    (168, 120, 84),
    (60, 90, 160),
    (190, 60, 60),
    (230, 228, 220),
    (40, 40, 44),
    (70, 140, 80),
    (220, 180, 60),
    (130, 80, 150),
    (90, 160, 180),
    (200, 130, 150),
]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object: its product, shape, and place in the bin (pixels of a SIZE_PX photo)."""

    asin: str
    kind: str
    colour: tuple[int, int, int]
    x: float
    width: float
    height: float
    tilt_deg: float


@dataclass(frozen=True)
class Bin:
    """One photo: its objects, and the seed of light, fabric and noise."""

    id: str
    items: tuple[Item, ...]
    seed: int


def draw_dataset(out: Path, photos: int = 1000, seed: int = 0, counts: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Path:
    """Draw ``photos`` bins into ``out``, the same number of each count, and return ``out``.

    The same seed draws the same bytes.
    """
    for folder in ("bin-images", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    bins = list(_bins(photos, seed, counts))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL and numpy draw outside the GIL
        results = pool.map(partial(_write, out), bins)
        for _ in tqdm(results, total=photos, desc="drawing bins", unit="photo"):
            pass
    ids_by_count: dict[int, list[str]] = {count: [] for count in counts}
    for drawn_bin in bins:
        ids_by_count[len(drawn_bin.items)].append(drawn_bin.id)
    (out / FILE_LIST).write_text(file_list_json(ids_by_count))
    return out


def _bins(photos: int, seed: int, counts: tuple[int, ...]) -> Iterator[Bin]:
    rng = random.Random(seed)
    counts_of_photos = [counts[i % len(counts)] for i in range(photos)]
    rng.shuffle(counts_of_photos)
    previous: Bin | None = None
    number = 0
    for count in counts_of_photos:
        same_bin = previous is not None and rng.random() < 0.35 and abs(len(previous.items) - count) == 1
        number += 1 if same_bin else 3  # ids three apart are never read as the same bin
        items = _restock(rng, previous.items, count) if same_bin and previous else _stock(rng, count)
        previous = Bin(f"{number:05d}", items, rng.randrange(2**32))
        yield previous


def _restock(rng: random.Random, items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    shuffled = list(items)
    rng.shuffle(shuffled)
    moved = [replace(item, x=item.x + rng.uniform(-12, 12)) for item in shuffled[:count]]
    return (*moved, *_stock(rng, count - len(moved)))


def _stock(rng: random.Random, count: int) -> tuple[Item, ...]:
    slots = [(i + 0.5) / max(count, 1) for i in range(count)]
    span = rng.uniform(0.6, 1.0)
    start = rng.uniform(0, 1 - span)
    return tuple(_item(rng, 24 + 176 * (start + span * slot) + rng.gauss(0, 8)) for slot in slots)


def _item(rng: random.Random, x: float) -> Item:
    kind = rng.choice(_KINDS)
    scale = rng.uniform(0.75, 1.35)
    width, height = {"box": (46, 58), "book": (20, 88), "bag": (56, 48), "bottle": (24, 80)}[kind]
    tilt = rng.gauss(0, 14 if kind in ("book", "bag") else 6)
    asin = f"B{rng.randrange(36**8):09d}"[:10]
    stretch = rng.uniform(0.8, 1.25)
    return Item(
        asin=asin,
        kind=kind,
        colour=rng.choice(_PALETTE),
        x=x,
        width=width * scale * stretch,
        height=height * scale,
        tilt_deg=tilt,
    )


def _write(out: Path, drawn_bin: Bin) -> None:
    draw_bin(drawn_bin).save(out / "bin-images" / f"{drawn_bin.id}.jpg", quality=85)
    record = {
        "BIN_FCSKU_DATA": {
            item.asin: {"asin": item.asin, "name": item.kind, "quantity": 1} for item in drawn_bin.items
        },
        "EXPECTED_QUANTITY": len(drawn_bin.items),
    }
    (out / "metadata" / f"{drawn_bin.id}.json").write_text(json.dumps(record, indent=1))


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
    edge = _rgb([c * 0.45 for c in item.colour])
    if item.kind == "bag":
        pen.ellipse(frame, fill=item.colour, outline=edge, width=2)
        for _ in range(5):  # creases of the plastic
            x, y = rng.uniform(left, left + item.width * 0.8), rng.uniform(top, top + item.height * 0.8)
            pen.line([x, y, x + rng.uniform(4, 14), y + rng.uniform(-8, 8)], fill=(255, 255, 255, 120), width=2)
    else:
        radius = {"bottle": item.width * 0.4, "book": 1, "box": 3}[item.kind]
        pen.rounded_rectangle(frame, radius, fill=item.colour, outline=edge, width=2)
        stripe = top + item.height * rng.uniform(0.2, 0.6)
        pen.rectangle(
            [left + 3, stripe, left + item.width - 3, stripe + item.height * 0.14],
            fill=_rgb([min(255.0, c * 1.3 + 30) for c in item.colour]),
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
    pen.rectangle([x + 4, SIZE_PX - 18, x + 34, SIZE_PX - 3], fill=rng.choice(_PALETTE))


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


def main() -> None:
    """Draw a dataset from the command line."""
    parser = argparse.ArgumentParser(description="Draw bins in the format of the Amazon Bin Image Dataset.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(draw_dataset(args.out, args.photos, args.seed))


if __name__ == "__main__":
    main()
