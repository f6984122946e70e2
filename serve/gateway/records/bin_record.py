"""The record of a bin as a source holds it, and what it stands for in a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from serve.errors import FieldError
from serve.evidence.record import MAX_PRODUCTS, Product, Record, parse_products, parse_record
from serve.gateway.refusal import Refusal

TEXTS = ("id", "name", "size_unit", "weight_unit")
NUMBERS = ("quantity", "length", "width", "height", "weight")
KEY = "bin_id"
COLUMNS = (KEY, *TEXTS, *NUMBERS)
"""The columns that are read of a CSV or a query; ``quantity`` is the only one that each must have."""
MAX_ROWS = MAX_PRODUCTS + 1
"""Rows to read of a bin: one more than a record can have is enough to refuse it."""


@dataclass(frozen=True)
class BinRecord:
    """A record, and ``fields``: the same as fields of a request, in the words of its source."""

    record: Record
    fields: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """The record for programs and the page: sides in cm, the longest first, weights in kg, null where unknown."""
        products = [_product_json(product) for product in self.record.products]
        return {"quantity": self.record.quantity, "products": products}


def _product_json(product: Product) -> dict[str, object]:
    return {
        "id": product.id,
        "name": product.name,
        "quantity": product.quantity,
        "sides_cm": product.sides_cm and [round(side, 2) for side in product.sides_cm],
        "weight_kg": product.weight_kg and round(product.weight_kg, 4),
    }


def broken_record(bin_id: str, reason: object) -> Refusal:
    """A record that is there but cannot be used."""
    return Refusal(502, "BadRecord", f"the record of bin {bin_id} cannot be used: {reason}; correct it at its source")


def from_json(bin_id: str, content: object) -> BinRecord:
    """A record in the dataset's format. Raises Refusal."""
    try:
        record = parse_record(content)
    except FieldError as error:
        raise broken_record(bin_id, error) from error
    return BinRecord(record, _fields(record, {"record": content}))


def from_rows(bin_id: str, rows: Sequence[Mapping[str, object]]) -> BinRecord:
    """A record from its rows, at least one, each a product: column -> text, or what a database returns for it.

    Rows without any column but ``quantity`` are the quantity of the whole bin, of which there can be one. Raises
    Refusal.
    """
    products = [_product_entry(row) for row in rows]
    try:
        if set(rows[0]) - {KEY} == {"quantity"}:
            if len(rows) > 1:
                raise FieldError("there are several rows with nothing but a quantity; name their products in column id")
            record = parse_record({"EXPECTED_QUANTITY": products[0].get("quantity", "")})
        else:
            record = parse_products(products)
    except FieldError as error:
        raise broken_record(bin_id, error) from error
    return BinRecord(record, _fields(record, {"products": products}))


def _fields(record: Record, content: Mapping[str, object]) -> Mapping[str, object]:
    """An archive that knows nothing of products reads the quantity, so it is always there."""
    return {"expected_quantity": record.quantity, **(content if record.products else {})}


def _product_entry(row: Mapping[str, object]) -> dict[str, object]:
    """A row as an entry of ``products``, without what it leaves empty."""
    texts = {name: str(row[name]).strip() for name in TEXTS if row.get(name) is not None}
    numbers = {name: _number(row[name]) for name in NUMBERS if row.get(name) is not None}
    return {name: value for name, value in {**texts, **numbers}.items() if value != ""}


def _number(value: object) -> object:
    """A cell's number; what is none stays as it is, and is refused with the name of its column."""
    text = value.strip() if isinstance(value, str) else value
    if not isinstance(text, str | Decimal) or text == "":
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number
