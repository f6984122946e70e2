"""The fields beside a photo, as the gateway's routes accept them, with their description for the OpenAPI document."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from serve.errors import FieldError
from serve.evidence import fields
from serve.evidence.record import MAX_PRODUCTS, MAX_QUANTITY
from serve.gateway.records.location import BIN_ID
from serve.gateway.refusal import Refusal

UNIT = "^[A-Za-z]{1,10}$"
STATION_TEXT = "where the photo was taken, for the monitoring; without it, the name of the API key"
PRODUCT_EXAMPLE: JsonDict = {
    "id": "B000C33MI2",
    "name": "oil filter",
    "quantity": 3,
    "length": 9.9,
    "width": 7.4,
    "height": 7.1,
    "size_unit": "cm",
    "weight": 136,
    "weight_unit": "g",
}
RECORD_EXAMPLE: JsonDict = {
    "EXPECTED_QUANTITY": 3,
    "BIN_FCSKU_DATA": {
        "B000C33MI2": {
            "name": "oil filter",
            "quantity": 3,
            "length": {"value": 3.9, "unit": "IN"},
            "width": {"value": 2.9, "unit": "IN"},
            "height": {"value": 2.8, "unit": "IN"},
            "weight": {"value": 0.3, "unit": "pounds"},
        }
    },
}


def _measure(units: str) -> JsonDict:
    with_unit: JsonDict = {
        "type": "object",
        "properties": {"value": {"type": ["number", "null"]}, "unit": {}},
        "description": f"with its unit: {units}",
    }
    return {"anyOf": [{"type": "number"}, with_unit, {"type": "null"}]}


_SIZE, _WEIGHT = _measure("in, cm, mm or m"), _measure("lb, oz, kg or g")
PRODUCT_SCHEMA: JsonDict = {
    "type": "object",
    "required": ["quantity"],
    "properties": {
        "id": {"type": ["string", "null"]},
        "name": {"type": ["string", "null"]},
        "quantity": {"type": "integer", "minimum": 0, "maximum": MAX_QUANTITY, "description": "units"},
        **{side: {**_SIZE, "description": "of one unit"} for side in ("length", "width", "height")},
        "weight": {**_WEIGHT, "description": "of one unit"},
        "size_unit": {"description": "of sides that are plain numbers: in, cm, mm or m"},
        "weight_unit": {"description": "of a weight that is a plain number: lb, oz, kg or g"},
    },
}
RECORD_SCHEMA: JsonDict = {
    "properties": {
        "EXPECTED_QUANTITY": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_QUANTITY},
        "BIN_FCSKU_DATA": {
            "type": ["object", "null"],
            "description": "the products by id",
            "additionalProperties": PRODUCT_SCHEMA,
        },
    },
}


class Strict(BaseModel):
    """A model that forbids unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


def _checked_station(name: str) -> str:
    try:
        return fields.parse_station(name)
    except FieldError as error:
        raise ValueError(str(error)) from error


StationName = Annotated[str, AfterValidator(_checked_station)]


class PhotoFields(Strict):
    """The fields of a photo, with or without a record."""

    attention: bool | Literal[0, 1] | None = Field(
        default=None, description="whether the answer is to show where in the photo the model looked"
    )
    station: StationName | None = Field(
        default=None, min_length=1, max_length=fields.MAX_STATION, description=STATION_TEXT, examples=["dock 3"]
    )


class Fields(PhotoFields):
    """The fields beside a photo: what the bin should hold, and its weight if it was weighed.

    ``record`` and ``products`` are as the client sent them.
    """

    bin_id: str | None = Field(
        default=None, pattern=BIN_ID, description="the bin's id, whose record is looked up in BINWATCH_RECORDS"
    )
    expected_quantity: int | None = Field(default=None, ge=0, le=MAX_QUANTITY, description="the recorded quantity")
    weight: float | None = Field(default=None, gt=0, description="measured weight of the bin's contents")
    expected_weight: float | None = Field(default=None, gt=0, description="recorded weight, in the same unit")
    weight_unit: str | None = Field(
        default=None,
        pattern=UNIT,
        description="of the weight, to compare it with the products' weights: kg, g, lb or oz",
        examples=["kg"],
    )
    record: dict[str, object] | None = Field(
        default=None,
        description="the record with its products, in the dataset's format; it says the quantity, too",
        json_schema_extra=RECORD_SCHEMA,
        examples=[RECORD_EXAMPLE],
    )
    products: list[object] | None = Field(
        default=None,
        max_length=MAX_PRODUCTS,
        description="the record as a list of products, in place of record",
        json_schema_extra={"items": PRODUCT_SCHEMA},
        examples=[[PRODUCT_EXAMPLE]],
    )


def present_fields(model: BaseModel) -> dict[str, object]:
    """The fields beside a photo that have a value."""
    return {name: value for name, value in model if name in Fields.model_fields and value is not None}


def recorded_quantity(content: Mapping[str, object]) -> int:
    """The recorded quantity in ``content``, fields by name, which go together. Raises Refusal."""
    names = (*fields.FIELDS, *fields.RECORDS)
    try:
        quantity = fields.parse_fields({name: content[name] for name in names if name in content}).expected_quantity
    except FieldError as error:
        raise Refusal(error.status, error.kind, str(error)) from error
    if quantity is None:
        message = f"expected_quantity, the recorded quantity, is missing; give a whole number from 0 to {MAX_QUANTITY}"
        raise Refusal(422, "BadField", f"{message}, a record with its products, or a bin_id")
    return quantity
