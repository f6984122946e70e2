"""The fields beside a photo: a recorded quantity, a record with its products, weights. Checked and converted.

``serve/payload.py`` finds them in a request; whatever does not go together raises FieldError.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from serve import verdict
from serve.environment import SWITCH
from serve.errors import FieldError
from serve.evidence.record import KG, Record, parse_products, parse_record, shown

FIELDS = ("expected_quantity", "weight", "expected_weight", "weight_unit", "attention", "station")
"""Fields that are one number or word each: a header or a query can hold them."""
MAX_STATION = 64
RECORDS = {"record": parse_record, "products": parse_products}
"""The two forms of a record, which are JSON, and what reads them."""


@dataclass(frozen=True)
class Fields:
    """The record beside a photo.

    ``expected_quantity``: 0-99999, that of the ``record`` where there is one; ``weight`` and ``expected_weight``:
    measured and recorded, above 0, in the same unit; ``weight_unit``: a key of KG, never missing where the weight is to
    be compared with the products of the record; ``attention``: whether the answer shows where the model looked;
    ``station``: where the photo was taken, in the client's words, empty if it does not say.
    """

    expected_quantity: int | None = None
    weight: float | None = None
    expected_weight: float | None = None
    weight_unit: str | None = None
    record: Record | None = None
    attention: bool = False
    station: str = ""


def parse_fields(values: Mapping[str, object]) -> Fields:
    """Check and convert fields. Raises FieldError, also for fields that do not go together."""
    record = _parse_record(values)
    unit = _parse_unit(values["weight_unit"]) if "weight_unit" in values else None
    weights = {name: _parse_weight(name, values[name]) for name in ("weight", "expected_weight") if name in values}
    _check_weights(weights, unit, record)
    return Fields(
        expected_quantity=_agreed_quantity(values.get("expected_quantity"), record),
        weight=weights.get("weight"),
        expected_weight=weights.get("expected_weight"),
        weight_unit=unit,
        record=record,
        attention=_parse_switch("attention", values["attention"]) if "attention" in values else False,
        station=parse_station(values["station"]) if "station" in values else "",
    )


def parse_station(value: object) -> str:
    """The name of a station without spaces around it: 1 to MAX_STATION printable characters. Raises FieldError."""
    name = value.strip() if isinstance(value, str) else ""
    if not 0 < len(name) <= MAX_STATION or not name.isprintable():
        raise FieldError(f"station is {shown(value)}; give a text of 1 to {MAX_STATION} printable characters")
    return name


def _parse_record(values: Mapping[str, object]) -> Record | None:
    names = [name for name in RECORDS if values.get(name) is not None]
    if len(names) > 1:
        raise FieldError(f"there are {' and '.join(names)}; give one of them")
    return RECORDS[names[0]](values[names[0]]) if names else None


def _agreed_quantity(value: object, record: Record | None) -> int | None:
    """The recorded quantity, which a record says, too."""
    quantity = None if value is None else _parse_quantity(value)
    if record is None or quantity == record.quantity:
        return quantity
    if quantity is not None:
        raise FieldError(
            f"expected_quantity is {quantity}, but the record adds up to {record.quantity}; "
            "give the one that is right, or the record alone"
        )
    return record.quantity


def _check_weights(weights: Mapping[str, float], unit: str | None, record: Record | None) -> None:
    """Raises FieldError for weights that cannot be compared with anything."""
    pair = "give weight and expected_weight, or neither"
    if "weight" not in weights and (weights or unit):
        raise FieldError(f"{next(iter(weights), 'weight_unit')} is there without weight, the measured one; {pair}")
    if "weight" in weights and "expected_weight" not in weights:
        if record is None:
            raise FieldError(f"weight is there alone; {pair}, or the record with its products")
        if unit is None:
            raise FieldError(f"weight is {weights['weight']:g} without weight_unit; give one of {', '.join(KG)}")


def _parse_quantity(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise FieldError(f"expected_quantity is {shown(value)}; give a whole number from 0 to 99999")
    return verdict.parse_quantity(str(value))


def _parse_weight(name: str, value: object) -> float:
    weight = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            weight = float(value)
    if not 0 < weight < math.inf:
        raise FieldError(f"{name} is {shown(value)}; give a number above 0")
    return weight


def _parse_switch(name: str, value: object) -> bool:
    switch = SWITCH.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if switch is None:
        raise FieldError(f"{name} is {shown(value)}; give 1 or 0")
    return switch


def _parse_unit(value: object) -> str:
    unit = value.strip().lower() if isinstance(value, str) else ""
    if unit not in KG:
        raise FieldError(f"weight_unit is {shown(value)}; give one of {', '.join(KG)}")
    return unit
