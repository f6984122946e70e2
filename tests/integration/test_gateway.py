"""The gateway as a process of its own, in front of a real TorchServe."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from serve.gateway.middleware import HEADERS
from serve.gateway.settings import MAX_BODY
from serve.local.servers import gateway_server
from tests.conftest import Served, emptied
from tests.integration.test_serving import deploy
from tests.integration.upstream import upstream_server
from tests.records import PRODUCTS, RECORD
from trainer.training.run import Trained


@pytest.fixture(scope="module")
def counting(torchserve: Served, trained: Trained) -> Iterator[Served]:
    """A real TorchServe with a model, for all tests here."""
    deploy(torchserve, trained.archive, "3")
    yield torchserve
    emptied(torchserve)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(counting: Served, home: Path) -> Iterator[str]:
    environ = {"BINWATCH_CAPTURE": str(home / "capture"), "BINWATCH_MONITORING": str(home / "monitoring")}
    with gateway_server(home, counting.inference.url, environ=environ) as url:
        yield url


@pytest.fixture(scope="module")
def photo(trained: Trained) -> bytes:
    return trained.data.test.photos[0].path.read_bytes()


def without_event_id(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "event_id"}


def test_a_photo_is_accepted_in_every_form(gateway: str, counting: Served, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    jpeg = {"Content-Type": "image/jpeg"}
    query = {"expected_quantity": 2}
    answers = [
        requests.post(f"{gateway}/verify", data=query, files={"photo": ("a.jpg", photo, "image/jpeg")}, timeout=30),
        requests.post(f"{gateway}/verify", params=query, files={"photo": photo}, timeout=30),
        requests.post(f"{gateway}/verify", params=query, data=photo, timeout=30),
        requests.post(f"{gateway}/verify", params=query, data=photo, headers=jpeg, timeout=30),
        requests.post(f"{gateway}/verify", params={"expected_quantity": 5}, json={"image": text, **query}, timeout=30),
        requests.post(f"{gateway}/verify", params=query, json={"image": text}, timeout=30),
    ]
    assert [response.status_code for response in answers] == [200] * 6, [response.text for response in answers]
    first, *others = [response.json() for response in answers]
    assert (first["verdict"], first["expected_quantity"], first["model_version"]) == ("unsure", 2, "3")
    assert all(without_event_id(answer) == without_event_id(first) for answer in others)
    plain = requests.post(f"{gateway}/predict", data=photo, headers=jpeg, timeout=30).json()
    assert without_event_id(plain) == without_event_id(counting.inference.predict(photo))
    assert "verdict" not in plain
    assert len({answer["event_id"] for answer in (first, *others, plain)}) == 7


def test_torchserves_own_routes_get_torchserves_own_answer(gateway: str, counting: Served, photo: bytes) -> None:
    path = "/predictions/bin-counter"
    for method, kind in (("PUT", None), ("POST", "video/mp4")):  # PUT: curl -T
        texts = [
            requests.request(method, url + path, data=photo, headers={"Content-Type": kind}, timeout=30).text
            for url in (counting.inference.url, gateway)
        ]
        direct, through = (text.replace(json.loads(text)["event_id"], "ID") for text in texts)
        assert direct == through
    assert requests.get(f"{gateway}/ping", timeout=30).json() == {"status": "Healthy"}


def test_an_invocation_reads_the_fields_in_the_query(gateway: str, photo: bytes) -> None:
    query = {"model_name": "bin-counter", "expected_quantity": "2"}
    answer = requests.post(f"{gateway}/invocations", params=query, data=photo, timeout=30).json()
    assert (answer["expected_quantity"], answer["model_version"]) == (2, "3")
    for name, value in (("expected_quantity", "x"), ("model_name", "other")):
        wrong = requests.post(f"{gateway}/invocations", params={**query, name: value}, data=photo, timeout=30)
        assert (wrong.status_code, wrong.json()["type"]) == (422, "BadField")


def test_attention_is_passed_on_in_every_form(gateway: str, photo: bytes) -> None:
    text, asked = base64.b64encode(photo).decode(), {"attention": 1}
    answers = [
        requests.post(f"{gateway}/predict", params=asked, data=photo, timeout=30),
        requests.post(f"{gateway}/predict", data=asked, files={"photo": photo}, timeout=30),
        requests.post(f"{gateway}/predict", json={"image": text, **asked}, timeout=30),
        requests.post(f"{gateway}/verify", params={**asked, "expected_quantity": 2}, data=photo, timeout=30),
        requests.post(f"{gateway}/verify", data={**asked, "expected_quantity": 2}, files={"photo": photo}, timeout=30),
        requests.post(f"{gateway}/verify", json={"image": text, "expected_quantity": 2, "attention": True}, timeout=30),
        requests.post(f"{gateway}/verify", params=asked, json={"image": text, "products": PRODUCTS}, timeout=30),
        requests.post(f"{gateway}/invocations", params=asked, data=photo, timeout=30),
    ]
    assert [response.status_code for response in answers] == [200] * 8, [response.text for response in answers]
    first, *others = [response.json()["attention"] for response in answers]
    assert first["image"].startswith("data:image/png;base64,")
    assert others == [first] * 7
    assert (
        "attention" not in requests.post(f"{gateway}/predict", json={"image": text, "attention": 0}, timeout=30).json()
    )
    wrong = requests.post(f"{gateway}/predict", json={"image": text, "attention": 2}, timeout=30)
    assert (wrong.status_code, wrong.json()["type"]) == (422, "BadField")


def test_a_weight_is_passed_on(gateway: str, photo: bytes) -> None:
    weighed = {"expected_quantity": 2, "weight": "1.5", "expected_weight": "1.0"}
    answer = requests.post(f"{gateway}/verify", data=weighed, files={"photo": photo}, timeout=30).json()
    assert answer["weight"]["verdict"] == "mismatch"
    alone = requests.post(
        f"{gateway}/verify", data={"expected_quantity": 2, "weight": 1}, files={"photo": photo}, timeout=30
    )
    assert alone.status_code == 422


def test_a_record_is_accepted_in_every_form(gateway: str, photo: bytes) -> None:
    text, products = json.dumps(RECORD), json.dumps(PRODUCTS)
    image = base64.b64encode(photo).decode()
    forms: list[dict[str, Any]] = [
        {"json": {"image": image, "record": RECORD}},
        {"json": {"image": image, "products": PRODUCTS, "expected_quantity": 3}},
        {"files": {"photo": photo}, "data": {"record": text}},
        {"files": {"photo": photo, "products": ("products.json", products, "application/json")}},
        {"files": {"photo": photo}, "data": {"record": text}, "params": {"expected_quantity": 3}},
    ]
    answers = [requests.post(f"{gateway}/verify", timeout=30, **form) for form in forms]
    assert [response.status_code for response in answers] == [200] * 5, [response.text for response in answers]
    first, *others = [response.json() for response in answers]
    assert (first["expected_quantity"], first["evidence"].split("+")[0]) == (3, "photo")
    assert all(without_event_id(answer) == without_event_id(first) for answer in others)
    weighed = {"image": image, "record": RECORD, "weight": 0.6, "weight_unit": "lb"}
    answer = requests.post(f"{gateway}/verify", json=weighed, timeout=30).json()
    assert (answer["verdict"], answer["weight"]["unit"]) == ("mismatch", "lb")
    assert answer["evidence"].endswith("+weight")


JSON = "application/json"


EVENT = b'"event_id": "11111111-2222-4333-8444-555555555555"'


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status", "kind", "part"),
    [
        ("/verify?expected_quantity=2", "image/jpeg", b"no photo", 400, "BadPhoto", "b'no photo'"),
        ("/verify?expected_quantity=2", "image/jpeg", b"", 400, "BadPhoto", "0 bytes"),
        ("/verify", "image/jpeg", b"\xff\xd8\xff", 422, "BadField", "expected_quantity"),
        ("/verify?expected_quantity=-1", "image/jpeg", b"x", 422, "BadField", "expected_quantity is '-1'"),
        ("/verify?expected_quantity=100000", "image/jpeg", b"x", 422, "BadField", "expected_quantity is '100000'"),
        ("/verify?expected_quantity=2&weight=nan", "image/jpeg", b"x", 422, "BadField", "weight is"),
        ("/verify?expected_quantity=2", "image/gif", b"GIF89a", 415, "UnsupportedMediaType", "'image/gif'"),
        ("/verify?expected_quantity=2", "text/plain", b"s3://a/b", 415, "UnsupportedMediaType", "'text/plain'"),
        ("/verify?expected_quantity=2", JSON, b"{", 400, "BadJson", "1 bytes"),
        ("/verify?expected_quantity=2", JSON, b"\xff", 400, "BadJson", "1 bytes"),
        ("/verify?expected_quantity=2", JSON, b"[" * 100_000, 400, "BadJson", "100000 bytes"),
        ("/verify?expected_quantity=2", JSON, b'{"uri": "s3://a/b", "uri": "s3://a/c"}', 400, "BadJson", "twice"),
        ("/verify?expected_quantity=2", JSON, b'{"uri": "' + b"1" * 5000 + b'"}', 422, "BadField", "uri is '111"),
        ("/verify?expected_quantity=2", JSON, b"[]", 422, "BadField", "[]"),
        ("/verify?expected_quantity=2", JSON, b"{}", 422, "BadField", "uri"),
        ("/verify?expected_quantity=2", JSON, b'{"uri": "s3://a/b", "image": ""}', 422, "BadField", "image"),
        ("/verify?expected_quantity=2", JSON, b'{"uri": 3}', 422, "BadField", "uri is 3"),
        ("/verify?expected_quantity=2", JSON, b'{"image": "!"}', 422, "BadField", "'!'"),
        ("/verify", JSON, b'{"image": "", "expected_quantity": "2"}', 422, "BadField", "expected_quantity is '2'"),
        (
            "/verify",
            JSON,
            b'{"image": "YQ==", "expected_quantity": true}',
            422,
            "BadField",
            "expected_quantity is True",
        ),
        ("/verify", JSON, b'{"image": "YQ==", "expected_quantity": 2, "price": 1}', 422, "BadField", "price is 1"),
        ("/verify", JSON, b'{"uri": "\\ud800", "expected_quantity": 2}', 422, "BadField", "uri"),
        (
            "/verify",
            JSON,
            b'{"uri": "s3://nobody/x", "expected_quantity": 2}',
            403,
            "BucketNotAllowed",
            "BINWATCH_S3_BUCKETS",
        ),
        ("/predict", JSON, b'{"image": "YQ==", "expected_quantity": 2}', 422, "BadField", "expected_quantity is 2"),
        ("/predict", JSON, b'{"image": "YQ==", "record": {}}', 422, "BadField", "record is {}"),
        ("/verify", JSON, b'{"image": "YQ==", "record": []}', 422, "BadField", "record is []"),
        ("/verify", JSON, b'{"image": "YQ==", "record": {}}', 422, "BadField", "EXPECTED_QUANTITY"),
        ("/verify", JSON, b'{"image": "YQ==", "products": [3]}', 422, "BadField", "product 1 is int"),
        ("/verify", JSON, b'{"image": "YQ==", "products": [' + b"0," * 499 + b"0]}", 422, "BadField", "products"),
        ("/verify", JSON, b'{"image": "YQ==", "products": [{"quantity": 1e400}]}', 422, "BadField", "is inf"),
        ("/verify", JSON, b'{"image": "", "record": {"a": 1, "a": 2}}', 400, "BadJson", "twice"),
        ("/verify", JSON, b'{"image": "", "record": ' + b"[" * 800 + b"]" * 800 + b"}", 422, "BadField", "record"),
        (
            "/verify?expected_quantity=2",
            JSON,
            b'{"image": "YQ==", "record": {"EXPECTED_QUANTITY": 3}}',
            422,
            "BadField",
            "is 2, but the record adds up to 3",
        ),
        (
            "/verify",
            JSON,
            b'{"image": "YQ==", "record": {"EXPECTED_QUANTITY": 3}, "products": [{"quantity": 3}]}',
            422,
            "BadField",
            "record and products",
        ),
        ("/verify?expected_quantity=2&weight=1&weight_unit=a,b", "image/jpeg", b"x", 422, "BadField", "'a,b'"),
        (
            "/verify",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\nx\r\n'
            b'--x\r\nContent-Disposition: form-data; name="record"\r\n\r\n{\r\n--x--\r\n',
            422,
            "BadField",
            "record",
        ),
        ("/verify", "multipart/form-data", b"", 400, "BadRequest", "boundary"),
        ("/verify", "multipart/form-data; boundary=x", b"rubbish", 400, "BadRequest", "multipart"),
        ("/verify", "multipart/form-data; boundary=x", b"--x--\r\n", 422, "BadField", "photo"),
        ("/feedback", JSON, b'{"event_id": "1", "count": 1}', 422, "BadField", "event_id is '1'"),
        ("/feedback", JSON, b"{" + EVENT + b', "count": -1}', 422, "BadField", "count is -1"),
        ("/feedback", JSON, b'{"count": 1}', 422, "BadField", "event_id"),
        ("/feedback", "text/plain", b"{" + EVENT + b', "count": 1}', 415, "UnsupportedMediaType", "'text/plain'"),
        ("/nothing", JSON, b"", 404, "NotFound", "POST /nothing"),
        ("/healthz", JSON, b"", 405, "MethodNotAllowed", "POST /healthz"),
        ("/", JSON, b"", 405, "MethodNotAllowed", "POST /"),
    ],
)
def test_an_unusable_request_is_refused_with_the_reason(
    gateway: str, path: str, content_type: str, body: bytes, status: int, kind: str, part: str
) -> None:
    response = requests.post(gateway + path, data=body, headers={"Content-Type": content_type}, timeout=30)
    assert response.status_code == status, response.text
    error = response.json()
    assert set(error) == {"code", "type", "message"}
    assert (error["code"], error["type"]) == (status, kind)
    assert part in error["message"]
    assert response.headers.items() >= HEADERS.items()
    if status == 405:
        assert "GET" in response.headers["Allow"]


def test_the_gateway_fetches_no_link(gateway: str) -> None:
    with upstream_server() as website:
        for link in (f"{website.url}/a.jpg", f"s3://{urlsplit(website.url).netloc}/a.jpg", "file:///etc/passwd"):
            response = requests.post(f"{gateway}/predict", json={"uri": link}, timeout=30)
            assert response.status_code in (403, 422), response.text
        assert website.requests == 0


@pytest.mark.parametrize("length", [MAX_BODY + 1, 20_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413_and_the_client_sees_it(gateway: str, length: int, chunked: bool) -> None:
    data = bytes(length)
    body = (data[at : at + 65536] for at in range(0, length, 65536)) if chunked else data
    response = requests.post(f"{gateway}/predict", data=body, headers={"Content-Type": "image/jpeg"}, timeout=30)
    assert (response.status_code, response.json()["type"]) == (413, "TooLarge")


def test_a_body_of_the_limit_gets_to_torchserve(gateway: str) -> None:
    response = requests.post(f"{gateway}/predict", data=bytes(MAX_BODY), timeout=30)
    assert (response.status_code, response.json()["type"]) == (400, "BadPhoto")


def test_the_gateway_is_healthy_if_the_champion_answers(gateway: str, counting: Served, trained: Trained) -> None:
    assert requests.get(f"{gateway}/healthz", timeout=30).json() == {"status": "ok", "model_version": "3"}
    emptied(counting)
    assert requests.get(f"{counting.inference.url}/ping", timeout=30).json() == {"status": "Healthy"}
    time.sleep(3.2)  # results are cached for 3 s
    response = requests.get(f"{gateway}/healthz", timeout=30)
    assert (response.status_code, response.json()["type"]) == (503, "NoModel")
    assert int(response.headers["Retry-After"]) > 0
    prediction = requests.post(f"{gateway}/predict", data=b"x", timeout=30)
    assert (prediction.status_code, prediction.json()["type"]) == (503, "NoModel")
    assert requests.get(f"{gateway}/livez", timeout=30).json() == {"status": "ok"}
    deploy(counting, trained.archive, "3")
    time.sleep(3.2)
    assert requests.get(f"{gateway}/healthz", timeout=30).ok


def test_feedback_becomes_ground_truth_whole_lines_under_many_writers(gateway: str, home: Path, photo: bytes) -> None:
    event = requests.post(f"{gateway}/predict", data=photo, timeout=30).json()["event_id"]
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"event_id": event, "count": count} for count in range(64)]
        answers = list(pool.map(lambda body: requests.post(f"{gateway}/feedback", json=body, timeout=30), bodies))
    assert [response.status_code for response in answers] == [201] * 64
    assert [response.json() for response in answers] == bodies
    files = list((home / "capture" / "ground-truth").rglob("*.jsonl"))
    records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert sorted(int(record["groundTruthData"]["data"]) for record in records) == list(range(64))
    assert {record["eventMetadata"]["eventId"] for record in records} == {event}
    for path in files:
        hour = datetime.strptime(f"{path.parent.relative_to(home / 'capture')} +0000", "ground-truth/%Y/%m/%d/%H %z")
        assert 0 <= (datetime.now(UTC) - hour).total_seconds() < 7200


def test_monitoring_is_the_file_or_an_error_that_says_what_to_do(gateway: str, home: Path) -> None:
    missing = requests.get(f"{gateway}/monitoring", timeout=30)
    assert missing.status_code == 404
    assert "scripts/monitor.py" in missing.json()["message"]
    (home / "monitoring").mkdir(exist_ok=True)
    (home / "monitoring" / "monitoring.json").write_text('{"records": 3}')
    assert requests.get(f"{gateway}/monitoring", timeout=30).json() == {"records": 3}


def test_the_history_is_the_file_or_an_error_that_says_what_is_wrong(gateway: str, home: Path) -> None:
    missing = requests.get(f"{gateway}/history", timeout=30)
    assert (missing.status_code, missing.json()["type"]) == (404, "NoHistory")
    (home / "monitoring").mkdir(exist_ok=True)
    for text in ("", "{", "[1]", "[" * 100_000):
        (home / "monitoring" / "history.json").write_text(text)
        response = requests.get(f"{gateway}/history", timeout=30)
        assert (response.status_code, response.json()["type"]) == (503, "HistoryUnreadable")
    (home / "monitoring" / "history.json").write_text('{"served": []}')
    assert requests.get(f"{gateway}/history", timeout=30).json() == {"served": []}


def test_metrics_count_requests(gateway: str, photo: bytes) -> None:
    def read_metrics() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(requests.get(f"{gateway}/metrics", timeout=30).text)
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }

    before = read_metrics()
    for _ in range(3):
        requests.post(f"{gateway}/verify?expected_quantity=2", data=photo, timeout=30)
    for number in range(5):
        requests.get(f"{gateway}/nothing/{number}", timeout=30)
    after = read_metrics()

    def increase(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert increase("binwatch_gateway_requests_total", "/verify", "200") == 3
    assert increase("binwatch_gateway_verdicts_total", "unsure") == 3
    assert increase("binwatch_gateway_verdicts_by_evidence_total", "photo", "unsure") == 3
    assert increase("binwatch_gateway_requests_total", "other", "404") == 5
    assert increase("binwatch_gateway_seconds_count", "/verify") == 3
    assert after[("binwatch_gateway_in_flight",)] == 1  # the request for the metrics itself


def test_the_page_loads_nothing_from_other_sites_and_runs_no_inline_script(gateway: str) -> None:
    page = requests.get(f"{gateway}/", timeout=30)
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' blob:;")
    assert "://" not in page.text
    assert "style=" not in page.text
    cached = requests.get(f"{gateway}/", headers={"If-None-Match": page.headers["ETag"]}, timeout=30)
    assert (cached.status_code, cached.content) == (304, b"")
    script = requests.get(f"{gateway}/static/main.js", timeout=30)
    assert script.headers["Content-Type"].startswith("text/javascript")
    for name in ("app.py", "..%2fapp.py", "%00", "index.html/", ""):
        assert requests.get(f"{gateway}/static/{name}", timeout=30).status_code == 404, name


def test_pages_of_other_sites_are_refused(gateway: str) -> None:
    rebound = requests.get(f"{gateway}/livez", headers={"Host": "evil.example"}, timeout=30)
    assert (rebound.status_code, rebound.json()["type"]) == (421, "WrongHost")
    for path in ("/verify", "/feedback", "/livez"):
        sent = requests.post(gateway + path, headers={"Origin": "http://evil.example"}, timeout=30)
        assert (sent.status_code, sent.json()["type"]) == (403, "WrongOrigin")
        assert "Access-Control-Allow-Origin" not in sent.headers
