"""A bin's record: which products it lists, how many of each, how large and how heavy one is. Parsing only.

Two formats are read, the dataset's own and a plain list:

    {"EXPECTED_QUANTITY": 3, "BIN_FCSKU_DATA": {ID: {"quantity": 3, "length": {"value": 5.8, "unit": "IN"}, ...}}}
    [{"id": ID, "quantity": 3, "length": 14.7, "width": 12, "height": 3, "size_unit": "cm",
      "weight": 160, "weight_unit": "g"}, ...]

A measure is an object with its unit, or a number whose unit is in ``size_unit`` or ``weight_unit``. What cannot be a
measure raises FieldError. A catalogue that says zero, less, or something absurd does not know: such a measure counts
as missing, and ``Product.problems`` says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve.errors import FieldError

MAX_PRODUCTS, MAX_QUANTITY = 200, 99_999
CM = {"cm": 1.0, "mm": 0.1, "m": 100.0, "in": 2.54, "inch": 2.54, "inches": 2.54}
KG = {"kg": 1.0, "g": 0.001, "lb": 0.45359237, "lbs": 0.45359237, "pounds": 0.45359237, "oz": 0.028349523125}
"""Centimetres and kilograms of each unit, whose case does not matter."""
SIDE_CM, WEIGHT_KG = (0.05, 300.0), (0.0005, 200.0)
"""The sides and weights that one object in a bin can have."""
SIDES = ("length", "width", "height")


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product of a record.

    ``quantity``: units, from 0. ``sides_cm``: of one unit, the longest first; ``weight_kg``: of one unit; both None
    where the catalogue does not know. ``problems``: what it says that cannot be.
    """

    quantity: int
    id: str = ""
    name: str = ""
    sides_cm: tuple[float, float, float] | None = None
    weight_kg: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """The recorded content of a bin. ``quantity``: of all products; ``products``: empty where only that is known."""

    quantity: int
    products: tuple[Product, ...] = field(default=())

    @property
    def listed(self) -> tuple[Product, ...]:
        """The products of which there is at least one unit."""
        return tuple(product for product in self.products if product.quantity)

    @property
    def has_sizes(self) -> bool:
        """Whether the sides of every listed product are known."""
        return bool(self.listed) and all(product.sides_cm for product in self.listed)


def parse_record(content: object) -> Record:
    """Read a record in the dataset's format. Raises FieldError."""
    if not isinstance(content, Mapping):
        raise FieldError(f"record is {type(content).__name__}; give the object with EXPECTED_QUANTITY")
    listed = content.get("BIN_FCSKU_DATA")
    if listed is not None and not isinstance(listed, Mapping):
        raise FieldError(f"BIN_FCSKU_DATA of the record is {type(listed).__name__}; give an object of products by id")
    entries = [{"id": key, **entry} if isinstance(entry, Mapping) else entry for key, entry in (listed or {}).items()]
    products = _parse_entries(entries)
    total, expected = sum(product.quantity for product in products), content.get("EXPECTED_QUANTITY")
    if expected is None and not products:
        raise FieldError("the record has neither EXPECTED_QUANTITY nor products; give one of them")
    quantity = total if expected is None else _whole("EXPECTED_QUANTITY", expected)
    if products and quantity != total:
        raise FieldError(f"EXPECTED_QUANTITY of the record is {quantity}, but its products add up to {total}")
    return Record(quantity, products)


def parse_products(content: object) -> Record:
    """Read a list of products. Raises FieldError."""
    if not isinstance(content, Sequence) or isinstance(content, str | bytes):
        raise FieldError(f"products is {type(content).__name__}; give a list of objects with quantity, sizes and units")
    if not content:
        raise FieldError("products is empty; list what the record lists, or give expected_quantity alone")
    products = _parse_entries(content)
    return Record(_whole("the quantity of all products", sum(product.quantity for product in products)), products)


def _parse_entries(entries: Sequence[object]) -> tuple[Product, ...]:
    if len(entries) > MAX_PRODUCTS:
        raise FieldError(f"the record lists {len(entries)} products; at most {MAX_PRODUCTS} are read")
    products = tuple(_parse_product(number, entry) for number, entry in enumerate(entries, 1))
    ids = [product.id for product in products if product.id]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise FieldError(f"the record lists product {twice[:40]!r} twice; list it once, with its whole quantity")
    return products


def _parse_product(number: int, entry: object) -> Product:
    if not isinstance(entry, Mapping):
        raise FieldError(f"product {number} is {type(entry).__name__}; give an object with quantity, sizes and units")
    product_id = _text(entry, "id") or _text(entry, "asin")
    label = f"product {product_id[:40]!r}" if product_id else f"product {number}"
    if entry.get("quantity") is None:
        raise FieldError(f"{label} has no quantity; give a whole number from 0 to {MAX_QUANTITY}")
    quantity = _whole(f"the quantity of {label}", entry["quantity"])
    problems: list[str] = []
    sides = [_measure(label, entry, side, "size_unit", CM, SIDE_CM, problems) for side in SIDES]
    weight = _measure(label, entry, "weight", "weight_unit", KG, WEIGHT_KG, problems)
    longest_first = sorted((side for side in sides if side is not None), reverse=True)
    return Product(
        quantity=quantity,
        id=product_id,
        name=_text(entry, "name"),
        sides_cm=tuple(longest_first) if len(longest_first) == len(SIDES) else None,  # type: ignore[arg-type]
        weight_kg=weight,
        problems=tuple(problems),
    )


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise FieldError(f"{key} of a product is {value!r:.40}; give text")
    return value or ""


def _whole(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_QUANTITY:
        raise FieldError(f"{name} is {value!r:.20}; give a whole number from 0 to {MAX_QUANTITY}")
    return value


def _measure(
    label: str,
    entry: Mapping[str, object],
    key: str,
    unit_key: str,
    units: Mapping[str, float],
    possible: tuple[float, float],
    problems: list[str],
) -> float | None:
    """A side in cm or a weight in kg; None where it is missing, or outside ``possible``, which ``problems`` then names.

    Raises FieldError for what is no number, and for one without a unit.
    """
    value, unit = entry.get(key), entry.get(unit_key)
    if isinstance(value, Mapping):
        unit, value = value.get("unit", unit), value.get("value")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FieldError(f"the {key} of {label} is {value!r:.20}; give a number")
    factor = units.get(unit.strip().lower()) if isinstance(unit, str) else None
    if factor is None:
        known = ", ".join(units)
        raise FieldError(f"the {key} of {label} is {value:g} with the unit {unit!r:.20}; give one of {known}")
    if not possible[0] <= value * factor <= possible[1]:
        problems.append(f"the {key} of {label} is {value:g} {unit}, which cannot be")
        return None
    return value * factor
