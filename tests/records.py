"""Records for tests, in both forms that a request can have."""

from typing import Any

RECORD: dict[str, Any] = {
    "BIN_FCSKU_DATA": {
        "B000C33MI2": {
            "asin": "B000C33MI2",
            "name": "oil filter",
            "quantity": 2,
            "length": {"unit": "IN", "value": 3.9},
            "width": {"unit": "IN", "value": 2.9},
            "height": {"unit": "IN", "value": 2.8},
            "weight": {"unit": "pounds", "value": 0.3},
        },
        "B0050Z27KG": {
            "asin": "B0050Z27KG",
            "name": "kettle",
            "quantity": 1,
            "length": {"unit": "IN", "value": 11.3},
            "width": {"unit": "IN", "value": 7.7},
            "height": {"unit": "IN", "value": 7.9},
            "weight": {"unit": "pounds", "value": 3.5},
        },
    },
    "EXPECTED_QUANTITY": 3,
}
"""Three objects of 4.1 lb."""
PRODUCTS: list[dict[str, Any]] = [
    {
        "id": key,
        "name": entry["name"],
        "quantity": entry["quantity"],
        **{side: entry[side]["value"] for side in ("length", "width", "height")},
        "size_unit": "in",
        "weight": entry["weight"]["value"],
        "weight_unit": "lb",
    }
    for key, entry in RECORD["BIN_FCSKU_DATA"].items()
]
"""The same as a list."""
