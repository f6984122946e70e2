"""The products of drawn bins: how each looks, how large it is, and what its record says of it.

Like a real catalogue, this one has gaps: some products are without sizes or weight, and a few weights are absurd.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

PER_LOOK = 8
"""Products of each kind and colour: 320 in all."""
WITHOUT_SIZES, WITHOUT_WEIGHT, ABSURD_WEIGHT = 0.03, 0.03, 0.01
"""Shares of the catalogue."""
SCALE, STRETCH = (0.75, 1.35), (0.8, 1.25)
"""How the products of a kind differ in size: the range of both sides, and of the width alone, as a factor."""
INCHES_PER_CM, POUNDS_PER_G = 1 / 2.54, 1 / 453.59237


@dataclass(frozen=True)
class Kind:
    """What products of a kind are like.

    ``width_cm``, ``height_cm``: of a typical one as it stands in a bin; ``depth``: hidden side, as a share of the
    height of a book and of the width of the others; ``density``: the least and the greatest, in g/cm³.
    """

    width_cm: float
    height_cm: float
    depth: float
    density: tuple[float, float]


KINDS = {
    "box": Kind(11.5, 14.5, 0.9, (0.15, 0.5)),
    "book": Kind(5.0, 22.0, 0.7, (0.5, 0.8)),
    "bag": Kind(14.0, 12.0, 0.4, (0.1, 0.3)),
    "bottle": Kind(6.0, 20.0, 1.0, (0.6, 1.0)),
}
COLOURS = {
    "brown": (168, 120, 84),
    "blue": (60, 90, 160),
    "red": (190, 60, 60),
    "white": (230, 228, 220),
    "black": (40, 40, 44),
    "green": (70, 140, 80),
    "yellow": (220, 180, 60),
    "purple": (130, 80, 150),
    "turquoise": (90, 160, 180),
    "pink": (200, 130, 150),
}


@dataclass(frozen=True, kw_only=True)
class DrawnProduct:
    """A product, all units of which have its kind, colour and size.

    ``width_cm``, ``height_cm``: true size of the side that a photo shows; ``entry``: what a record says of it, in the
    dataset's format, without the quantity.
    """

    id: str
    kind: str
    colour: tuple[int, int, int]
    width_cm: float
    height_cm: float
    entry: Mapping[str, object]


class Catalogue:
    """All products of a dataset; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"catalogue {seed}")
        ids = iter(rng.sample(range(10**9), PER_LOOK * len(KINDS) * len(COLOURS)))
        self._by_look = {
            (kind, COLOURS[colour]): [_draw_product(rng, f"B{next(ids):09d}", kind, colour) for _ in range(PER_LOOK)]
            for kind in KINDS
            for colour in COLOURS
        }

    @property
    def products(self) -> tuple[DrawnProduct, ...]:
        """All products."""
        return tuple(product for products in self._by_look.values() for product in products)

    def nearest(self, kind: str, colour: tuple[int, int, int], width_cm: float, height_cm: float) -> DrawnProduct:
        """The product of that kind and colour whose size is nearest to the given one."""
        return min(
            self._by_look[kind, colour],
            key=lambda product: math.hypot(product.width_cm - width_cm, product.height_cm - height_cm),
        )


def _draw_product(rng: random.Random, product_id: str, kind: str, colour: str) -> DrawnProduct:
    scale, stretch = rng.uniform(*SCALE), rng.uniform(*STRETCH)
    width, height = KINDS[kind].width_cm * scale * stretch, KINDS[kind].height_cm * scale
    depth = KINDS[kind].depth * (height if kind == "book" else width) * rng.uniform(0.8, 1.2)
    grams = width * height * depth * rng.uniform(*KINDS[kind].density)
    name = f"{colour} {kind} of {width:.0f} x {height:.0f} cm"
    return DrawnProduct(
        id=product_id,
        kind=kind,
        colour=COLOURS[colour],
        width_cm=width,
        height_cm=height,
        entry={"asin": product_id, "name": name, "normalizedName": name}
        | _sides(rng, sorted((width, height, depth), reverse=True))
        | {"weight": _weight(rng, grams)},
    )


def _sides(rng: random.Random, longest_first: list[float]) -> dict[str, object]:
    is_missing = rng.random() < WITHOUT_SIZES
    return {
        side: None if is_missing else {"unit": "IN", "value": round(cm * INCHES_PER_CM, 3)}
        for side, cm in zip(("length", "width", "height"), longest_first, strict=True)
    }


def _weight(rng: random.Random, grams: float) -> dict[str, object] | None:
    chance = rng.random()
    if chance < WITHOUT_WEIGHT:
        return None
    factor = rng.choice((0, 100)) if chance < WITHOUT_WEIGHT + ABSURD_WEIGHT else 1
    return {"unit": "pounds", "value": round(grams * POUNDS_PER_G * factor, 3)}
