"""Wrong records: what becomes of a right record by the errors that warehouses make.

A photo shows a bin; its recorded content is taken as right, and each kind of error changes the record, so that photo
and record disagree. A record that cannot have an error of some kind, such as one fewer where every product is there
once, gives none. Products that a record gains come from the catalogue of the other bins, as often as they are there:
so they look like any recorded product.
"""

import collections
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from serve.evidence.record import MAX_PRODUCTS, Product, Record


class ErrorKind(StrEnum):
    """What is wrong with a record."""

    ONE_MORE = "one_more"
    """It has one unit of a listed product more than the bin."""
    ONE_FEWER = "one_fewer"
    """It has one unit of a listed product less, and still lists it."""
    MISSING = "missing"
    """It lists one unit of a product that is not there."""
    UNLISTED = "unlisted"
    """A product of which one unit is there is not listed."""
    OFF_BY_TWO = "off_by_two"
    """It has two units more or less, of one product or of two."""
    EXCHANGED = "exchanged"
    """In place of a product that is there it lists another, the same number of units."""


WRONG_RECORDS = 3
"""Wrong records of each kind, of each right one."""
DRAWS = 10
"""How often a product is drawn from the catalogue until the record does not list it."""


def wrong_record(
    record: Record, kind: ErrorKind, catalogue: Sequence[Product], rng: np.random.Generator
) -> Record | None:
    """``record`` with an error of ``kind``; None where it cannot have one.

    ``catalogue``: products of other bins, which a record can gain.
    """
    products = _ERRORS[kind](list(record.listed), catalogue, rng) if record.listed else None
    if not products or len(products) > MAX_PRODUCTS:
        return None
    return Record(sum(product.quantity for product in products), tuple(products))


@dataclass(frozen=True)
class Pairs:
    """Photos, by their rows, with records; ``kinds``: what is wrong with each, None where nothing is."""

    rows: NDArray[np.int64]
    records: tuple[Record, ...]
    kinds: tuple[ErrorKind | None, ...]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each record is right, ``(N,)``."""
        return np.array([kind is None for kind in self.kinds], dtype=bool)

    @property
    def quantities(self) -> NDArray[np.int64]:
        """The recorded quantities ``(N,)``."""
        return np.array([record.quantity for record in self.records], dtype=np.int64)

    def within(self, quantities: Collection[int]) -> "Pairs":
        """The pairs whose recorded quantity is one of ``quantities``."""
        places = [place for place, record in enumerate(self.records) if record.quantity in quantities]
        records, kinds = (self.records[place] for place in places), (self.kinds[place] for place in places)
        return Pairs(self.rows[places], tuple(records), tuple(kinds))

    def weights(self) -> NDArray[np.float64]:
        """Weights ``(N,)``: right records count as much as all wrong ones, and wrong ones of each kind alike."""
        number = collections.Counter(self.kinds)
        kinds = len(number) - 1
        share = {kind: 0.5 if kind is None else 0.5 / kinds for kind in number}
        return np.array([len(self.kinds) * share[kind] / number[kind] for kind in self.kinds])


_GAINED = {ErrorKind.MISSING: 1, ErrorKind.OFF_BY_TWO: 2}
"""By how much the quantity of a record grows that gains a product."""


class Catalogue:
    """The products of right records, by the quantity of the record that lists them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._products = defaultdict[int, list[Product]](list)
        for record in records:
            self._products[record.quantity] += record.listed

    def of(self, quantity: int) -> Sequence[Product]:
        """The products in records of ``quantity``."""
        return self._products.get(quantity, ())


def make_pairs(right: Mapping[int, Record], catalogue: Catalogue, seed: int, errors: int = WRONG_RECORDS) -> Pairs:
    """The right records, by row, and of each at most ``errors`` wrong ones of every kind."""
    rng = np.random.default_rng(seed)
    pairs: list[tuple[int, Record, ErrorKind | None]] = [(row, record, None) for row, record in right.items()]
    for row, record in right.items():
        for kind in ErrorKind:
            products = catalogue.of(record.quantity + _GAINED.get(kind, 0))
            wrong = (wrong_record(record, kind, products, rng) for _ in range(errors))
            pairs += [(row, item, kind) for item in wrong if item and item.has_sizes]
    rows, records, kinds = zip(*pairs, strict=True)
    return Pairs(np.array(rows), records, kinds)


_Products = list[Product]
_Catalogue = Sequence[Product]


def _one_more(products: _Products, _: _Catalogue, rng: np.random.Generator) -> _Products | None:
    return _with_units(products, _any(range(len(products)), rng), 1)


def _one_fewer(products: _Products, _: _Catalogue, rng: np.random.Generator) -> _Products | None:
    several = [place for place, product in enumerate(products) if product.quantity > 1]
    return _with_units(products, _any(several, rng), -1) if several else None


def _missing(products: _Products, catalogue: _Catalogue, rng: np.random.Generator) -> _Products | None:
    stranger = _stranger(products, catalogue, rng)
    return [*products, replace(stranger, quantity=1)] if stranger else None


def _unlisted(products: _Products, _: _Catalogue, rng: np.random.Generator) -> _Products | None:
    single = [place for place, product in enumerate(products) if product.quantity == 1]
    return _with_units(products, _any(single, rng), -1) if single and len(products) > 1 else None


def _off_by_two(products: _Products, catalogue: _Catalogue, rng: np.random.Generator) -> _Products | None:
    if rng.random() < 0.5:
        for _ in range(2):
            if not products:
                return None
            products = _with_units(products, _any(range(len(products)), rng), -1)
        return products
    if rng.random() < 0.5:
        return _with_units(products, _any(range(len(products)), rng), 2)
    first = _missing(products, catalogue, rng)
    return _missing(first, catalogue, rng) if first else None


def _exchanged(products: _Products, catalogue: _Catalogue, rng: np.random.Generator) -> _Products | None:
    stranger, place = _stranger(products, catalogue, rng), _any(range(len(products)), rng)
    if not stranger:
        return None
    return [*products[:place], replace(stranger, quantity=products[place].quantity), *products[place + 1 :]]


_ERRORS: dict[ErrorKind, Callable[[_Products, _Catalogue, np.random.Generator], _Products | None]] = {
    ErrorKind.ONE_MORE: _one_more,
    ErrorKind.ONE_FEWER: _one_fewer,
    ErrorKind.MISSING: _missing,
    ErrorKind.UNLISTED: _unlisted,
    ErrorKind.OFF_BY_TWO: _off_by_two,
    ErrorKind.EXCHANGED: _exchanged,
}


def _any(places: Sequence[int], rng: np.random.Generator) -> int:
    return places[int(rng.integers(len(places)))]


def _with_units(products: _Products, place: int, more: int) -> _Products:
    """``products`` with ``more`` units of the one at ``place``, which is no longer listed where none is left."""
    product = replace(products[place], quantity=products[place].quantity + more)
    return [*products[:place], *([product] if product.quantity > 0 else []), *products[place + 1 :]]


def _stranger(products: _Products, catalogue: _Catalogue, rng: np.random.Generator) -> Product | None:
    known = {product.id for product in products}
    draws = (catalogue[_any(range(len(catalogue)), rng)] for _ in range(DRAWS if catalogue else 0))
    return next((product for product in draws if product.id not in known), None)
