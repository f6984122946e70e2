"""Records for tests, in both forms that a request can have."""

from typing import Any


def entry(name: str, quantity: int, sides_in: tuple[float, float, float], weight_lb: float) -> dict[str, Any]:
    """A product in the dataset's format, without its id."""
    sides = zip(("length", "width", "height"), sides_in, strict=True)
    measures = {side: {"unit": "IN", "value": value} for side, value in sides}
    return {"name": name, "quantity": quantity, **measures, "weight": {"unit": "pounds", "value": weight_lb}}


RECORD: dict[str, Any] = {
    "BIN_FCSKU_DATA": {
        "B000C33MI2": {"asin": "B000C33MI2", **entry("oil filter", 2, (3.9, 2.9, 2.8), 0.3)},
        "B0050Z27KG": {"asin": "B0050Z27KG", **entry("kettle", 1, (11.3, 7.7, 7.9), 3.5)},
    },
    "EXPECTED_QUANTITY": 3,
}
"""Three objects of 4.1 lb."""
PRODUCTS: list[dict[str, Any]] = [
    {
        "id": key,
        "name": product["name"],
        "quantity": product["quantity"],
        **{side: product[side]["value"] for side in ("length", "width", "height")},
        "size_unit": "in",
        "weight": product["weight"]["value"],
        "weight_unit": "lb",
    }
    for key, product in RECORD["BIN_FCSKU_DATA"].items()
]
"""The same as a list."""
