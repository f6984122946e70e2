"""TLS in front of the gateway: what other machines reach, and whom the gateway takes them for."""

import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serve.gateway import keys
from serve.local.servers import gateway_server
from tests.integration.tls import CADDYFILE, HOST, Proxy, tls_proxy
from tests.integration.upstream import Upstream, upstream_server


@dataclass(frozen=True)
class Stack:
    """TorchServe's stand-in, the gateway and the proxy, and an API key. ``direct``: the gateway without the proxy."""

    upstream: Upstream
    direct: str
    proxy: Proxy
    key: dict[str, str]


@contextmanager
def stack(folder: Path, **environ: str) -> Iterator[Stack]:
    listener = folder / "gateway.sock"
    key = keys.add(folder / "keys.json", "dock-3")
    settings = {"BINWATCH_PROXY_SOCKET": str(listener), "BINWATCH_API_KEYS": str(folder / "keys.json"), **environ}
    with (
        upstream_server() as upstream,
        gateway_server(folder, upstream.url, environ=settings) as direct,
        tls_proxy(folder, listener, upstream.url.removeprefix("http://")) as proxy,
    ):
        yield Stack(upstream, direct, proxy, {"X-API-Key": key})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("tls"), BINWATCH_RATE="20", BINWATCH_TIMEOUT_S="3") as stack_of_tests:
        yield stack_of_tests


def test_the_page_and_answers_come_by_https(running: Stack) -> None:
    with running.proxy.client() as client:
        page = client.get("/")
        assert (page.status_code, page.http_version) == (200, "HTTP/1.1")
        assert "camera=(self)" in page.headers["Permissions-Policy"]
        answer = client.post("/predict", content=b"x", headers=running.key)
        assert answer.json()["model_version"] == "9"
        assert client.post("/verify?expected_quantity=1", content=b"x", headers=running.key).status_code == 200


def test_a_key_is_needed_through_the_proxy(running: Stack) -> None:
    with running.proxy.client() as client:
        assert client.post("/predict", content=b"x").json()["type"] == "NoKey"
        assert client.get("/livez").status_code == 200


def test_a_key_is_needed_through_the_proxy_also_where_there_is_none(tmp_path: Path) -> None:
    listener = tmp_path / "gateway.sock"
    with (
        upstream_server() as upstream,
        gateway_server(tmp_path, upstream.url, environ={"BINWATCH_PROXY_SOCKET": str(listener)}) as direct,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(listener)), base_url=f"http://{HOST}") as client,
    ):
        assert httpx.post(f"{direct}/predict", content=b"x").status_code == 200
        for headers in ({}, {"X-API-Key": "bw_guess"}):
            assert client.post("/predict", content=b"x", headers=headers).status_code == 401


def test_pages_are_redirected_from_http_and_keys_and_photos_refused(running: Stack) -> None:
    url, http = f"{running.proxy.http_url}/?x=1", running.proxy.http_url
    page = httpx.get(url, headers={"Host": "elsewhere.example"})
    assert (page.status_code, page.headers["Location"]) == (308, f"{running.proxy.url}/?x=1")
    before = running.upstream.requests
    refused = [
        httpx.post(f"{http}/predict", content=b"x"),
        httpx.get(http, headers=running.key),
        httpx.get(http, headers={"Authorization": "Bearer x"}),
    ]
    assert {(answer.status_code, answer.json()["type"]) for answer in refused} == {(403, "NotEncrypted")}
    assert running.upstream.requests == before


def test_hosts_and_origins_are_checked_behind_the_proxy(running: Stack) -> None:
    host = f"{HOST}:{running.proxy.port}"
    with running.proxy.client("127.0.0.9") as client:

        def status(**headers: str) -> int:
            return client.post("/predict", content=b"x", headers={**running.key, **headers}).status_code

        assert status(Origin=f"https://{host}") == 200
        assert [status(Origin=origin) for origin in (f"http://{host}", "https://elsewhere.example")] == [403, 403]
        assert status(Host="elsewhere.example") == 421


def refused_for_rate(client: httpx.Client, url: str, number: int = 60, forge: bool = False) -> int:
    """How many of so many requests at once without a key get 429; ``forge``: each names another address of itself."""
    forged = (
        {"X-Forwarded-For": f"10.0.0.{i}", "Forwarded": f"for=10.0.0.{i}"} if forge else {} for i in range(number)
    )
    answers = [client.get(f"{url}/metrics", headers=headers) for headers in forged]
    tally = Counter(answer.status_code for answer in answers)
    assert set(tally) <= {401, 429}
    return tally[429]


def test_the_rate_is_that_of_each_client_behind_the_proxy(running: Stack) -> None:
    with running.proxy.client("127.0.0.2") as first, running.proxy.client("127.0.0.3") as second:
        assert refused_for_rate(first, running.proxy.url) > 10
        assert second.get("/metrics").status_code == 401


def test_an_address_that_a_client_names_itself_counts_neither_through_the_proxy_nor_past_it(running: Stack) -> None:
    with running.proxy.client("127.0.0.4") as client:
        assert refused_for_rate(client, running.proxy.url, forge=True) > 10
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.5")) as client:
        assert refused_for_rate(client, running.direct, forge=True) > 10


def test_the_limits_of_bodies_hold_behind_the_proxy(running: Stack) -> None:
    with running.proxy.client("127.0.0.6") as client:
        large = client.post("/predict", content=b"x" * 6_500_000, headers=running.key)
        assert (large.status_code, len(running.upstream.received)) == (200, 6_500_000)
        too_large = client.post("/predict", content=b"x" * 6_500_001, headers=running.key)
        assert (too_large.status_code, too_large.json()["type"]) == (413, "TooLarge")
    head = f"POST /predict HTTP/1.1\r\nHost: {HOST}:{running.proxy.port}\r\nX-API-Key: {running.key['X-API-Key']}\r\n"
    with running.proxy.connect("127.0.0.6", f"{head}Content-Length: 100000\r\n\r\n{'x' * 10000}".encode()):
        deadline, refused = time.monotonic() + 20, 'binwatch_gateway_requests_total{route="/predict",status="408"}'
        while refused not in httpx.get(f"{running.direct}/metrics", headers=running.key).text:
            assert time.monotonic() < deadline  # the proxy itself shows the refusal only after the body
            time.sleep(0.2)


def test_bodies_that_arrive_slowly_through_the_proxy_keep_nobody_out(tmp_path: Path) -> None:
    with stack(tmp_path) as running, ExitStack() as connections:
        head = f"POST /predict HTTP/1.1\r\nHost: {HOST}:{running.proxy.port}\r\nX-API-Key: "
        slow_key = keys.add(tmp_path / "keys.json", "slow")
        for _ in range(200):  # more than one address may have directly
            content = f"{head}{slow_key}\r\nContent-Length: 100000\r\n\r\n{'x' * 10000}".encode()
            connections.enter_context(running.proxy.connect("127.0.0.2", content))
        with running.proxy.client("127.0.0.3") as client:
            start = time.monotonic()
            assert client.post("/predict", content=b"x", headers=running.key).status_code == 200
            assert time.monotonic() - start < 5


def test_a_gateway_that_is_away_is_503_and_comes_back(tmp_path: Path) -> None:
    listener = tmp_path / "gateway.sock"
    with tls_proxy(tmp_path, listener) as proxy, proxy.client() as client:
        away = client.get("/livez")
        assert (away.status_code, away.json()["type"], away.headers["Retry-After"]) == (503, "Down", "5")
        for _ in range(2):  # the second finds the socket of the first
            settings = {"BINWATCH_PROXY_SOCKET": str(listener)}
            with gateway_server(tmp_path, "http://127.0.0.1:9", environ=settings):
                assert client.get("/livez").status_code == 200


def test_mlflow_has_a_port_of_its_own(running: Stack) -> None:
    url = f"https://{HOST}:{running.proxy.mlflow_port}"
    running.upstream.requests = 0
    with running.proxy.client() as client:
        assert client.get(f"{url}/api/2.0/mlflow/users/current").status_code == 200
    assert running.upstream.requests == 1
    assert running.upstream.headers["Host"] == f"{HOST}:{running.proxy.mlflow_port}"
    assert running.upstream.headers["X-Forwarded-Proto"] == "https"


def test_a_certificate_of_one_s_own_is_shown(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    environ = {"BINWATCH_TLS": "files", "CERTIFICATE": str(certificate), "CERTIFICATE_KEY": str(key)}
    with (
        tls_proxy(tmp_path, tmp_path / "gateway.sock", **environ) as proxy,
        httpx.Client(verify=ssl.create_default_context(cafile=certificate)) as client,
    ):
        assert client.get(proxy.url).headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("source", ["internal", "acme", "files"])
def test_caddy_understands_each_source_of_certificates(source: str, tmp_path: Path) -> None:
    environ = {"BINWATCH_TLS": source, "BINWATCH_TLS_HOST": "bins.example.com", "BINWATCH_TLS_MAIL": "it@example.com"}
    caddy = Path(sys.executable).with_name("caddy")
    words = [str(caddy), "adapt", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    adapted = subprocess.run(words, env={**environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert {"acme": "it@example.com", "files": "/certificate/key.pem"}.get(source, "internal") in adapted.stdout


def test_a_socket_that_cannot_be_is_named(tmp_path: Path) -> None:
    environ = {"BINWATCH_PROXY_SOCKET": str(tmp_path / "none" / "gateway.sock"), "PATH": ""}
    words = [sys.executable, "-m", "serve.gateway"]
    process = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr.startswith("error: BINWATCH_PROXY_SOCKET: ")) == (2, True)
