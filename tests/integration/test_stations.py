"""Which station the gateway names to the model: that of the request, or else the name of its API key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.gateway import keys
from serve.gateway.health import gradient_png
from serve.gateway.parsing import ATTRIBUTES
from serve.local.servers import gateway_server
from tests.integration.upstream import Upstream, upstream_server

PHOTO = gradient_png()
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Gateway:
    """A gateway with one key, named ``Tor 7, links``, and what stands in for TorchServe."""

    url: str
    key: str
    upstream: Upstream

    def attributes(self, path: str, **request: Any) -> str:
        """The attributes that the model gets with a request."""
        headers = {"X-API-Key": self.key, **request.pop("headers", {})}
        response = requests.post(f"{self.url}{path}", headers=headers, timeout=30, **request)
        assert response.status_code == 200, response.text
        return self.upstream.headers.get(ATTRIBUTES, "")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("stations")
    key = keys.add(home / "keys.json", "Tor 7, links")
    with (
        upstream_server() as upstream,
        gateway_server(home, upstream.url, environ={"BINWATCH_API_KEYS": str(home / "keys.json")}) as url,
    ):
        yield Gateway(url, key, upstream)


@pytest.mark.parametrize(
    "path", ["/verify?expected_quantity=3", "/predict", "/predictions/bin-counter", "/invocations"]
)
def test_without_a_station_it_is_the_name_of_the_key(gateway: Gateway, path: str) -> None:
    attributes = gateway.attributes(path, data=PHOTO, headers=PNG)
    assert "station=Tor%207%2C%20links" in attributes.split(",")


def test_a_request_names_its_station_in_every_form(gateway: Gateway) -> None:
    forms: list[tuple[str, dict[str, Any]]] = [
        ("/verify", {"params": {"expected_quantity": 3, "station": "dock 3"}, "data": PHOTO, "headers": PNG}),
        ("/verify", {"data": {"expected_quantity": 3, "station": "dock 3"}, "files": {"photo": PHOTO}}),
        ("/verify", {"json": {"uri": "s3://bins/a.jpg", "expected_quantity": 3, "station": "dock 3"}}),
        ("/predict", {"params": {"station": "dock 3"}, "data": PHOTO, "headers": PNG}),
        ("/predict", {"json": {"uri": "s3://bins/a.jpg", "station": "dock 3"}}),
        ("/invocations", {"params": {"station": "dock 3"}, "data": PHOTO, "headers": PNG}),
        ("/predictions/bin-counter", {"data": PHOTO, "headers": {**PNG, ATTRIBUTES: "station=dock%203"}}),
    ]
    stations = [
        [part for part in gateway.attributes(path, **request).split(",") if "station" in part]
        for path, request in forms
    ]
    assert stations == [["station=dock%203"]] * len(forms)


def test_a_check_of_health_has_no_station(gateway: Gateway) -> None:
    assert requests.get(f"{gateway.url}/healthz", headers={"X-API-Key": gateway.key}, timeout=30).status_code == 200
    assert gateway.upstream.headers[ATTRIBUTES] == "probe=1"


def test_on_loopback_without_keys_there_is_no_station(gateway: Gateway, tmp_path: Path) -> None:
    with gateway_server(tmp_path, gateway.upstream.url) as url:
        assert requests.post(f"{url}/predict", data=PHOTO, headers=PNG, timeout=30).status_code == 200
    assert ATTRIBUTES not in gateway.upstream.headers


@pytest.mark.parametrize("station", ["", "x" * 65, "a\nb"])
def test_a_station_that_is_no_printable_text_is_422_and_names_it(gateway: Gateway, station: str) -> None:
    headers = {"X-API-Key": gateway.key}
    query = requests.post(
        f"{gateway.url}/predict", params={"station": station}, data=PHOTO, headers=headers, timeout=30
    )
    body = {"uri": "s3://bins/a.jpg", "expected_quantity": 3, "station": station}
    verified = requests.post(f"{gateway.url}/verify", json=body, headers=headers, timeout=30)
    assert [response.status_code for response in (query, verified)] == [422, 422]
    assert all("station" in response.json()["message"] for response in (query, verified))
