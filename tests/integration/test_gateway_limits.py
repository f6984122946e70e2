"""The gateway's admission control: keys, rates, slow clients; and a TorchServe that does not answer."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.gateway import keys
from serve.gateway.clients import GRACE_S
from serve.gateway.protocol import DeadlineProtocol
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

        def predict(number: int) -> httpx.Response:
            with client_at(f"127.0.0.{1 + number % 3}") as client:
                return client.post(f"{url}/predict", content=b"x")

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(predict, range(12)))
        statuses = sorted(response.status_code for response in answers)
        assert statuses == [200] * 4 + [503] * 8
        with ThreadPoolExecutor(12) as pool:  # of one client, half as many
            alone = [response.status_code for response in pool.map(predict, range(0, 36, 3))]
        assert sorted(alone) == [200] * 2 + [503] * 10
        assert all("Retry-After" in response.headers for response in answers if response.status_code == 503)
        time.sleep(1.1)  # the bucket is full again
        with requests.Session() as session:
            rated = [session.get(f"{url}/monitoring", timeout=30) for _ in range(200)]
        refused = [response for response in rated if response.status_code == 429]
        assert 20 < len(refused) < 150
        assert {response.headers["Retry-After"] for response in refused} == {"1"}


def client_at(address: str) -> httpx.Client:
    """A client that connects from this address of the machine."""
    return httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=5)


def connect(url: str, address: str, head: bytes = b"") -> socket.socket:
    """A connection from this address on which no more than ``head`` is sent."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname or "", parts.port or 0), 10, (address, 0))
    client.sendall(head)
    return client


def closed(client: socket.socket, timeout_s: float) -> bool:
    """Whether the server closes the connection within this time."""
    client.settimeout(timeout_s)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_idle_connections_keep_nobody_out(tmp_path: Path, address: str) -> None:
    """600 from one address, while clients there and elsewhere ask."""
    with ExitStack() as stack:
        upstream = stack.enter_context(upstream_server())
        url = stack.enter_context(gateway_server(tmp_path, upstream.url))
        idle = [stack.enter_context(connect(url, "127.0.0.2", b"POST /predict HTT"[:-1])) for _ in range(600)]
        client = stack.enter_context(client_at(address))
        for path in ("/livez", "/healthz", "/metrics"):
            assert client.get(url + path).status_code == 200
        assert client.post(f"{url}/predict", content=b"x").status_code == 200
        assert closed(idle[0], 1)
        assert not closed(idle[-1], 0.1)


def test_all_connections_that_there_may_be_are_idle_and_others_are_answered(tmp_path: Path) -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(upstream_server())
        url = stack.enter_context(gateway_server(tmp_path, upstream.url))
        for number in range(600):
            stack.enter_context(connect(url, f"127.0.0.{2 + number % 9}"))
        client = stack.enter_context(client_at("127.0.0.1"))
        assert client.get(f"{url}/livez").status_code == 200
        assert client.post(f"{url}/predict", content=b"x").status_code == 200


def test_bodies_that_arrive_slowly_keep_nobody_out(tmp_path: Path) -> None:
    """100 from one address: others there are answered after some time, others elsewhere at once."""
    with ExitStack() as stack:
        upstream = stack.enter_context(upstream_server())
        url = stack.enter_context(gateway_server(tmp_path, upstream.url))
        host = urlsplit(url).netloc.encode()
        head = b"POST /predict HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 100000\r\n\r\nx"
        for _ in range(100):
            stack.enter_context(connect(url, "127.0.0.2", head))
        elsewhere, there = stack.enter_context(client_at("127.0.0.3")), stack.enter_context(client_at("127.0.0.2"))
        assert elsewhere.post(f"{url}/predict", content=b"x").status_code == 200
        assert there.get(f"{url}/livez").status_code == 200
        assert there.get(f"{url}/healthz").status_code == 200
        deadline = time.monotonic() + 3 * GRACE_S
        while there.post(f"{url}/predict", content=b"x").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.5)


class Impatient(DeadlineProtocol):
    """A connection with short deadlines."""

    head_s, drain_s, send_s = 0.5, 0.5, 0.5


@contextmanager
def impatient_server() -> Iterator[str]:
    """The gateway's server in this process, whose responses have as many bytes as the path says."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * int(scope["path"][1:]))(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Impatient, lifespan="off", log_level="critical"))
        thread = Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_who_does_not_read_the_response_is_disconnected(tmp_path: Path) -> None:
    size = 20_000_000
    with impatient_server() as url:
        assert len(requests.get(f"{url}/{size}", timeout=10).content) == size
        with connect(url, "127.0.0.1", b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % size) as client:
            time.sleep(1.5)
            client.settimeout(5)
            received = 0
            with suppress(OSError):
                while data := client.recv(1 << 20):
                    received += len(data)
            assert 0 < received < size
        for slow in (b"", b"GET /1 HT", b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"):
            with connect(url, "127.0.0.1", slow) as client:
                assert closed(client, 2), slow


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
