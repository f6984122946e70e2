"""What is in each drawn bin, and where.

About a third of the bins are the previous one after an object was taken out or put in.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.data.synthetic.catalogue import COLOURS, KINDS, SCALE, STRETCH, Catalogue, DrawnProduct

SIZE_PX = 224
PX_PER_CM = 4.0
"""The scale of all photos: a bin is 56 cm wide and high."""
VARIATION = 0.03
"""How far a unit may be from the size of its product, as a share of it."""
REPEATS = 0.3
"""The share of objects that are of the same product as the one before."""
_TICKETS = 36**8


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object: its product, and its place in the bin (pixels of a SIZE_PX photo)."""

    product: DrawnProduct
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

    def record(self) -> dict[str, object]:
        """The record in the dataset's format: each product with its quantity, size and weight."""
        quantities = Counter(item.product.id for item in self.items)
        entries = {item.product.id: item.product.entry for item in self.items}
        products = {key: {**entry, "quantity": quantities[key]} for key, entry in entries.items()}
        return {"BIN_FCSKU_DATA": products, "EXPECTED_QUANTITY": len(self.items)}


def stock_bins(photos: int, seed: int, counts: tuple[int, ...]) -> Iterator[Bin]:
    """The bins of a dataset, the same number of each count, with products of its catalogue.

    Ids one apart are the same bin before and after a change.
    """
    rng, catalogue = random.Random(seed), Catalogue(seed)
    counts_of_photos = [counts[i % len(counts)] for i in range(photos)]
    rng.shuffle(counts_of_photos)
    previous: Bin | None = None
    number = 0
    for count in counts_of_photos:
        same_bin = previous is not None and rng.random() < 0.35 and abs(len(previous.items) - count) == 1
        number += 1 if same_bin else 3  # ids three apart are never read as the same bin
        items = (
            _restock(rng, catalogue, previous.items, count) if same_bin and previous else _stock(rng, catalogue, count)
        )
        previous = Bin(f"{number:05d}", items, rng.randrange(2**32))
        yield previous


def _restock(rng: random.Random, catalogue: Catalogue, items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    shuffled = list(items)
    rng.shuffle(shuffled)
    moved = [replace(item, x=item.x + rng.uniform(-12, 12)) for item in shuffled[:count]]
    return (*moved, *_stock(rng, catalogue, count - len(moved)))


def _stock(rng: random.Random, catalogue: Catalogue, count: int) -> tuple[Item, ...]:
    slots = [(i + 0.5) / max(count, 1) for i in range(count)]
    span = rng.uniform(0.6, 1.0)
    start = rng.uniform(0, 1 - span)
    items: list[Item] = []
    for slot in slots:
        x = 24 + 176 * (start + span * slot) + rng.gauss(0, 8)
        items.append(_item(rng, catalogue, x, items[-1].product if items else None))
    return tuple(items)


def _item(rng: random.Random, catalogue: Catalogue, x: float, neighbour: DrawnProduct | None) -> Item:
    """An object of the product next to it, or of the one that is nearest to a size, kind and colour at random."""
    kind = rng.choice(tuple(KINDS))  # the order of these six is that of earlier versions: a seed keeps its bins
    scale = rng.uniform(*SCALE)
    lean = rng.gauss(0, 1)
    repeats = rng.randrange(_TICKETS) < REPEATS * _TICKETS
    stretch = rng.uniform(*STRETCH)
    colour = rng.choice(tuple(COLOURS.values()))
    width_cm, height_cm = KINDS[kind].width_cm * scale * stretch, KINDS[kind].height_cm * scale
    product = neighbour if repeats and neighbour else catalogue.nearest(kind, colour, width_cm, height_cm)
    return Item(
        product=product,
        x=x,
        width=PX_PER_CM * _near(width_cm, product.width_cm),
        height=PX_PER_CM * _near(height_cm, product.height_cm),
        tilt_deg=lean * (14 if product.kind in ("book", "bag") else 6),
    )


def _near(size: float, typical: float) -> float:
    """The size nearest to ``size`` that a unit may have."""
    return min(max(size, typical * (1 - VARIATION)), typical * (1 + VARIATION))
