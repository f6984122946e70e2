"""The benchmark of several servers: requests per second through one gateway in front of one, two and three of them.

Each server is a real TorchServe with one worker whose handler waits, as long as a photo takes, in place of computing.
On one machine three workers that compute would share its cores, and measure these; three that wait have what three
machines have. What is measured is everything else: the gateway's spreading, and TorchServe's queue.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from serve.archives.archive import TORCHSERVE_MANIFEST
from serve.local.servers import gateway_server, torchserve_server
from serve.rollout.torchserve_client import Management
from tests.benchmarks.http_load import Target, generate_load
from tests.benchmarks.results import Result, machine, rounded
from tests.small_archives import packed

PHOTO_S = 0.1
"""How long the handler waits for each photo."""
HANDLER = f"""
import time

def handle(data, context):
    photos = data or []  # TorchServe calls it once without any when the worker starts
    time.sleep({PHOTO_S} * len(photos))
    return [{{"count": 1, "model_version": "1"}} for _ in photos]
"""
SERVERS = (1, 2, 3)
TARGET = 2.7
CLIENTS_PER_SERVER, ROUNDS, WARM_S, ROUND_S = 6, 2, 2.0, 6.0
BODY = b"\xff\xd8\xff" + bytes(20_000)


def bench_replicas() -> Result:
    """Rates with one, two and three servers, in turns. The target is the rate of three divided by that of one."""
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder, ExitStack() as stack:
        work = Path(folder)
        urls = [_start_server(stack, work / f"server-{number}") for number in SERVERS]
        gateways = {
            number: stack.enter_context(
                gateway_server(work / f"gateway-{number}", ",".join(urls[:number]), environ={"BINWATCH_RATE": "0"})
            )
            for number in SERVERS
        }
        for number, url in gateways.items():
            _rate(url, number, WARM_S)
        rounds = [{number: _rate(url, number, ROUND_S) for number, url in gateways.items()} for _ in range(ROUNDS)]
    return compare_rates({number: [rates[number] for rates in rounds] for number in SERVERS})


def compare_rates(runs: dict[int, Sequence[float]]) -> Result:
    """The result from the rates of each round, by the number of servers."""
    rates = {number: median(values) for number, values in runs.items()}
    *fewer, most = sorted(rates)
    ratio = rates[most] / rates[fewer[0]]
    return Result(
        name="replicas",
        ratio=rounded(ratio),
        target=TARGET,
        holds=ratio >= TARGET,
        peers={f"servers: {number}": rounded(rates[most] / rates[number]) for number in fewer},
        runs={f"servers: {number}, requests/s": [round(rate, 2) for rate in values] for number, values in runs.items()},
        machine=machine(),
        compared=f"times the requests per second, with servers: {most}, of",
    )


def _start_server(stack: ExitStack, state: Path) -> str:
    """A TorchServe with the handler that waits. Returns its inference address."""
    inference, management, store = stack.enter_context(torchserve_server(state))
    model = {"modelName": "bin-counter", "handler": "waiting.py", "modelVersion": "1"}
    manifest = json.dumps({"runtime": "python", "model": model, "archiverVersion": "0.12.0"}).encode()
    packed(store / "waiting.mar", {TORCHSERVE_MANIFEST: manifest, "waiting.py": HANDLER.encode()})
    client = Management(management)
    client.register("waiting.mar")
    client.scale("1", 1)
    return inference


def _rate(url: str, number: int, duration_s: float) -> float:
    """Requests per second of clients that keep ``number`` servers busy."""
    target = Target(f"{url}/predictions/bin-counter", [BODY], {"Content-Type": "image/jpeg"})
    return generate_load(target, duration_s, CLIENTS_PER_SERVER * number).rate
