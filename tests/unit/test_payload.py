import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from serve.errors import BodyError, FieldError, MediaTypeError, RequestError, TooLargeError
from serve.evidence.fields import Fields
from serve.links import MAX_BYTES, Link
from serve.payload import ATTRIBUTES, MAX_PHOTOS, REPEATED, PhotoInput, PredictionRequest, media_type, parse

PHOTO = b"\xff\xd8\xff\xe0 a photo, as far as this module is concerned"
BASE64 = base64.b64encode(PHOTO).decode()


def of_json(content: object, header: str = "") -> PredictionRequest:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json", "body": {"content-type": "application/json"}, ATTRIBUTES: header}
    return parse({"body": text}, headers)


def reason(request: PredictionRequest, kind: type[RequestError] = FieldError) -> str:
    (only,) = request.photos
    assert type(only) is kind
    return str(only)


def fields(request: PredictionRequest) -> Fields:
    (only,) = request.photos
    assert isinstance(only, PhotoInput), only
    return only.fields


@pytest.mark.parametrize("kind", ["image/jpeg", "", "application/octet-stream", "video/mp4"])
def test_a_body_of_any_other_type_is_a_photo_s_bytes(kind: str) -> None:
    request = parse({"body": PHOTO}, {"body": {"content-type": kind}, "Content-Type": kind})
    assert request == PredictionRequest((PhotoInput(PHOTO),), False, kind, "", PHOTO)


@pytest.mark.parametrize("kind", ["string/url", "String/URL; charset=utf-8"])
def test_a_text_body_is_a_link(kind: str) -> None:
    request = parse({"body": b"s3://bins/a/b.jpg\n"}, {"content-type": kind})
    assert request.photos == (PhotoInput(Link("bins", "a/b.jpg")),)


def test_json_holds_a_link_or_the_photo_itself() -> None:
    assert of_json({"uri": "s3://bins/1.jpg"}).photos == (PhotoInput(Link("bins", "1.jpg")),)
    assert of_json({"image": BASE64}).photos == (PhotoInput(PHOTO),)
    assert not of_json({"image": BASE64}).listed


@pytest.mark.parametrize("wrap", [lambda photos: photos, lambda photos: {"instances": photos}])
def test_of_a_list_each_photo_succeeds_or_fails_by_itself(wrap: Callable[[list[object]], object]) -> None:
    request = of_json(wrap([{"image": BASE64}, {"image": "!"}, 3, {"uri": "s3://bins/1.jpg", "expected_quantity": 4}]))
    assert request.listed
    assert request.photos[0] == PhotoInput(PHOTO)
    assert isinstance(request.photos[1], FieldError)
    assert isinstance(request.photos[2], FieldError)
    assert request.photos[3] == PhotoInput(Link("bins", "1.jpg"), Fields(4))


def test_a_repeated_name_spoils_its_own_photo_alone() -> None:
    text = f'[{{"image": "{BASE64}"}}, {{"image": "{BASE64}", "image": "x"}}]'.encode()
    first, second = of_json(text).photos
    assert first == PhotoInput(PHOTO)
    assert str(second).startswith("'image' appears twice")


@pytest.mark.parametrize("number", [0, MAX_PHOTOS + 1, 1000])
def test_a_list_has_a_photo_and_not_too_many(number: int) -> None:
    assert f"the body has {number} photos; send a list of 1 to {MAX_PHOTOS}" in reason(of_json([{}] * number))


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"{nope", "Expecting property name"),
        (b"", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'{"image": "\xff"}', "not JSON"),
        (PHOTO, "not JSON"),
    ],
)
def test_a_body_that_is_no_json_is_the_body_s_fault(body: bytes, part: str) -> None:
    assert part in reason(of_json(body), BodyError)
    assert BodyError.status == 400


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({}, "neither uri nor image"),
        ({"uri": None, "image": None}, "neither uri nor image"),
        ({"uri": "s3://bins/1.jpg", "image": BASE64}, "uri and image"),
        ({"uri": 3}, "uri is int, not text"),
        ({"image": [BASE64]}, "image is list, not text"),
        ({"image": "not base64!"}, "is not base64"),
        ({"image": BASE64[:-3]}, "is not base64"),
        ({"image": f"data:image/jpeg;base64,{BASE64}"}, "without line breaks or a data: address"),
        ({"image": "é" * 4}, "is not base64"),
        ({"uri": "\ud800"}, "give s3://bucket/key"),
        ({"uri": "s3://bins/\ud800"}, "give s3://bucket/key"),
        ("s3://bins/1.jpg", "given as str"),
        (3, "given as int"),
        (None, "given as NoneType"),
        ({"instances": {"uri": "s3://bins/1.jpg"}}, "dict as instances"),
        ({"instances": [], "uri": "s3://bins/1.jpg"}, "put every photo into instances"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"image": "a", "image": "b"}', "'image' appears twice"),
    ],
)
def test_what_is_wrong_in_json_is_said(content: object, part: str) -> None:
    assert part in reason(of_json(content))


@pytest.mark.parametrize(
    "quantity", [-1, 100_000, 2.0, 2.5, "2.5", "many", "", True, [3], {"a": 3}, 10**30, float("nan"), float("inf"), "٣"]
)
def test_a_quantity_is_a_whole_number(quantity: object) -> None:
    assert reason(of_json({"image": BASE64, "expected_quantity": quantity})).startswith("expected_quantity is ")


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    body = b'{"image": "%s", "expected_quantity": %s}' % (BASE64.encode(), b"9" * 50_000)
    assert reason(of_json(body)).startswith("expected_quantity is inf")


@pytest.mark.parametrize("weight", [0, -1, "heavy", float("nan"), float("inf"), True, [1], 10**400, "1e999", ""])
@pytest.mark.parametrize("name", ["weight", "expected_weight"])
def test_a_weight_is_a_number_above_0(name: str, weight: object) -> None:
    content = {"image": BASE64, "weight": 1, "expected_weight": 2, name: weight}
    assert reason(of_json(content)).startswith(f"{name} is ")


@pytest.mark.parametrize("name", ["weight", "expected_weight"])
def test_one_weight_without_the_other_says_nothing(name: str) -> None:
    assert "give weight and expected_weight, or neither" in reason(of_json({"image": BASE64, name: 1.5}))


@pytest.mark.parametrize(
    ("value", "shown"), [(1, True), ("1", True), (True, True), ("on", True), (0, False), ("0", False)]
)
def test_attention_is_a_switch(value: object, shown: bool) -> None:
    assert fields(of_json({"image": BASE64, "attention": value})).attention is shown
    assert fields(parse({"data": PHOTO, "attention": str(value).encode()}, {})).attention is shown
    assert fields(of_json({"image": BASE64}, f"attention={value}")).attention is shown
    assert not fields(of_json({"image": BASE64})).attention


@pytest.mark.parametrize("value", [2, "", "yes please", 0.5, [], {}, "1,0"])
def test_an_attention_that_is_no_switch_is_refused(value: object) -> None:
    assert "give 1 or 0" in reason(of_json({"image": BASE64, "attention": value}))


def test_a_station_is_a_text_from_json_a_form_or_percent_encoded_from_the_header() -> None:
    name = "Tor 7, außen = links"
    assert fields(of_json({"image": BASE64, "station": f" {name} "})).station == name
    assert fields(parse({"data": PHOTO, "station": name.encode()}, {})).station == name
    assert fields(of_json({"image": BASE64}, f"probe=0,station={quote(name)}")).station == name
    assert fields(of_json({"image": BASE64, "station": "8"}, "station=7")).station == "8"
    assert fields(of_json({"image": BASE64}, "station=50%")).station == "50%"
    assert fields(of_json({"image": BASE64})).station == ""


@pytest.mark.parametrize("value", ["", "  ", "x" * 65, "a\nb", "\u202eright to left", "\ud800", 7, ["7"], {}])
def test_a_station_that_is_no_printable_text_is_refused(value: object) -> None:
    assert "1 to 64 printable characters" in reason(of_json({"image": BASE64, "station": value}))


def test_fields_come_from_json_before_the_form_before_the_header() -> None:
    header = "colour=7, expected_quantity=1, weight=1.5 ,expected_weight=2"
    assert fields(of_json({"image": BASE64}, header)) == Fields(1, 1.5, 2.0)
    assert fields(of_json({"image": BASE64, "expected_quantity": 3}, header)) == Fields(3, 1.5, 2.0)
    assert fields(of_json({"image": BASE64, "expected_quantity": None}, header)) == Fields(1, 1.5, 2.0)
    form = parse({"data": PHOTO, "expected_quantity": b"2"}, {ATTRIBUTES.lower(): header})
    assert fields(form) == Fields(2, 1.5, 2.0)


def test_the_header_speaks_for_every_photo_of_a_list() -> None:
    request = of_json([{"image": BASE64}, {"image": BASE64, "expected_quantity": 5}], "expected_quantity=1")
    assert [photo.fields.expected_quantity for photo in request.photos if isinstance(photo, PhotoInput)] == [1, 5]
    first, second = of_json(
        [{"image": BASE64}, {"image": BASE64, "expected_quantity": 5}], "expected_quantity=x"
    ).photos
    assert isinstance(first, FieldError)
    assert isinstance(second, PhotoInput)


@pytest.mark.parametrize("kind", ["text/plain", "Text/CSV; charset=utf-8", "application/x-www-form-urlencoded"])
def test_a_type_that_forms_of_web_pages_have_is_refused(kind: str) -> None:
    request = parse({"body": PHOTO}, {"Content-Type": kind})
    assert "send image/jpeg" in reason(request, MediaTypeError)


def test_a_field_that_the_form_or_the_query_has_twice_is_refused() -> None:
    request = parse({"data": PHOTO, "expected_quantity": b"2"}, {REPEATED.lower(): "expected_quantity"})
    assert "'expected_quantity' more than once" in reason(request)
    assert parse({"data": PHOTO}, {REPEATED: ""}).photos == (PhotoInput(PHOTO),)


def test_the_header_says_everything_once() -> None:
    request = parse({"body": PHOTO}, {ATTRIBUTES: "expected_quantity=1,expected_quantity=2"})
    assert "more than once" in reason(request)
    assert request.body == PHOTO


@pytest.mark.parametrize("name", ["body", "data", "image"])
def test_a_form_has_the_photo_as_a_part(name: str) -> None:
    headers = {name: {"content-type": "image/png"}, "content-type": "multipart/form-data; boundary=x"}
    request = parse({name: PHOTO, "expected_quantity": b"2", "other": b"?"}, headers)
    assert request.photos == (PhotoInput(PHOTO, Fields(2)),)
    assert request.content_type == "image/png"


def test_a_form_has_a_link_as_a_part() -> None:
    assert parse({"uri": b"s3://bins/1.jpg"}, {}).photos == (PhotoInput(Link("bins", "1.jpg")),)
    assert "data and uri" in reason(parse({"uri": b"s3://bins/1.jpg", "data": PHOTO}, {}))


def test_a_request_without_a_photo_is_told_how_to_send_one() -> None:
    assert "send its bytes as the body" in reason(parse({}, {}))
    assert "send its bytes as the body" in reason(parse({"expected_quantity": b"3"}, {}))
    assert parse({"body": b"", "expected_quantity": b"3"}, {}).photos == (PhotoInput(b"", Fields(3)),)


def test_a_photo_larger_than_the_limit_is_too_large() -> None:
    assert "send a smaller one" in reason(parse({"body": bytes(MAX_BYTES + 1)}, {}), TooLargeError)
    assert parse({"body": bytes(MAX_BYTES)}, {}).photos == (PhotoInput(bytes(MAX_BYTES)),)
    large = base64.b64encode(bytes(MAX_BYTES + 1)).decode()
    assert "send a smaller one" in reason(of_json({"image": large}), TooLargeError)


def test_a_part_that_bears_a_header_s_name_is_no_header() -> None:
    headers = {ATTRIBUTES: {"content-type": "text/plain"}, "content-type": {"content-type": "x"}}
    assert parse({"data": PHOTO, ATTRIBUTES: b"expected_quantity=3"}, headers).photos == (PhotoInput(PHOTO),)


def test_a_photo_is_known_by_its_first_bytes() -> None:
    assert media_type(PHOTO) == "image/jpeg"
    assert media_type(b"\x89PNG\r\n\x1a\n...") == "image/png"
    assert media_type(b"GIF89a") == media_type(b"") == ""
