"""Every format of a request, every status and the capture of each, with a real TorchServe and a real S3 server."""

import atexit
import base64
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from serve import hour_files, links
from serve.archives.archive import golden_photos, unpacked
from serve.capture_record import Record
from serve.counter import Answer
from serve.gateway.health import gradient_png
from serve.handler import BinCounterHandler
from serve.links import MAX_BYTES
from serve.local.servers import free_port, gateway_server, s3_server
from tests.integration.serving import Deployed, deployed
from tests.integration.strangers import FORM, PATH, pester, raw, request
from tests.integration.test_fuzz_handler import context, send
from tests.records import PRODUCTS, RECORD
from tests.unit.test_capture import MOMENT, lines, until
from trainer.training.run import Trained

HEADER = "X-Amzn-SageMaker-Custom-Attributes"


@pytest.fixture(scope="module")
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> Iterator[str]:
    """A store with the buckets ``bins``, which links may name, and ``private``."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        client = links.s3_client(url, 20, 1)
        for bucket in ("bins", "private", "captured"):
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="a b/é.jpg", Body=photo)
        client.put_object(Bucket="bins", Key="text.jpg", Body=b"no photo")
        client.put_object(Bucket="bins", Key="large.jpg", Body=bytes(MAX_BYTES + 1))
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, trained: Trained, s3: str) -> Iterator[Deployed]:
    state = tmp_path_factory.mktemp("requests")
    settings = {
        "BINWATCH_S3_BUCKETS": "bins, others",
        "BINWATCH_S3_ENDPOINT": s3,
        "BINWATCH_CAPTURE": str(state / "capture"),
    }
    with deployed(state, trained.archive, settings) as running:
        yield running
    assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Deployed) -> Iterator[str]:
    """The address of TorchServe's route at the gateway."""
    with gateway_server(tmp_path_factory.mktemp("gateway"), server.address) as url:
        yield f"{url}/predictions/bin-counter"


def ask(server: Deployed, content: object, **headers: str) -> requests.Response:
    return requests.post(server.url, json=content, headers=headers, timeout=60)


def same(answer: Answer) -> Answer:
    """An answer without what differs in every response."""
    return {name: value for name, value in answer.items() if name not in ("event_id", "status")}


def encoded(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def every_form(photo: bytes) -> list[dict[str, Any]]:
    """One photo in every form that a request can have."""
    link = {"Content-Type": "string/url"}
    return [
        {"data": photo, "headers": {"Content-Type": "image/jpeg"}},
        {"json": {"image": encoded(photo)}},
        {"data": json.dumps({"image": encoded(photo)}), "headers": {"Content-Type": "Application/JSON; charset=utf-8"}},
        {"json": {"uri": "s3://bins/a b/é.jpg"}},
        {"data": "s3://bins/a b/é.jpg".encode(), "headers": link},
        {"data": b"https://bins.s3.amazonaws.com/a%20b/%C3%A9.jpg", "headers": link},
        {"data": b"https://bins.s3.us-east-1.amazonaws.com/a%20b/%C3%A9.jpg", "headers": link},
        {"data": b"https://s3.amazonaws.com/bins/a%20b/%C3%A9.jpg", "headers": link},
        {"data": b"https://s3.us-west-2.amazonaws.com/bins/a%20b/%C3%A9.jpg", "headers": link},
        {"files": {"data": ("a.jpg", photo, "image/jpeg")}},
        {"files": {"uri": (None, "s3://bins/a b/é.jpg")}},
    ]


@pytest.mark.parametrize("through_gateway", [False, True])
def test_every_form_of_a_request_gets_the_same_answer(
    server: Deployed, gateway: str, photo: bytes, through_gateway: bool
) -> None:
    expected = same(requests.post(server.url, data=photo, timeout=60).json())
    url = gateway if through_gateway else server.url
    for form in every_form(photo):
        response = requests.post(url, timeout=60, **form)
        assert response.status_code == 200, response.text
        assert same(response.json()) == expected
    listed = requests.post(
        url, json={"instances": [{"image": encoded(photo)}, {"uri": "s3://bins/a b/é.jpg"}]}, timeout=60
    )
    assert [same(answer) for answer in listed.json()] == [expected, expected]


def test_the_gateway_refuses_what_torchserve_fails_at_and_shows_nobody_the_photo(gateway: str, photo: bytes) -> None:
    as_form = {"Content-Type": FORM.decode()}
    assert requests.post(gateway, data=photo, headers=as_form, timeout=60).status_code == 200  # curl --data-binary
    bodies: list[tuple[dict[str, Any], int]] = [
        ({"data": b"%zz" + photo, "headers": as_form}, 415),
        ({"data": photo, "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": photo, "headers": {"Origin": "http://evil.example"}}, 403),
        ({"data": photo, "headers": {HEADER: "expected_quantity=x"}}, 422),
        ({"data": photo, "headers": {HEADER: "é"}}, 422),
        ({"files": [("data", photo), ("data", photo)]}, 422),
        ({"data": bytes(MAX_BYTES + 1)}, 413),
        ({"data": b"no photo"}, 400),
    ]
    for body, status in bodies:
        response = requests.post(gateway, timeout=60, **body)
        assert (response.status_code, response.json()["code"]) == (status, status)
        assert len(response.content) < 1000
    tally = pester(gateway, photo)
    print(tally)
    assert tally["form", "200"] == 40
    assert tally["OPTIONS *", "404"] + tally["OPTIONS *", "400"] == 57
    assert not any(status.startswith("5") for _, status in tally)


def test_a_header_that_counts_is_sent_once(gateway: str, photo: bytes) -> None:
    for value in (b"expected_quantity=2", b"expected_quantity=3"):
        head = request(b"POST " + PATH, photo, **{HEADER: value})
        twice = head.replace(b"\r\n", b"\r\n" + HEADER.encode() + b": expected_quantity=2\r\n", 1)
        assert raw(gateway, twice)[9:12] == b"422"
        assert raw(gateway, head)[9:12] == b"200"


@pytest.mark.parametrize(
    ("path", "how", "passed"),
    [
        ("/predictions/bin-counter", "json", True),
        ("/predictions/bin-counter", "header", True),
        ("/predictions/bin-counter", "form", True),
        ("/predictions/bin-counter", "query", False),  # TorchServe drops it there
        ("/invocations?model_name=bin-counter", "query", True),
        ("/models/bin-counter/invoke", "query", True),
    ],
)
def test_the_recorded_quantity_comes_in_every_way_that_torchserve_passes_on(
    server: Deployed, photo: bytes, path: str, how: str, passed: bool
) -> None:
    url = server.address + path
    form = {
        "json": {"json": {"image": encoded(photo), "expected_quantity": 3}},
        "header": {"data": photo, "headers": {HEADER.lower(): "expected_quantity=3"}},
        "form": {"files": {"data": photo}, "data": {"expected_quantity": "3"}},
        "query": {"data": photo, "params": {"expected_quantity": "3"}},
    }[how]
    answer = requests.post(url, timeout=60, **form).json()  # type: ignore[arg-type]
    assert answer.get("expected_quantity") == (3 if passed else None)
    assert ("verdict" in answer) == passed


def test_a_weight_is_weighed(server: Deployed, photo: bytes) -> None:
    weights = {"image": encoded(photo), "weight": 3.0, "expected_weight": 1.0}
    alone = ask(server, weights).json()
    assert (alone["weight"]["verdict"], "verdict" in alone) == ("mismatch", False)
    joined = ask(server, {**weights, "expected_quantity": 3}).json()
    assert joined["verdict"] == "mismatch"
    assert joined["reason"].endswith(joined["weight"]["reason"])
    assert "weight is there alone" in ask(server, {"image": encoded(photo), "weight": 3.0}).json()["message"]


def forms_with_record(photo: bytes) -> list[dict[str, Any]]:
    """One photo with its record, in every form that a request can have."""
    text, products = json.dumps(RECORD), json.dumps(PRODUCTS)
    return [
        {"json": {"image": encoded(photo), "record": RECORD}},
        {"json": {"image": encoded(photo), "products": PRODUCTS, "expected_quantity": 3}},
        {"json": {"uri": "s3://bins/a b/é.jpg", "record": RECORD}, "headers": {HEADER: "expected_quantity=3"}},
        {"files": {"data": photo}, "data": {"record": text}},
        {"files": {"data": photo, "record": ("record.json", text, "application/json")}},
        {"files": {"data": photo}, "data": {"products": products, "expected_quantity": "3"}},
    ]


@pytest.mark.parametrize("through_gateway", [False, True])
def test_a_record_comes_in_every_form(server: Deployed, gateway: str, photo: bytes, through_gateway: bool) -> None:
    url = gateway if through_gateway else server.url
    answers = [requests.post(url, timeout=60, **form).json() for form in forms_with_record(photo)]
    first = answers[0]
    assert (first["expected_quantity"], first["evidence"].split("+")[0]) == (3, "photo")
    assert "notes" not in first
    assert all(same(answer) == same(first) for answer in answers), answers
    photos = [form["json"] for form in forms_with_record(photo) if "json" in form]
    for content in (photos, {"instances": photos}):
        assert [same(answer) for answer in requests.post(url, json=content, timeout=60).json()] == [same(first)] * 3


def test_a_record_that_cannot_be_used_costs_its_own_photo_alone(server: Deployed, photo: bytes) -> None:
    image = encoded(photo)
    without_size = {"quantity": 2, "name": "cup", "weight": 0, "weight_unit": "g"}
    response = ask(
        server,
        [
            {"image": image, "record": RECORD, "expected_quantity": 2},
            {"image": image, "products": [{"quantity": 1}] * 500},
            {"image": image, "record": {"content": []}},
            {"image": image, "record": RECORD, "products": PRODUCTS},
            {"image": image, "products": [without_size]},
            {"image": image, "record": RECORD},
        ],
    )
    answers = response.json()
    assert [answer["status"] for answer in answers] == [422, 422, 422, 422, 200, 200]
    assert "is 2, but the record adds up to 3" in answers[0]["message"]
    assert (answers[4]["evidence"], answers[4]["expected_quantity"]) == ("photo", 2)
    assert "'cup'" in answers[4]["notes"][-1]


def test_a_weight_is_compared_with_the_record_s_products(server: Deployed, photo: bytes) -> None:
    content = {"image": encoded(photo), "record": RECORD, "weight_unit": "lb"}
    right, light = (ask(server, {**content, "weight": weight}).json() for weight in (4.1, 0.6))
    assert right["weight"]["expected_weight"] == pytest.approx(4.1)
    assert light["weight"]["verdict"] == light["verdict"] == "mismatch"
    assert light["evidence"].endswith("+weight")
    assert "one 'kettle' fewer" in light["reason"]
    assert "weight_unit" in ask(server, {"image": encoded(photo), "record": RECORD, "weight": 4}).json()["message"]


STATUSES = [
    ({"uri": "s3://bins/a b/é.jpg"}, 200, None),
    ({"uri": "s3://bins/none.jpg"}, 404, "NoSuchPhoto"),
    ({"uri": "s3://others/a.jpg"}, 404, "NoSuchPhoto"),
    ({"uri": "s3://private/a b/é.jpg"}, 403, "BucketNotAllowed"),
    ({"uri": "s3://bins/text.jpg"}, 400, "BadPhoto"),
    ({"uri": "s3://bins/large.jpg"}, 413, "TooLarge"),
    ({"uri": "s3://bins/../private/a b/é.jpg"}, 422, "BadField"),
    ({"image": encoded(b"no photo")}, 400, "BadPhoto"),
    ({"image": ""}, 400, "BadPhoto"),
    ({"image": "%"}, 422, "BadField"),
    ({"uri": "s3://bins/a b/é.jpg", "expected_quantity": "x"}, 422, "BadField"),
    ({}, 422, "BadField"),
]


def test_each_photo_of_a_list_has_the_status_that_it_has_alone(server: Deployed) -> None:
    response = ask(server, [content for content, _, _ in STATUSES])
    assert response.status_code == 200
    answers = response.json()
    assert [answer["status"] for answer in answers] == [status for _, status, _ in STATUSES]
    for (content, status, kind), listed in zip(STATUSES, answers, strict=True):
        alone = ask(server, content)
        assert (alone.status_code, alone.json().get("type")) == (status, kind)
        assert alone.headers["Content-Type"] == "application/json"
        assert same(alone.json()) == same(listed)
        assert listed.get("code", 200) == status
    assert "private" in answers[3]["message"]
    assert "others" not in answers[3]["message"]  # who asks for one bucket is not told the rest


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{nope", 400, "BadBody"),
        (b"[" * 100_000, 422, "BadField"),
        (json.dumps([{}] * 33).encode(), 422, "BadField"),
        (b"[]", 422, "BadField"),
    ],
)
def test_a_json_body_that_is_unusable_as_a_whole(server: Deployed, body: bytes, status: int, kind: str) -> None:
    response = requests.post(server.url, data=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert (response.status_code, response.json()["type"]) == (status, kind)


def test_no_link_makes_the_server_connect_anywhere_but_to_the_store(server: Deployed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0.5)
        port = bait.getsockname()[1]
        for link in (
            f"http://127.0.0.1:{port}/a.jpg",
            f"https://127.0.0.1:{port}/a.jpg",
            f"https://bins.s3.amazonaws.com@127.0.0.1:{port}/a.jpg",
            f"https://bins.s3.amazonaws.com:{port}/a.jpg",
            f"s3://127.0.0.1:{port}/a.jpg",
        ):
            assert ask(server, {"uri": link}).status_code == 422
        with pytest.raises(TimeoutError):
            bait.accept()


FROM_PAGES = [
    ({"Origin": "http://evil.example"}, 403, "WrongOrigin"),
    ({"Origin": "null"}, 403, "WrongOrigin"),
    ({"Origin": "http://127.0.0.1:8080"}, 403, "WrongOrigin"),  # there is no page here
    ({"origin": "http://rebound.example", "Host": "rebound.example"}, 403, "WrongOrigin"),
    ({"Sec-Fetch-Site": "cross-site"}, 403, "WrongOrigin"),
    ({"Sec-Fetch-Site": "same-origin"}, 403, "WrongOrigin"),
    ({"Host": "rebound.example"}, 421, "WrongHost"),
    ({"Host": "127.0.0.1.evil.example:8080"}, 421, "WrongHost"),
    ({"Content-Type": "text/plain"}, 415, "UnsupportedMediaType"),
    ({"Content-Type": "Text/HTML; charset=utf-8"}, 415, "UnsupportedMediaType"),
    ({"Sec-Fetch-Site": "none"}, 200, None),
    ({"Host": "localhost"}, 200, None),
    ({"Host": "serve:8080"}, 200, None),
    ({"Host": "serve.internal:8080"}, 200, None),
    ({"Host": "[::1]:8080"}, 200, None),
    ({"Content-Type": "video/mp4"}, 200, None),
]


def test_what_web_pages_can_send_is_refused_and_not_captured(server: Deployed, photo: bytes) -> None:
    for number, (headers, status, kind) in enumerate(FROM_PAGES):
        sent = {**headers, HEADER: f"page={number}"}
        response = requests.post(server.url, data=photo, headers=sent, timeout=60)
        assert (response.status_code, response.json().get("type")) == (status, kind), headers
    admitted = {f"page={number}" for number, (_, status, _) in enumerate(FROM_PAGES) if status == 200}
    until(lambda: admitted <= captured_attributes(server))  # the last ones are admitted
    assert {text for text in captured_attributes(server) if text.startswith("page=")} == admitted


def captured_attributes(server: Deployed) -> set[str]:
    return {text for line in records(server).values() for text in line["eventMetadata"]["customAttributes"]}


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/predictions/bin-counter", [("expected_quantity", "2"), ("expected_quantity", "3")]),
        ("/predictions/bin-counter", [("expected_quantity", "2"), ("expected_quantity", "2")]),
        ("/predictions/bin-counter", [("other", "2"), ("other", "3")]),
        ("/models/bin-counter/invoke?expected_quantity=2", [("expected_quantity", "3")]),
        ("/models/bin-counter/invoke?expected_quantity=2&expected_quantity=3", []),
    ],
)
def test_a_field_that_is_sent_twice_is_refused(
    server: Deployed, photo: bytes, path: str, form: list[tuple[str, str]]
) -> None:
    parts: list[Any] = [("data", ("a.jpg", photo)), *((name, (None, value)) for name, value in form)]
    response = requests.post(server.address + path, files=parts, timeout=60)
    assert (response.status_code, response.json()["type"]) == (422, "BadField")
    assert "more than once" in response.json()["message"]


def test_two_photos_in_a_form_are_refused(server: Deployed, photo: bytes) -> None:
    response = requests.post(server.url, files=[("data", photo), ("data", photo)], timeout=60)
    assert response.status_code == 422
    assert "'data' more than once" in response.json()["message"]


def records(server: Deployed) -> dict[str, Record]:
    return {line["eventMetadata"]["eventId"]: line for line in lines(server.state / "capture")}


def test_every_answer_is_in_the_record_with_what_was_asked(server: Deployed, trained: Trained, photo: bytes) -> None:
    before = len(records(server))
    golden = golden_photos(trained.archive)[0][0]
    probed = requests.post(server.url, data=golden, headers={HEADER: "expected_quantity=3, probe=1"}, timeout=60)
    checked = requests.post(server.url, data=gradient_png(), headers={HEADER: "probe=1"}, timeout=60)
    pretended = requests.post(server.url, data=photo, headers={HEADER: "probe=1"}, timeout=60)
    response = requests.post(server.url, data=photo, headers={HEADER: "expected_quantity=3"}, timeout=60)
    listed = ask(server, [{"uri": "s3://bins/a b/é.jpg", "station": "Tor 7, links"}, {"image": "%"}]).json()
    until(lambda: len(records(server)) >= before + 4)
    captured = records(server)[response.json()["event_id"]]
    assert json.loads(captured["captureData"]["endpointOutput"]["data"]) == response.json()
    assert captured["captureData"]["endpointInput"]["observedContentType"] == "image/jpeg"
    assert base64.b64decode(captured["captureData"]["endpointInput"]["data"]) == photo
    assert captured["eventMetadata"]["customAttributes"] == ["expected_quantity=3"]
    measurements = captured["eventMetadata"]["binwatch"]
    assert (measurements["status"], measurements["model_version"]) == (200, "1")
    assert 0 < measurements["latency_ms"] < 10_000
    assert 0 < measurements["brightness"] < 255
    assert measurements["sharpness"] > 0
    assert probed.json()["expected_quantity"] == 3
    assert probed.json()["event_id"] not in records(server)  # asked before the others, which are there
    assert checked.json()["event_id"] not in records(server)
    claim = records(server)[pretended.json()["event_id"]]  # anybody can claim to be a health check
    assert claim["eventMetadata"]["customAttributes"] == ["probe=1"]
    assert records(server)[listed[0]["event_id"]]["eventMetadata"]["binwatch"]["station"] == "Tor 7, links"
    assert "station" not in measurements
    linked = records(server)[listed[0]["event_id"]]["captureData"]["endpointInput"]
    assert json.loads(linked["data"]) == {"uri": "s3://bins/a b/é.jpg"}
    assert [line["eventMetadata"]["binwatch"]["status"] for line in records(server).values()].count(422) >= 1


def test_a_worker_that_is_stopped_writes_its_record_before_it_lets_go_of_torchserve(
    trained: Trained, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_CAPTURE", str(tmp_path))
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "true")  # the handler changes it: put back at the end
    before, handler = signal.getsignal(signal.SIGTERM), BinCounterHandler()
    with unpacked(trained.archive) as folder:
        handler.initialize(context(folder))
        assert handler.capture
        try:
            sent = send(handler, folder, [("image/jpeg", photo)] * 8)
            with pytest.raises(SystemExit):
                os.kill(os.getpid(), signal.SIGTERM)
            written = {line["eventMetadata"]["eventId"] for line in lines(tmp_path)}
        finally:
            signal.signal(signal.SIGTERM, before)
            atexit.unregister(handler.capture.close)
    assert {answer["event_id"] for _, answer in sent} == written


def _answers(url: str, photo: bytes) -> bool:
    """Whether the server counts. TorchServe may lose a request that it takes on in the moment when its worker ends."""
    with suppress(requests.exceptions.ReadTimeout):
        return requests.post(url, data=photo, timeout=10).ok
    return False


def test_a_worker_that_is_killed_leaves_whole_lines_and_a_stopped_one_all_of_them(
    server: Deployed, photo: bytes
) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        answers = [requests.post(server.url, data=photo, timeout=60).json() for _ in range(20)]
        (worker,) = server.workers()
        os.kill(worker, signum)
        until(lambda worker=worker: worker not in server.workers())  # type: ignore[misc]
        until(lambda: _answers(server.url, photo), 90)
        missing = {answer["event_id"] for answer in answers} - records(server).keys()
        print(f"{signum.name}: {len(missing)} of the 20 answers just before are not in the record")
        assert signum == signal.SIGKILL or not missing
        for path in (server.state / "capture").rglob("*.jsonl"):
            assert path.read_bytes().endswith(b"\n")


def test_what_is_captured_for_s3_comes_there_in_files_and_waits_while_it_cannot(s3: str, tmp_path: Path) -> None:
    client = links.s3_client(s3, 20, 1)
    down = hour_files.Spool(tmp_path, "s3://captured/some/prefix", f"http://127.0.0.1:{free_port()}", every_s=0.2)
    for number in range(3):
        down.append(MOMENT, b"%d\n" % number)
        until(lambda number=number: len(list(hour_files.unlocked_files(tmp_path))) == number + 1)  # type: ignore[misc]
    down.close()
    assert (
        hour_files.Spool(tmp_path, "s3://captured", None, max_bytes=1).full_reason() == "6 bytes wait for s3://captured"
    )
    up = hour_files.Spool(tmp_path, "s3://captured/some/prefix", s3, every_s=0.2)
    up.append(MOMENT, b"3\n")
    until(lambda: not any(tmp_path.rglob("*.jsonl")))
    up.close()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="captured", Prefix="some/")["Contents"]]
    assert all(key.startswith("some/prefix/2026/11/24/05/") for key in keys)
    bodies = sorted(client.get_object(Bucket="captured", Key=key)["Body"].read() for key in keys)
    assert bodies == [b"0\n", b"1\n", b"2\n", b"3\n"]
