from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from serve.errors import ServerError
from tests.benchmarks.bench_serve import (
    LIMIT,
    LITSERVE,
    LITSERVE_INT8,
    MOSEC,
    OURS,
    STOCK,
    Measured,
    compare_loads,
    has_amx,
)
from tests.benchmarks.http_load import Load, Target, generate_load
from tests.benchmarks.results import compare_seconds
from tests.http_server import serving


def measured(kept: tuple[float, float], closed: tuple[float, float] | None = None) -> Measured:
    """Two equal rounds; ``kept``, ``closed``: requests per second and seconds of latency, by connections."""
    loads = {True: kept, False: closed or kept}
    return Measured(2, {keep: [Load(rate, (latency_s,) * 100)] * 2 for keep, (rate, latency_s) in loads.items()})


def peers(**changes: Measured) -> dict[str, Measured]:
    names = {"stock": STOCK, "litserve": LITSERVE, "int8": LITSERVE_INT8, "mosec": MOSEC, "ours": OURS}
    usual = {
        "stock": measured((20, 0.4)),
        "litserve": measured((16, 0.5)),
        "int8": measured((50, 0.2)),
        "mosec": measured((80, 0.15)),
        "ours": measured((110, 0.1), (100, 0.11)),
    }
    return {names[key]: peer for key, peer in {**usual, **changes}.items()}


def test_of_two_ways_to_connect_the_lower_ratio_counts() -> None:
    result = compare_loads(peers(), limits=[120, 130], amx=False)
    assert result.holds
    assert (result.ratio, result.target) == (5.0, 5.0)
    assert result.peers == {STOCK: 5.0, LITSERVE: 6.25, LITSERVE_INT8: 2.0, MOSEC: 1.25, LIMIT: 0.8}
    assert result.runs[f"{STOCK}, 2 workers, connections kept: requests/s"] == [20, 20]
    assert result.runs[f"{OURS}, 2 workers, a connection per request: p99 ms"] == [110, 110]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"ours": measured((110, 0.1), (99.9, 0.11))}, f"at least 5 times {STOCK}"),
        ({"int8": measured((50.1, 0.2))}, f"at least 2 times {LITSERVE_INT8}"),
        ({"mosec": measured((80, 0.15), (80, 0.11))}, f"99th percentile below that of {MOSEC}"),
    ],
)
def test_it_does_not_hold_where_we_are_too_slow_or_a_peer_is_steadier(
    changes: dict[str, Measured], missed: str
) -> None:
    result = compare_loads(peers(**changes), limits=[120], amx=False)
    assert not result.holds
    assert not result.checks[missed]


def test_it_does_not_hold_far_from_the_limit_or_with_amx_where_less_is_asked_without() -> None:
    assert not compare_loads(peers(), limits=[150], amx=False).holds
    assert compare_loads(peers(), limits=[120], amx=True).target == 7
    assert not compare_loads(peers(), limits=[120], amx=True).holds


def test_amx_is_what_linux_says(tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : fpu avx2\n")
    assert not has_amx(cpu)
    cpu.write_text("flags : fpu avx2 amx_int8\n")
    assert has_amx(cpu)


def test_what_is_asked_is_held_against_the_ratio_before_it_is_rounded() -> None:
    result = compare_seconds("train", 1.15, {"the peer": [106.902], "ours": [93.009]})
    assert (result.ratio, result.holds) == (1.149, False)


@dataclass
class Answering:
    """An HTTP server: its address, the bodies that it received, and the connections that they came by."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)


@pytest.fixture
def server() -> Iterator[Answering]:
    """Answers 503 to ``bad``."""
    record = Answering()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            record.bodies.append(body)
            record.connections.add(self.client_address)
            self.send_response(503 if body == b"bad" else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with serving(Handler) as url:
        record.url = f"{url}/predict"
        yield record


@pytest.mark.parametrize("keep_alive", [True, False])
def test_every_request_is_answered_and_timed(server: Answering, keep_alive: bool) -> None:
    load = generate_load(Target(server.url, [b"a", b"b", b"c"], {"X-A": "1"}, keep_alive), 0.3, clients=3)
    assert len(load.seconds) == len(server.bodies) > 3
    assert set(server.bodies) == {b"a", b"b", b"c"}
    assert min(load.seconds) > 0
    assert load.rate > 0
    assert (len(server.connections) == 3) == keep_alive


def test_an_answer_that_is_not_200_ends_the_load(server: Answering) -> None:
    with pytest.raises(ServerError, match="503"):
        generate_load(Target(server.url, [b"bad"], {}), 0.1, clients=2)
