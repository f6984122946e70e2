"""A bin's id in place of the recorded quantity, through the gateway as a process of its own."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.errors import ServerError
from serve.gateway import keys
from serve.gateway.parsing import ATTRIBUTES
from serve.local.servers import gateway_server
from tests.integration.postgres import PASSWORD, postgres_server
from tests.integration.upstream import Upstream, upstream_server
from tests.records import entry

ROOT = Path(__file__).parents[2]
PHOTO = b"\xff\xd8\xff photo"
BALL = entry("<b>Ball</b>", 2, (10, 5, 4), 2)
RECORD = {"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": {"B00BALL": BALL}}
SHOWN = {
    "quantity": 2,
    "products": [
        {"id": "B00BALL", "name": "<b>Ball</b>", "quantity": 2, "sides_cm": [25.4, 12.7, 10.16], "weight_kg": 0.9072}
    ],
}


@dataclass(frozen=True)
class Asked:
    """A gateway with records, and the server that it asks."""

    url: str
    upstream: Upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    home = tmp_path_factory.mktemp("records")
    (home / "00007.json").write_text(json.dumps(RECORD))
    (home / "A.json").write_text('{"EXPECTED_QUANTITY": 4}')
    (home / "broken.json").write_text('{"EXPECTED_QUANTITY": "many"}')
    with upstream_server() as torchserve:
        torchserve.body = b'{"count": 1, "model_version": "9", "verdict": "mismatch"}'
        with gateway_server(home / "work", torchserve.url, environ={"BINWATCH_RECORDS": str(home)}) as url:
            yield Asked(url, torchserve)


def verify(url: str, bin_id: str = "00007", **form: object) -> requests.Response:
    return requests.post(f"{url}/verify", data={"bin_id": bin_id, **form}, files={"photo": PHOTO}, timeout=30)


def test_a_bin_is_verified_by_its_id_and_its_record_is_in_the_answer(gateway: Asked) -> None:
    image = base64.b64encode(PHOTO).decode()
    answers = [
        verify(gateway.url),
        requests.post(f"{gateway.url}/verify", params={"bin_id": "00007"}, data=PHOTO, timeout=30),
        requests.post(f"{gateway.url}/verify", json={"image": image, "bin_id": "00007"}, timeout=30),
        requests.post(f"{gateway.url}/verify?bin_id=A", json={"image": image, "bin_id": "00007"}, timeout=30),
    ]
    assert [response.status_code for response in answers] == [200] * 4, [response.text for response in answers]
    for response in answers:
        answer = response.json()
        assert (answer["verdict"], answer["bin_id"], answer["record"]) == ("mismatch", "00007", SHOWN)
    asked = json.loads(gateway.upstream.received)
    assert asked == {"image": image, "record": RECORD}
    assert gateway.upstream.headers[ATTRIBUTES] == "expected_quantity=2"


def test_a_record_of_a_quantity_is_asked_like_a_quantity(gateway: Asked) -> None:
    answer = verify(gateway.url, "A").json()
    assert answer["record"] == {"quantity": 4, "products": []}
    assert gateway.upstream.received == PHOTO
    assert gateway.upstream.headers[ATTRIBUTES] == "expected_quantity=4"


def test_a_bin_can_be_weighed(gateway: Asked) -> None:
    assert verify(gateway.url, weight="1.8", weight_unit="kg").status_code == 200
    sent = gateway.upstream.headers[ATTRIBUTES].split(",")
    assert {"expected_quantity=2", "weight=1.8", "weight_unit=kg"} <= set(sent)


@pytest.mark.parametrize(
    ("form", "status", "kind", "part"),
    [
        ({"bin_id": "00008"}, 404, "NoSuchBin", "00008"),
        ({"bin_id": "broken"}, 502, "BadRecord", "many"),
        ({"bin_id": "../00007"}, 422, "BadField", "bin_id"),
        ({"bin_id": ""}, 422, "BadField", "bin_id"),
        ({"bin_id": "x" * 65}, 422, "BadField", "bin_id"),
        ({"bin_id": "00007", "expected_quantity": "2"}, 422, "BadField", "expected_quantity"),
        ({"bin_id": "00007", "record": json.dumps(RECORD)}, 422, "BadField", "record"),
        ({"bin_id": "00007", "products": '[{"quantity": 1}]'}, 422, "BadField", "products"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(
    gateway: Asked, form: dict[str, str], status: int, kind: str, part: str
) -> None:
    before = gateway.upstream.requests
    response = requests.post(f"{gateway.url}/verify", data=form, files={"photo": PHOTO}, timeout=30)
    assert (response.status_code, response.json()["type"]) == (status, kind), response.text
    assert part in response.json()["message"]
    assert gateway.upstream.requests == before


def test_only_a_verdict_takes_a_bin(gateway: Asked) -> None:
    refused = requests.post(f"{gateway.url}/predict", data={"bin_id": "A"}, files={"photo": PHOTO}, timeout=30)
    assert (refused.status_code, refused.json()["type"]) == (422, "BadField")


def test_a_record_is_shown_alone(gateway: Asked) -> None:
    assert requests.get(f"{gateway.url}/records", timeout=30).json() == {"configured": True}
    record = requests.get(f"{gateway.url}/records/00007", timeout=30)
    assert record.json() == {"bin_id": "00007", "record": SHOWN}
    statuses = {
        name: requests.get(f"{gateway.url}/records/{name}", timeout=30).status_code
        for name in ("00008", "broken", "x" * 65, ".hidden", "%2e%2e%2f00007", "..%5c00007", "7%00", "7%0a")
    }
    assert statuses == {
        "00008": 404,
        "broken": 502,
        "x" * 65: 422,
        ".hidden": 422,
        "%2e%2e%2f00007": 404,
        "..%5c00007": 422,
        "7%00": 422,
        "7%0a": 422,
    }
    metrics = requests.get(f"{gateway.url}/metrics", timeout=30).text
    assert 'route="/records/{bin_id}",status="200"} 1.0' in metrics
    assert "00007" not in metrics


def test_without_records_a_bin_is_409_and_names_the_setting(tmp_path: Path) -> None:
    with upstream_server() as torchserve, gateway_server(tmp_path, torchserve.url) as url:
        assert requests.get(f"{url}/records", timeout=30).json() == {"configured": False}
        for response in (verify(url), requests.get(f"{url}/records/00007", timeout=30)):
            assert (response.status_code, response.json()["type"]) == (409, "NoRecords")
            assert "BINWATCH_RECORDS" in response.json()["message"]


def test_records_need_a_key_where_there_are_keys(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "A.json").write_text('{"EXPECTED_QUANTITY": 4}')
    key = keys.add(tmp_path / "keys.json", "page")
    environ = {"BINWATCH_API_KEYS": str(tmp_path / "keys.json"), "BINWATCH_RECORDS": str(tmp_path / "records")}
    with upstream_server() as torchserve, gateway_server(tmp_path, torchserve.url, environ=environ) as url:
        for path in ("/records", "/records/A"):
            assert requests.get(url + path, timeout=30).status_code == 401
            assert requests.get(url + path, headers={"X-API-Key": key}, timeout=30).status_code == 200


def test_a_database_is_asked_and_its_password_is_nowhere(tmp_path: Path) -> None:
    query = "SELECT 'B00BALL' AS id, 3 AS quantity FROM (VALUES ('7')) AS stock (bin_id) WHERE bin_id = :bin_id"
    with postgres_server() as postgres, upstream_server() as torchserve:
        environ = {"BINWATCH_RECORDS": postgres.url(), "BINWATCH_RECORDS_QUERY": query}
        with gateway_server(tmp_path, torchserve.url, environ=environ) as url:
            answers = [verify(url, "7"), verify(url, "8"), requests.get(f"{url}/records/7", timeout=30)]
            assert answers[0].json()["record"] == answers[2].json()["record"]
            assert json.loads(torchserve.received)["products"] == [{"id": "B00BALL", "quantity": 3}]
            postgres.stop()
            answers += [verify(url, "7"), requests.get(f"{url}/metrics", timeout=30)]
            assert requests.get(f"{url}/livez", timeout=30).ok
    assert [response.status_code for response in answers] == [200, 404, 200, 503, 200]
    assert int(answers[3].headers["Retry-After"]) > 0
    log = (tmp_path / "gateway.log").read_text()
    assert "database of records" in log
    assert not [text for text in (log, *(response.text for response in answers)) if PASSWORD in text]


def test_sqlalchemy_is_imported_for_a_database_alone(tmp_path: Path) -> None:
    code = """
import sys
from serve.gateway.app import create_app
from serve.gateway.settings import GatewaySettings
create_app(GatewaySettings(records=sys.argv[1]))
assert "sqlalchemy" not in sys.modules
query = "SELECT 1 AS quantity WHERE 1 = :bin_id"
create_app(GatewaySettings(records="sqlite:////nowhere.db", records_query=query))
assert "sqlalchemy" in sys.modules and "psycopg2" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)


def test_an_unusable_database_stops_the_start_without_its_password(tmp_path: Path) -> None:
    environ: dict[str, Any] = {"BINWATCH_RECORDS": f"mysql://u:{PASSWORD}@h/d", "BINWATCH_RECORDS_QUERY": "DELETE"}
    with (
        pytest.raises(ServerError, match="exited with 2"),
        gateway_server(tmp_path, "http://127.0.0.1:1", environ=environ),
    ):
        pass
    log = (tmp_path / "gateway.log").read_text()
    assert "BINWATCH_RECORDS is 'mysql://u:***@h/d'" in log
    assert "BINWATCH_RECORDS_QUERY is 'DELETE'" in log
    assert PASSWORD not in log
