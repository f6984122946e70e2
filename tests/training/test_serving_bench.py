import http.server
import threading
from collections.abc import Iterator

import pytest

from serve.errors import ServerError
from tests.benchmarks.bench_serve import FP32, LITSERVE, OURS, STOCK, compare_loads
from tests.benchmarks.http_load import Load, generate_load
from tests.benchmarks.results import compare_seconds


def rounds(rate: float, latency_s: float) -> list[Load]:
    return [Load(rate, (latency_s,) * 100), Load(rate, (latency_s,) * 100)]


def loads(rate: float = 80, latency_s: float = 0.1, litserve_s: float = 0.5) -> dict[tuple[str, int], list[Load]]:
    return {
        (STOCK, 1): rounds(9, 0.9),
        (STOCK, 2): rounds(20, 0.4),
        (LITSERVE, 2): rounds(16, litserve_s),
        (FP32, 2): rounds(28, 0.3),
        (OURS, 1): rounds(45, 0.2),
        (OURS, 2): rounds(rate, latency_s),
    }


def test_each_peer_counts_at_its_best() -> None:
    result = compare_loads(loads(), in_process=100)
    assert (result.ratio, result.holds) == (4.0, True)
    assert result.peers == {STOCK: 4.0, LITSERVE: 5.0, FP32: 2.857, "our int8 in process": 0.8}
    assert result.runs[f"{STOCK}, 1 workers: requests/s"] == [9, 9]
    assert result.runs[f"{OURS}, best: p99 ms"] == [100]


@pytest.mark.parametrize("change", [{"rate": 79.99}, {"latency_s": 0.41}, {"litserve_s": 0.09}])
def test_it_does_not_hold_where_we_are_too_slow_or_a_peer_is_steadier(change: dict[str, float]) -> None:
    assert not compare_loads(loads(**change), in_process=100).holds


def test_what_is_asked_is_held_against_the_ratio_before_it_is_rounded() -> None:
    result = compare_seconds("train", 1.15, {"the peer": [106.902], "ours": [93.009]})
    assert (result.ratio, result.holds) == (1.149, False)


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server that answers 503 to ``bad``, and the bodies that it received."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(body)
            self.send_response(503 if body == b"bad" else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}/", bodies
        http_server.shutdown()
        thread.join()


def test_every_request_is_sent_once_and_timed(server: tuple[str, list[bytes]]) -> None:
    url, bodies = server
    load = generate_load(url, [b"a", b"b", b"c"], {}, 20, clients=8)
    assert len(load.seconds) == len(bodies) == 20
    assert sorted(bodies) == [b"a"] * 7 + [b"b"] * 7 + [b"c"] * 6
    assert min(load.seconds) > 0
    assert load.rate > 0


def test_an_answer_that_is_not_200_ends_the_load(server: tuple[str, list[bytes]]) -> None:
    with pytest.raises(ServerError, match="503"):
        generate_load(server[0], [b"bad"], {}, 4, clients=2)
