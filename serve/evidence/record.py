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
from contextlib import suppress
from dataclasses import dataclass, field

from serve.errors import FieldError

MAX_PRODUCTS, MAX_QUANTITY = 200, 99_999
MAX_NAME, MAX_NOTES, SUMMARY = 200, 10, 3
"""Longest name that is kept, most sentences about what a record lacks, and most products that a summary has."""
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

    def to_json(self) -> dict[str, object]:
        """The JSON of one product, as ``parse_products`` reads it."""
        sides = dict(zip(SIDES, self.sides_cm, strict=True)) | {"size_unit": "cm"} if self.sides_cm else {}
        weight = {"weight": self.weight_kg, "weight_unit": "kg"} if self.weight_kg else {}
        return {"id": self.id, "name": self.name, "quantity": self.quantity, **sides, **weight}

    @property
    def size(self) -> str:
        """The sides of one unit, in words."""
        return " x ".join(f"{side:.3g}" for side in self.sides_cm) + " cm" if self.sides_cm else "unknown size"

    @property
    def label(self) -> str:
        """What a person calls it: its name, else its id, in quotes and not too long."""
        text = self.name or self.id
        return repr(text if len(text) <= 40 else f"{text[:40].rstrip()}...") if text else "the product without a name"


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

    def to_products(self) -> list[dict[str, object]]:
        """The JSON that ``parse_products`` reads; without what cannot be read of it."""
        return [product.to_json() for product in self.listed]

    @property
    def summary(self) -> str:
        """What is listed, in words, with the sizes: ``5 of 30 x 20 x 10 cm and 1 of 5 x 4 x 2 cm``."""
        parts = [f"{product.quantity} of {product.size}" for product in self.listed[:SUMMARY]]
        rest = sum(product.quantity for product in self.listed[SUMMARY:])
        return " and ".join([*parts, *([f"{rest} others"] if rest else [])])

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the record cannot be used, in sentences: measures that cannot be, products without sizes."""
        if not self.products and self.quantity:
            return ("the record lists no products",)
        without_sizes = [product for product in self.listed if not product.sides_cm]
        sizes = [f"the sizes of {enumerate_labels(without_sizes)} are not known"] if without_sizes else []
        return (*(problem for product in self.listed for problem in product.problems), *sizes)


def enumerate_labels(products: Sequence[Product]) -> str:
    """The names of products for a sentence: of more than three the first ones, and how many others there are."""
    labels = [product.label for product in products[:3]]
    return ", ".join(labels) + (f" and {len(products) - 3} more products" if len(products) > 3 else "")


def shorten_notes(notes: Sequence[str]) -> list[str]:
    """At most MAX_NOTES sentences, the last of which says how many are left out."""
    if len(notes) <= MAX_NOTES:
        return list(notes)
    return [*notes[: MAX_NOTES - 1], f"and {len(notes) - MAX_NOTES + 1} more notes of this kind"]


def unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names must be unique, for ``json.loads(object_pairs_hook=...)``. Raises ValueError."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has the same name twice")
    return content


def parse_either(content: object) -> Record:
    """Read a record in either format. Raises FieldError."""
    return parse_products(content) if isinstance(content, list) else parse_record(content)


def parse_record(content: object) -> Record:
    """Read a record in the dataset's format. Raises FieldError."""
    if not isinstance(content, Mapping):
        raise FieldError(f"record is {type(content).__name__}; give the object with EXPECTED_QUANTITY")
    listed = content.get("BIN_FCSKU_DATA")
    if listed is not None and not isinstance(listed, Mapping):
        raise FieldError(f"BIN_FCSKU_DATA of the record is {type(listed).__name__}; give an object of products by id")
    entries = [{**entry, "id": key} if isinstance(entry, Mapping) else entry for key, entry in (listed or {}).items()]
    products = _parse_entries(entries)
    total, expected = sum(product.quantity for product in products), content.get("EXPECTED_QUANTITY")
    if expected is None and not products:
        raise FieldError("the record has neither EXPECTED_QUANTITY nor products; give one of them")
    if expected is None:
        return Record(_whole("the quantity of all products", total), products)
    quantity = _whole("EXPECTED_QUANTITY", expected)
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
        name=_text(entry, "name")[:MAX_NAME],
        sides_cm=tuple(longest_first) if len(longest_first) == len(SIDES) else None,  # type: ignore[arg-type]
        weight_kg=weight,
        problems=tuple(problems),
    )


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise FieldError(f"{key} of a product is {shown(value)}; give text")
    return value or ""


def _whole(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_QUANTITY:
        raise FieldError(f"{name} is {shown(value)}; give a whole number from 0 to {MAX_QUANTITY}")
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
    number = _finite(value)
    if number is None:
        raise FieldError(f"the {key} of {label} is {shown(value)}; give a number")
    factor = units.get(unit.strip().lower()) if isinstance(unit, str) else None
    if factor is None:
        known = ", ".join(units)
        raise FieldError(f"the {key} of {label} is {number:g} with the unit {shown(unit)}; give one of {known}")
    if not possible[0] <= number * factor <= possible[1]:
        problems.append(f"the {key} of {label} is {number:g} {unit}, which cannot be")
        return None
    return number * factor


def _finite(value: object) -> float | None:
    """A number as a float; None for everything else, and for what is too large to be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None


def shown(value: object) -> str:
    """A value for a message, not too long; of a list or an object, which may be deep, only what it is."""
    return f"{value!r:.20}" if isinstance(value, str | int | float | None) else type(value).__name__
