"""The list of recounts through the gateway as a process of its own: what gets into it, who counts, what is stored."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.errors import ServerError
from serve.gateway import keys
from serve.local.servers import gateway_server
from tests.conftest import Served, emptied
from tests.integration.recounting import JPEG, LISTED_S, RecountGateway, event, recount_gateway
from tests.integration.test_serving import deploy
from tests.integration.upstream import Upstream, upstream_server
from tests.records import PRODUCTS, RECORD
from tests.recounting import recount_in
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts
from trainer.training.run import Trained

PNG = b"\x89PNG\r\n\x1a\n photo"


@pytest.fixture(scope="module")
def torchserve_answer() -> Iterator[Upstream]:
    with upstream_server() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(torchserve_answer: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecountGateway]:
    home = tmp_path_factory.mktemp("recounts")
    with recount_gateway(home, torchserve_answer, CAPTURE=str(home / "capture")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: RecountGateway) -> RecountGateway:
    """A gateway whose list is empty."""
    running.empty()
    return running


def test_a_mismatch_waits_and_its_count_becomes_a_label(gateway: RecountGateway) -> None:
    for number, verdict in ((3, "mismatch"), (1, "mismatch"), (2, "match"), (4, "unsure")):
        gateway.verify(number, verdict)
    gateway.pending(2)
    answer = gateway.get("/recounts/next", client="anna")
    waiting = answer["bin"]
    assert (waiting["event_id"], waiting["record"], answer["pending"]) == (event(1), {"quantity": 3, "products": []}, 2)
    assert not {"predicted_count", "expected_count", "reason", "verdict"} & set(waiting)  # nobody is to be anchored
    photo = requests.get(f"{gateway.url}/recounts/{event(1)}/photo", timeout=30)
    assert (photo.content, photo.headers["Content-Type"]) == (JPEG + b"\x01", "image/jpeg")

    settled = gateway.settle(1, count=5)
    assert settled.status_code == 201
    assert settled.json().items() >= {"count": 5, "predicted_count": 2, "verdict": "mismatch", "settled_by": ""}.items()
    label = json.loads((gateway.folder / "metadata" / f"{event(1)}.json").read_text())
    assert (label["EXPECTED_QUANTITY"], label["BIN_FCSKU_DATA"]) == (5, {})
    (photo_of_label,) = read_inventory(gateway.folder, Counts(), require_each=False).photos
    assert (photo_of_label.count, photo_of_label.path.read_bytes()) == (5, JPEG + b"\x01")
    recount = gateway.recount(1)
    assert (recount.p_value, recount.calibration_photos, recount.alarm, recount.random) == (0.001, 999, True, False)
    assert recount.probability_wrong == pytest.approx(0.53, abs=0.01)

    progress = gateway.pending(1)
    assert (progress["wrong"], progress["expected_of"]) == (1, 1)
    assert progress["outcomes"] == {"count": 1, "cannot_tell": 0, "bad_photo": 0}
    assert progress["base_rate"] == 0.02  # an alarm says nothing about all bins
    for name in (
        'recount_candidates_total{result="queued"}',
        'recounts_total{outcome="count"}',
        'requests_total{route="/recounts/{event_id}/photo",status="200"}',
    ):
        assert gateway.metric(f"binwatch_gateway_{name}") > 0


def test_two_people_never_get_the_same_bin_and_the_page_keeps_what_it_shows(gateway: RecountGateway) -> None:
    for number in range(1, 5):
        gateway.verify(number)
    gateway.pending(4)
    assert [gateway.next(client) for client in ("anna", "ben", "anna")] == [event(1), event(2), event(1)]
    assert gateway.next("anna", shown=event(1)) == event(3)
    assert [gateway.next(client) for client in ("cleo", "dan")] == [event(4), None]
    assert gateway.get("/recounts/next", client="dan") == {"bin": None, "pending": 4}


def test_an_undone_recount_waits_again_and_its_label_is_gone(gateway: RecountGateway) -> None:
    for number in (1, 2):
        gateway.verify(number)
    gateway.pending(2)
    assert gateway.next() == event(1)
    assert gateway.settle(1, count=3).status_code == 201
    undone = requests.delete(f"{gateway.url}/recounts/{event(1)}", params={"client": "anna"}, timeout=30)
    assert (undone.status_code, undone.json()["event_id"]) == (200, event(1))
    assert (gateway.next(), gateway.next("ben")) == (event(1), event(2))
    assert list((gateway.folder / "metadata").iterdir()) == []
    assert gateway.settle(1, "cannot_tell").status_code == 201
    assert (gateway.recount(1).outcome, gateway.recount(1).count) == ("cannot_tell", None)


def test_a_record_a_bin_and_a_station_stay_with_the_bin(gateway: RecountGateway) -> None:
    image = base64.b64encode(PNG).decode()
    gateway.answers(1)
    body: dict[str, object] = {"image": image, "products": PRODUCTS, "station": "dock 1"}
    assert requests.post(f"{gateway.url}/verify", json=body, timeout=30).status_code == 200
    gateway.answers(2)
    body = {"image": image, "record": RECORD, "station": "dock 2"}
    assert requests.post(f"{gateway.url}/verify", json=body, timeout=30).status_code == 200
    progress = gateway.pending(2)
    assert (progress["stations"], list(progress["days"].values())) == ({"dock 1": 1, "dock 2": 1}, [2])
    waiting = gateway.get("/recounts/next", station="dock 2")["bin"]
    assert (waiting["station"], waiting["record"]["quantity"]) == ("dock 2", 3)
    assert [product["quantity"] for product in waiting["record"]["products"]] == [
        product["quantity"] for product in PRODUCTS
    ]
    photo = requests.get(f"{gateway.url}/recounts/{event(2)}/photo", timeout=30)
    assert (photo.content, photo.headers["Content-Type"]) == (PNG, "image/png")
    assert gateway.get("/recounts", station="dock 1")["pending"] == 1
    assert gateway.get("/recounts/next", day="2020-01-01")["bin"] is None


def test_a_photo_behind_a_link_waits_with_the_link(gateway: RecountGateway) -> None:
    gateway.answers(1)
    body = {"uri": "s3://bins/1.jpg", "expected_quantity": 3}
    assert requests.post(f"{gateway.url}/verify", json=body, timeout=30).status_code == 200
    gateway.pending(1)
    assert gateway.get("/recounts/next")["bin"]["link"] == "s3://bins/1.jpg"
    photo = requests.get(f"{gateway.url}/recounts/{event(1)}/photo", timeout=30)
    assert (photo.status_code, photo.json()["type"]) == (404, "NoSuchPhoto")
    assert gateway.settle(1, count=2).status_code == 201
    assert list((gateway.folder / "metadata").iterdir()) == []


def test_feedback_settles_the_bin_and_can_be_corrected(gateway: RecountGateway) -> None:
    gateway.verify(1)
    gateway.verify(2)
    gateway.pending(2)
    for count in (4, 5):
        body = {"event_id": event(1), "count": count}
        assert requests.post(f"{gateway.url}/feedback", json=body, timeout=30).status_code == 201
        assert gateway.recount(1).count == count
    unknown = {"event_id": event(9), "count": 4}
    assert requests.post(f"{gateway.url}/feedback", json=unknown, timeout=30).status_code == 201
    assert gateway.pending(1)["wrong"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "part"),
    [
        (event(9), {"outcome": "count", "count": 1}, 404, "NoSuchEvent", event(9)),
        (event(1), {"outcome": "count"}, 422, "BadField", "count"),
        (event(1), {"outcome": "bad_photo", "count": 1}, 422, "BadField", "count"),
        (event(1), {"outcome": "guess", "count": 1}, 422, "BadField", "'guess'"),
        (event(1), {"outcome": "count", "count": -1}, 422, "BadField", "-1"),
        (event(1), {"outcome": "count", "count": "3"}, 422, "BadField", "'3'"),
        ("..%2fleases", {"outcome": "count", "count": 1}, 404, "NotFound", ""),
        ("a.b", {"outcome": "count", "count": 1}, 422, "BadField", "'a.b'"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    gateway: RecountGateway, path: str, body: dict[str, Any], status: int, kind: str, part: str
) -> None:
    gateway.verify(1)
    gateway.pending(1)
    response = requests.post(f"{gateway.url}/recounts/{path}", json=body, timeout=30)
    assert (response.status_code, response.json()["type"]) == (status, kind), response.text
    assert part in response.json()["message"]
    assert gateway.get("/recounts")["pending"] == 1


def test_another_count_of_a_settled_bin_is_409_and_the_same_one_is_not(gateway: RecountGateway) -> None:
    gateway.verify(1)
    gateway.pending(1)
    with ThreadPoolExecutor(8) as pool:
        statuses = [response.status_code for response in pool.map(lambda _: gateway.settle(1, count=4), range(16))]
    assert statuses == [201] * 16
    refused = gateway.settle(1, count=5)
    assert (refused.status_code, refused.json()["type"]) == (409, "Settled")
    assert gateway.recount(1).count == 4
    form = requests.post(f"{gateway.url}/recounts/{event(1)}", data={"outcome": "count"}, timeout=30)
    assert form.status_code == 415


def test_the_list_outlives_the_gateway(torchserve_answer: Upstream, tmp_path: Path) -> None:
    with recount_gateway(tmp_path, torchserve_answer, RECOUNT_RANDOM="1") as gateway:
        for number in (1, 2, 3):
            gateway.verify(number, "match")
    with recount_gateway(tmp_path, torchserve_answer, RECOUNT_RANDOM="1") as gateway:
        assert gateway.pending(3)["pending_random"] == 3
        assert gateway.next() == event(1)
        assert gateway.settle(1, count=2).status_code == 201
        progress = gateway.get("/recounts")
        assert progress["accuracy"]["total"] == progress["wrong_share"]["share"] == 1
        assert progress["base_rate"] == pytest.approx(2 / 51, abs=1e-4)


def test_a_folder_that_cannot_be_written_costs_no_answer(gateway: RecountGateway) -> None:
    queue = gateway.folder / "queue"
    queue.rename(gateway.folder / "elsewhere")
    queue.write_text("no folder")
    gateway.verify(1)
    deadline = time.monotonic() + LISTED_S
    while not gateway.metric('binwatch_gateway_recount_candidates_total{result="failed"}'):
        assert time.monotonic() < deadline
    queue.unlink()
    (gateway.folder / "elsewhere").rename(queue)
    gateway.verify(1)
    gateway.pending(1)


def test_without_a_folder_recounts_are_409_and_name_the_setting(torchserve_answer: Upstream, tmp_path: Path) -> None:
    with gateway_server(tmp_path, torchserve_answer.url) as url:
        gateway = RecountGateway(url, torchserve_answer, tmp_path)
        gateway.verify(1)
        for path in ("/recounts", "/recounts/next", f"/recounts/{event(1)}/photo"):
            response = requests.get(url + path, timeout=30)
            assert (response.status_code, response.json()["type"]) == (409, "NoRecounts")
            assert "BINWATCH_RECOUNTS" in response.json()["message"]
    (tmp_path / "file").write_text("")
    environ = {"BINWATCH_RECOUNTS": str(tmp_path / "file" / "recounts")}
    with (
        pytest.raises(ServerError, match="exited with 2"),
        gateway_server(tmp_path, torchserve_answer.url, environ=environ),
    ):
        pass
    assert "BINWATCH_RECOUNTS is" in (tmp_path / "gateway.log").read_text()


def test_only_a_key_that_may_recount_does(torchserve_answer: Upstream, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    station, anna = keys.add(path, "station"), keys.add(path, "anna", ("recount",))
    body = {"outcome": "count", "count": 4}
    capture = str(tmp_path / "capture")
    with recount_gateway(tmp_path, torchserve_answer, API_KEYS=str(path), CAPTURE=capture) as gateway:
        url = gateway.url
        for number in (1, 2):
            gateway.answers(number)
            headers = {"X-API-Key": station}
            query = {"expected_quantity": 3}
            assert requests.post(f"{url}/verify", params=query, data=JPEG, headers=headers, timeout=30).ok
        for method, route in (("GET", ""), ("GET", "/next"), ("POST", f"/{event(1)}"), ("DELETE", f"/{event(1)}")):
            response = requests.request(method, f"{url}/recounts{route}", json=body, headers=headers, timeout=30)
            assert (response.status_code, response.json()["type"]) == (403, "NoRight")
            assert "'station'" in response.json()["message"]
            assert "--may recount" in response.json()["message"]
        feedback = {"event_id": event(1), "count": 4}
        assert requests.post(f"{url}/feedback", json=feedback, headers=headers, timeout=30).status_code == 201
        assert not (gateway.folder / "settled" / f"{event(1)}.json").exists()

        headers = {"Authorization": f"Bearer {anna}"}
        deadline = time.monotonic() + LISTED_S
        while requests.get(f"{url}/recounts", headers=headers, timeout=30).json()["pending"] < 2:
            assert time.monotonic() < deadline
        settled = requests.post(f"{url}/recounts/{event(1)}", json=body, headers=headers, timeout=30)
        assert (settled.status_code, settled.json()["settled_by"]) == (201, "anna")
        assert (gateway.recount(1).settled_by, gateway.recount(1).station) == ("anna", "station")


def test_a_real_answer_gets_into_the_list(torchserve: Served, trained: Trained, tmp_path: Path) -> None:
    deploy(torchserve, trained.archive, "3")
    photo = trained.data.test.photos[0]
    environ = {"BINWATCH_RECOUNTS": str(tmp_path / "recounts"), "BINWATCH_RECOUNT_RANDOM": "1"}
    with gateway_server(tmp_path, torchserve.inference.url, environ=environ) as url:
        query = {"expected_quantity": photo.count}
        answer = requests.post(f"{url}/verify", params=query, data=photo.path.read_bytes(), timeout=30).json()
        requests.post(f"{url}/predict", data=photo.path.read_bytes(), timeout=30)
        requests.get(f"{url}/healthz", timeout=30)
        deadline = time.monotonic() + LISTED_S
        while requests.get(f"{url}/recounts", timeout=30).json()["pending"] < 1:
            assert time.monotonic() < deadline
        assert requests.get(f"{url}/recounts/next", timeout=30).json()["bin"]["event_id"] == answer["event_id"]
        body = {"outcome": "count", "count": photo.count}
        settled = requests.post(f"{url}/recounts/{answer['event_id']}", json=body, timeout=30).json()
        assert requests.get(f"{url}/recounts", timeout=30).json()["pending"] == 0
    emptied(torchserve)
    assert (settled["random"], settled["predicted_count"], settled["model_version"]) == (True, answer["count"], "3")
    recount = recount_in(tmp_path / "recounts" / "metadata" / f"{answer['event_id']}.json")
    assert recount.p_value == answer["fit"][str(photo.count)]
    (label,) = read_inventory(tmp_path / "recounts", Counts(), require_each=False).photos
    assert label.path.read_bytes() == photo.path.read_bytes()


def test_a_method_that_a_path_has_not_is_405_with_those_that_it_has(gateway: RecountGateway) -> None:
    allowed = {
        path: requests.put(f"{gateway.url}{path}", timeout=30).headers["Allow"]
        for path in ("/recounts", f"/recounts/{event(1)}", f"/recounts/{event(1)}/photo", "/feedback")
    }
    assert list(allowed.values()) == ["GET", "DELETE, POST", "GET", "POST"]
