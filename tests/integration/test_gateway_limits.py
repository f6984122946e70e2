"""The gateway's admission control: keys, rates, slow clients; and a TorchServe that does not answer."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import requests

from serve.gateway import keys
from serve.local.servers import gateway_server
from tests.integration.upstream import upstream_server


def test_keys_are_required_rotated_and_revoked_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old = keys.add(path, "old")
    environ = {"BINWATCH_API_KEYS": str(path), "BINWATCH_RATE": "20"}
    with upstream_server() as upstream, gateway_server(tmp_path, upstream.url, environ=environ) as url:

        def predict(**headers: str) -> int:
            hyphenated = {name.replace("_", "-"): value for name, value in headers.items()}
            return requests.post(f"{url}/predict", data=b"x", headers=hyphenated, timeout=30).status_code

        assert (predict(), predict(X_API_Key="bw_wrong"), predict(Authorization=f"Basic {old}")) == (401, 401, 401)
        assert (predict(X_API_Key=old), predict(Authorization=f"Bearer {old}")) == (200, 200)
        assert predict(X_API_Key=old, Authorization="Bearer bw_wrong") == 401
        refused = requests.get(f"{url}/monitoring", timeout=30)
        assert (refused.headers["WWW-Authenticate"], refused.json()["type"]) == ("Bearer", "NoKey")
        for open_path in ("/", "/static/main.js", "/livez"):
            assert requests.get(url + open_path, timeout=30).ok
        for closed in ("/healthz", "/metrics", "/openapi.json", "/nothing", "//livez", "/static"):
            assert requests.get(url + closed, timeout=30).status_code == 401, closed
        new = keys.add(path, "new")
        assert (predict(X_API_Key=old), predict(X_API_Key=new)) == (200, 200)
        keys.remove(path, "old")
        assert (predict(X_API_Key=old), predict(X_API_Key=new)) == (401, 200)
        with requests.Session() as session:  # guessing keys is slowed down, valid keys are not
            guesses = [session.get(f"{url}/metrics", headers={"X-API-Key": f"bw_{n}"}, timeout=30) for n in range(60)]
        assert {response.status_code for response in guesses} == {401, 429}
        assert predict(X_API_Key=new) == 200
        path.write_text("damaged")
        time.sleep(1.1)
        assert predict(X_API_Key=new) == 503
        path.unlink()
        assert (predict(), predict(X_API_Key=new)) == (401, 401)


def test_what_torchserve_cannot_do_is_503_or_502(tmp_path: Path) -> None:
    with (
        upstream_server() as upstream,
        gateway_server(tmp_path, upstream.url, environ={"BINWATCH_TIMEOUT_S": "1"}) as url,
    ):

        def predict() -> tuple[int, str, bool]:
            response = requests.post(f"{url}/predict", data=b"x", timeout=30)
            assert "Traceback" not in response.text
            return response.status_code, response.json()["type"], "Retry-After" in response.headers

        upstream.status, upstream.body = 503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "full"}'
        assert predict() == (503, "Overloaded", True)
        upstream.status, upstream.body = (
            500,
            b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}',
        )
        assert predict() == (502, "Failed", False)
        upstream.status, upstream.body = 200, b"<html>"
        assert predict() == (502, "Failed", False)
        upstream.delay_s = 2
        assert predict() == (503, "TimedOut", True)
    with gateway_server(tmp_path, upstream.url) as url:
        assert predict() == (503, "Down", True)


def test_many_probes_cause_one_prediction(tmp_path: Path) -> None:
    with upstream_server() as upstream, gateway_server(tmp_path, upstream.url) as url:
        upstream.delay_s = 0.3
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: requests.get(f"{url}/healthz", timeout=30), range(48)))
        assert {response.status_code for response in answers} == {200}
        assert upstream.requests == 1


def test_more_than_the_limit_at_once_is_503_and_more_than_the_rate_429(tmp_path: Path) -> None:
    environ = {"BINWATCH_IN_FLIGHT": "4", "BINWATCH_RATE": "50"}
    with upstream_server() as upstream, gateway_server(tmp_path, upstream.url, environ=environ) as url:
        upstream.delay_s = 1
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: requests.post(f"{url}/predict", data=b"x", timeout=30), range(12)))
        statuses = sorted(response.status_code for response in answers)
        assert statuses == [200] * 4 + [503] * 8
        assert all("Retry-After" in response.headers for response in answers if response.status_code == 503)
        time.sleep(1.1)  # the bucket is full again
        with requests.Session() as session:
            answers = [session.get(f"{url}/monitoring", timeout=30) for _ in range(200)]
        refused = [response for response in answers if response.status_code == 429]
        assert 20 < len(refused) < 150
        assert {response.headers["Retry-After"] for response in refused} == {"1"}


def send_slowly(url: str, head: bytes, pieces: int, pause_s: float) -> tuple[bytes, float]:
    """Send a request byte by byte. Returns the response, and the seconds until the connection was closed."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=30) as client:
        client.sendall(head)
        client.settimeout(pause_s)
        response = b""
        for _ in range(pieces):
            try:
                client.sendall(b"x")
                piece = client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            response += piece
        return response, time.monotonic() - start


def test_slow_clients_are_disconnected(tmp_path: Path) -> None:
    with (
        upstream_server() as upstream,
        gateway_server(tmp_path, upstream.url, environ={"BINWATCH_TIMEOUT_S": "2"}) as url,
    ):
        host = urlsplit(url).netloc.encode()
        head = b"POST /predict HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 100000\r\n"
        body, body_s = send_slowly(url, head + b"\r\n", 200, 0.2)
        assert body.startswith(b"HTTP/1.1 408 ")
        assert b'"type": "TooSlow"' in body
        assert body_s < 20
        headers, headers_s = send_slowly(url, head, 200, 0.2)
        assert headers == b""
        assert 8 < headers_s < 15
        rubbish, rubbish_s = send_slowly(url, b"\x16\x03\x01 rubbish\r\n\r\n", 5, 1)
        assert rubbish.startswith(b"HTTP/1.1 400 ")
        assert b'"type": "BadRequest"' in rubbish
        assert rubbish_s < 3
        assert requests.get(f"{url}/livez", timeout=5).ok
