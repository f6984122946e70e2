"""A record with its products, as a request brings it: what is read of it, and what is refused."""

import base64
import json
from typing import Any

import pytest

from serve.errors import BodyError, FieldError
from serve.evidence.fields import Fields
from serve.evidence.record import MAX_NAME, MAX_NOTES, MAX_PRODUCTS, Product, Record, shorten_notes
from serve.payload import ATTRIBUTES, REPEATED, PhotoInput, PredictionRequest, parse
from tests.records import entry

PHOTO = b"\xff\xd8\xff\xe0 a photo, as far as this module is concerned"
BASE64 = base64.b64encode(PHOTO).decode()
FILTER = {"asin": "B000C33MI2", **entry("FRAM XG7317 ULTRA Spin-On Oil Filter", 2, (4.0, 3.0, 2.5), 0.3)}
RECORD = {"BIN_FCSKU_DATA": {"B000C33MI2": FILTER}, "EXPECTED_QUANTITY": 2}
CUP: dict[str, Any] = {
    "quantity": 3,
    "length": 8,
    "width": 10,
    "height": 8,
    "size_unit": "cm",
    "weight": 250,
    "weight_unit": "g",
}


def of_json(content: object, header: str = "") -> PredictionRequest:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse({"body": text}, {"Content-Type": "application/json", ATTRIBUTES: header})


def with_photo(**fields: object) -> PredictionRequest:
    return of_json({"image": BASE64, **fields})


def fields(request: PredictionRequest) -> Fields:
    (only,) = request.photos
    assert isinstance(only, PhotoInput), only
    return only.fields


def record(request: PredictionRequest) -> Record:
    parsed = fields(request).record
    assert parsed is not None
    return parsed


def refusal(request: PredictionRequest) -> str:
    (only,) = request.photos
    assert type(only) is FieldError
    assert only.status == 422
    assert len(str(only)) < 400
    return str(only)


def test_the_dataset_s_record_is_read() -> None:
    parsed = fields(with_photo(record=RECORD))
    assert parsed.expected_quantity == 2
    (product,) = parsed.record.products if parsed.record else ()
    assert (product.id, product.quantity, product.problems) == ("B000C33MI2", 2, ())
    assert product.sides_cm == pytest.approx((10.16, 7.62, 6.35))
    assert product.weight_kg == pytest.approx(0.136, abs=1e-4)


def test_a_list_of_products_is_read() -> None:
    parsed = fields(with_photo(products=[CUP, {"id": "x", "quantity": 1}]))
    assert parsed.expected_quantity == 4
    assert parsed.record is not None
    cup, unknown = parsed.record.products
    assert (cup.sides_cm, cup.weight_kg) == ((10, 8, 8), 0.25)
    assert unknown == Product(quantity=1, id="x")
    assert not parsed.record.has_sizes


@pytest.mark.parametrize("wrap", ["list", "instances"])
def test_of_a_list_each_photo_has_its_own_record(wrap: str) -> None:
    photos = [
        {"image": BASE64, "record": RECORD},
        {"image": BASE64, "products": [CUP]},
        {"image": BASE64, "record": 3},
        {"image": BASE64},
    ]
    request = of_json(photos if wrap == "list" else {"instances": photos})
    first, second, third, last = request.photos
    assert isinstance(first, PhotoInput)
    assert first.fields.expected_quantity == 2
    assert isinstance(second, PhotoInput)
    assert second.fields.expected_quantity == 3
    assert isinstance(third, FieldError)
    assert last == PhotoInput(PHOTO)


def test_a_form_has_the_record_as_json_text() -> None:
    for name, content in (("record", RECORD), ("products", [FILTER])):
        headers = {name: {"content-type": "application/json"}, "content-type": "multipart/form-data; boundary=x"}
        request = parse({"data": PHOTO, name: json.dumps(content).encode()}, headers)
        assert request.photos[0] == PhotoInput(PHOTO, fields(with_photo(**{name: content})))


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (b"", "record"),
        (b"{", "record"),
        (b"\xff\xfe", "record"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"EXPECTED_QUANTITY": 1, "EXPECTED_QUANTITY": 2}', "'EXPECTED_QUANTITY' appears twice"),
        (b"3", "record is int"),
    ],
)
def test_a_part_that_is_no_record_is_refused(part: bytes, reason: str) -> None:
    assert reason in refusal(parse({"data": PHOTO, "record": part}, {}))


def test_a_part_that_the_form_has_twice_is_refused() -> None:
    assert "'record'" in refusal(parse({"data": PHOTO, "record": b"{}"}, {REPEATED: "record"}))


def test_the_quantity_may_stand_beside_the_record_if_it_agrees() -> None:
    assert fields(with_photo(record=RECORD, expected_quantity=2)).expected_quantity == 2
    assert fields(with_photo(record=RECORD, expected_quantity=None)).expected_quantity == 2
    for request in (
        with_photo(record=RECORD, expected_quantity=3),
        of_json({"image": BASE64, "record": RECORD}, "expected_quantity=3"),
        parse({"data": PHOTO, "record": json.dumps(RECORD).encode(), "expected_quantity": b"3"}, {}),
    ):
        message = refusal(request)
        assert "3" in message
        assert "2" in message


def test_record_and_products_are_one_too_many() -> None:
    assert "record and products" in refusal(with_photo(record=RECORD, products=[CUP]))
    assert record(with_photo(record=RECORD, products=None)).quantity == 2


def test_a_record_may_name_no_products() -> None:
    for content in ({"EXPECTED_QUANTITY": 3}, {"EXPECTED_QUANTITY": 3, "BIN_FCSKU_DATA": {}}):
        parsed = record(with_photo(record=content))
        assert parsed == Record(3)
        assert parsed.notes == ("the record lists no products",)
    assert record(with_photo(record={"EXPECTED_QUANTITY": 0, "BIN_FCSKU_DATA": {}})).notes == ()


def changed(**changes: object) -> dict[str, object]:
    return {"products": [{**CUP, **changes}]}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"record": 3}, "record is int"),
        ({"record": "text"}, "record is str"),
        ({"record": []}, "record is list"),
        ({"record": True}, "record is bool"),
        ({"record": {}}, "neither EXPECTED_QUANTITY nor products"),
        ({"record": {"bin": 3, "content": []}}, "neither EXPECTED_QUANTITY nor products"),
        ({"record": {"EXPECTED_QUANTITY": "many"}}, "EXPECTED_QUANTITY is 'many'"),
        ({"record": {"EXPECTED_QUANTITY": -1}}, "EXPECTED_QUANTITY is -1"),
        ({"record": {"EXPECTED_QUANTITY": 2.5}}, "EXPECTED_QUANTITY is 2.5"),
        ({"record": {"EXPECTED_QUANTITY": True}}, "EXPECTED_QUANTITY is True"),
        ({"record": {"EXPECTED_QUANTITY": [2]}}, "EXPECTED_QUANTITY is list"),
        ({"record": {"EXPECTED_QUANTITY": 10**6}}, "EXPECTED_QUANTITY is 1000000"),
        ({"record": {"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": [FILTER]}}, "BIN_FCSKU_DATA of the record is list"),
        ({"record": {"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": "text"}}, "BIN_FCSKU_DATA of the record is str"),
        ({"record": {"BIN_FCSKU_DATA": {"x": None}}}, "product 1 is NoneType"),
        ({"record": {"BIN_FCSKU_DATA": {"x": {}}}}, "product 'x' has no quantity"),
        ({"record": {**RECORD, "EXPECTED_QUANTITY": 5}}, "is 5, but its products add up to 2"),
        ({"products": {}}, "products is dict"),
        ({"products": RECORD}, "products is dict"),
        ({"products": "text"}, "products is str"),
        ({"products": 3}, "products is int"),
        ({"products": []}, "products is empty"),
        ({"products": [3]}, "product 1 is int"),
        ({"products": [None]}, "product 1 is NoneType"),
        ({"products": [[CUP]]}, "product 1 is list"),
        ({"products": [{}]}, "product 1 has no quantity"),
        ({"products": [CUP] * (MAX_PRODUCTS + 1)}, f"lists {MAX_PRODUCTS + 1} products; at most {MAX_PRODUCTS}"),
        ({"products": [CUP] * 500}, "lists 500 products"),
        ({"products": [{**CUP, "id": "a"}, {**CUP, "id": "a"}]}, "product 'a' twice"),
        ({"products": [{**CUP, "id": "a"}, {**CUP, "asin": "a"}]}, "product 'a' twice"),
        ({"products": [{**CUP, "quantity": 60_000, "id": str(n)} for n in range(2)]}, "all products is 120000"),
        (changed(quantity=-1), "quantity of product 1 is -1"),
        (changed(quantity="3"), "quantity of product 1 is '3'"),
        (changed(quantity=2.5), "quantity of product 1 is 2.5"),
        (changed(quantity=True), "quantity of product 1 is True"),
        (changed(quantity=[3]), "quantity of product 1 is list"),
        (changed(quantity=float("nan")), "quantity of product 1 is nan"),
        (changed(quantity=float("inf")), "quantity of product 1 is inf"),
        (changed(quantity=10**30), "quantity of product 1 is inf"),
        (changed(id=7), "id of a product is 7"),
        (changed(name=["cup"]), "name of a product is list"),
        (changed(id="x" * 5000, quantity=-1), "quantity of product 'xxx"),
        (changed(id="\ud800", quantity=-1), "\\ud800"),
        (changed(length="8"), "length of product 1 is '8'"),
        (changed(length=True), "length of product 1 is True"),
        (changed(length=[8]), "length of product 1 is list"),
        (changed(width=float("nan")), "width of product 1 is nan"),
        (changed(height=float("-inf")), "height of product 1 is -inf"),
        (changed(weight=10**400), "weight of product 1 is inf"),
        (changed(weight={"value": "heavy", "unit": "g"}), "weight of product 1 is 'heavy'"),
        (changed(weight={"value": {"value": 1}, "unit": "g"}), "weight of product 1 is dict"),
        (changed(size_unit=None), "with the unit None; give one of cm"),
        (changed(size_unit="parsec"), "with the unit 'parsec'"),
        (changed(size_unit=3), "with the unit 3"),
        (changed(size_unit={"cm": 1}), "with the unit dict"),
        (changed(weight={"value": 1}, weight_unit=None), "with the unit None; give one of kg"),
        (changed(weight={"value": 1, "unit": "cm"}), "with the unit 'cm'"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(content: dict[str, object], part: str) -> None:
    assert part in refusal(with_photo(**content))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('"products": [{"quantity": 1, "quantity": 2}]', "'quantity' appears twice in products"),
        ('"record": {"BIN_FCSKU_DATA": {"a": {"quantity": 1}, "a": {"quantity": 1}}}', "'a' appears twice in record"),
        ('"record": {"EXPECTED_QUANTITY": 1e400}', "EXPECTED_QUANTITY is inf"),
        ('"products": [{"quantity": 1, "weight": 1e400, "weight_unit": "g"}]', "weight of product 1 is inf"),
        ('"products": [{"quantity": 1, "length": -1e400, "size_unit": "cm"}]', "length of product 1 is -inf"),
        ('"products": [{"quantity": 1, "length": NaN, "size_unit": "cm"}]', "length of product 1 is nan"),
        (f'"products": [{{"quantity": 1{"0" * 5000}}}]', "quantity of product 1 is inf"),
        ('"products": ' + "[" * 400 + "]" * 400, "product 1 is list"),
        ('"products": [{"quantity": ' + "[" * 400 + "]" * 400 + "}]", "quantity of product 1 is list"),
        ('"products": ' + "[" * 100_000, "nested too deeply"),
        ('"record": ' + '{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_that_python_alone_would_not_catch_is_refused(text: str, part: str) -> None:
    assert part in refusal(of_json(f'{{"image": "{BASE64}", {text}}}'.encode()))


def test_a_body_that_is_not_text_is_the_body_s_fault() -> None:
    (only,) = of_json(b'{"image": "", "record": {"EXPECTED_QUANTITY": "\xff"}}').photos
    assert type(only) is BodyError


@pytest.mark.parametrize(
    ("changes", "side", "part"),
    [
        ({"weight": 0}, "weight", "is 0 g"),
        ({"weight": -5}, "weight", "is -5 g"),
        ({"weight": 1e9}, "weight", "is 1e+09 g"),
        ({"length": 0}, "length", "is 0 cm"),
        ({"width": -3}, "width", "is -3 cm"),
        ({"height": 4000}, "height", "is 4000 cm"),
        ({"length": {"value": 1e300, "unit": "in"}}, "length", "is 1e+300 in"),
    ],
)
def test_a_measure_that_cannot_be_counts_as_missing_and_is_named(
    changes: dict[str, object], side: str, part: str
) -> None:
    parsed = record(with_photo(**changed(**changes)))
    (product,) = parsed.products
    assert (product.weight_kg is None) == (side == "weight")
    assert (product.sides_cm is None) == (side != "weight")
    assert parsed.quantity == 3
    assert any(part in note for note in parsed.notes)


def test_products_without_sizes_or_weights_are_no_error() -> None:
    parsed = record(with_photo(products=[{"quantity": 2, "name": "cup"}, {"quantity": 0, "id": "none of it"}]))
    assert [product.quantity for product in parsed.listed] == [2]
    assert parsed.notes == ("the sizes of 'cup' are not known",)


def test_names_are_kept_short_and_notes_few() -> None:
    parsed = record(with_photo(products=[{"quantity": 1, "name": "x" * 10**6, "weight": 0, "weight_unit": "g"}] * 100))
    assert len(parsed.products[0].name) == MAX_NAME
    assert len(parsed.products[0].label) < 50
    notes = shorten_notes(parsed.notes)
    assert len(notes) == MAX_NOTES
    assert "92" in notes[-1]
    assert all(len(note) < 300 for note in notes)


def test_units_are_known_in_any_case() -> None:
    for unit, kilograms in (("KG", 2.0), ("g", 0.002), ("Lb", 0.907), ("pounds", 0.907), ("OZ", 0.0567)):
        (product,) = record(with_photo(**changed(weight=2, weight_unit=f" {unit} "))).products
        assert product.weight_kg == pytest.approx(kilograms, rel=1e-3)


def test_a_weight_is_compared_with_the_record_s_products() -> None:
    parsed = fields(with_photo(record=RECORD, weight=0.3, weight_unit="KG"))
    assert (parsed.weight, parsed.weight_unit, parsed.expected_weight) == (0.3, "kg", None)
    pair = fields(with_photo(record=RECORD, weight=0.3, expected_weight=0.2))
    assert (pair.weight, pair.weight_unit, pair.expected_weight) == (0.3, None, 0.2)
    header = fields(of_json({"image": BASE64, "record": RECORD}, "weight=300,weight_unit=g"))
    assert (header.weight, header.weight_unit) == (300, "g")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"record": RECORD, "weight": 1}, "without weight_unit"),
        ({"record": RECORD, "weight": 1, "weight_unit": "stone"}, "weight_unit is 'stone'"),
        ({"record": RECORD, "weight": 1, "weight_unit": ["g"]}, "weight_unit is list"),
        ({"record": RECORD, "weight": 1, "weight_unit": ""}, "weight_unit is ''"),
        ({"record": RECORD, "weight_unit": "g"}, "weight_unit is there without weight"),
        ({"record": RECORD, "expected_weight": 1}, "expected_weight is there without weight"),
        ({"weight": 1, "weight_unit": "g"}, "weight is there alone"),
        ({"record": RECORD, "weight": 0, "weight_unit": "g"}, "weight is 0"),
        ({"record": RECORD, "weight": "NaN", "weight_unit": "g"}, "weight is 'NaN'"),
    ],
)
def test_a_weight_that_cannot_be_compared_is_refused(content: dict[str, object], part: str) -> None:
    assert part in refusal(with_photo(**content))
