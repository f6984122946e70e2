"""Records made wrong in each way that warehouses do it."""

from collections import Counter

import numpy as np
import pytest

from serve.evidence.record import MAX_PRODUCTS, Product, Record
from trainer.data.bin_records.wrong_records import ErrorKind, wrong_record

SIDES = (30.0, 20.0, 10.0)
PEN, BOX, BOOK = (Product(id=name, quantity=1, sides_cm=SIDES) for name in ("pen", "box", "book"))
CATALOGUE = [Product(id=f"other {number}", quantity=4, sides_cm=SIDES) for number in range(5)]


def record(**quantities: int) -> Record:
    products = tuple(Product(id=name, quantity=number, sides_cm=SIDES) for name, number in quantities.items())
    return Record(sum(quantities.values()), products)


def units(content: Record) -> Counter[str]:
    return Counter({product.id: product.quantity for product in content.products})


@pytest.mark.parametrize(
    ("kind", "more", "less"),
    [
        (ErrorKind.ONE_MORE, {1}, {0}),
        (ErrorKind.ONE_FEWER, {0}, {1}),
        (ErrorKind.MISSING, {1}, {0}),
        (ErrorKind.UNLISTED, {0}, {1}),
        (ErrorKind.OFF_BY_TWO, {0, 2}, {0, 2}),
        (ErrorKind.EXCHANGED, {1, 2, 3}, {1, 2, 3}),
    ],
)
def test_a_wrong_record_differs_by_what_its_kind_says(kind: ErrorKind, more: set[int], less: set[int]) -> None:
    right, rng = record(pen=1, box=2, book=3), np.random.default_rng(0)
    for _ in range(200):
        wrong = wrong_record(right, kind, CATALOGUE, rng)
        assert wrong
        assert wrong.quantity == sum(product.quantity for product in wrong.products)
        assert (units(wrong) - units(right)).total() in more
        assert (units(right) - units(wrong)).total() in less
        assert units(wrong) != units(right)
        assert all(product.quantity > 0 for product in wrong.products)


def test_one_fewer_still_lists_the_product_and_unlisted_does_not() -> None:
    right, rng = record(pen=1, box=2), np.random.default_rng(0)
    fewer, unlisted = (wrong_record(right, kind, (), rng) for kind in (ErrorKind.ONE_FEWER, ErrorKind.UNLISTED))
    assert fewer
    assert unlisted
    assert units(fewer) == {"pen": 1, "box": 1}
    assert units(unlisted) == {"box": 2}


@pytest.mark.parametrize(
    ("right", "kind"),
    [
        (record(pen=1, box=1), ErrorKind.ONE_FEWER),
        (record(pen=1), ErrorKind.UNLISTED),
        (record(pen=2, box=2), ErrorKind.UNLISTED),
        (record(pen=0), ErrorKind.ONE_MORE),
        (Record(3), ErrorKind.ONE_MORE),
        (Record(0), ErrorKind.MISSING),
    ],
)
def test_a_record_that_cannot_have_an_error_gives_none(right: Record, kind: ErrorKind) -> None:
    assert wrong_record(right, kind, CATALOGUE, np.random.default_rng(0)) is None


def test_without_a_catalogue_no_product_is_gained() -> None:
    for kind in (ErrorKind.MISSING, ErrorKind.EXCHANGED):
        assert wrong_record(record(pen=2), kind, (), np.random.default_rng(0)) is None
        assert wrong_record(record(pen=2), kind, [PEN], np.random.default_rng(0)) is None


def test_no_record_gets_more_products_than_one_can_have() -> None:
    full = record(**{f"p{number}": 1 for number in range(MAX_PRODUCTS)})
    assert wrong_record(full, ErrorKind.MISSING, CATALOGUE, np.random.default_rng(0)) is None
    assert wrong_record(full, ErrorKind.EXCHANGED, CATALOGUE, np.random.default_rng(0))


def test_the_same_seed_gives_the_same_record() -> None:
    first, second = (
        [wrong_record(record(pen=1, box=2), kind, CATALOGUE, np.random.default_rng(7)) for kind in ErrorKind]
        for _ in range(2)
    )
    assert first == second
