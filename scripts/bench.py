"""Measure how many times as fast this project is as a named peer in the same run.

    python scripts/bench.py fetch|gate|loader|monitor|precision|serve|train|tune [--data DIR] [--json]

Exits with 1 when the target of the benchmark is missed.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import _cli

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is not an installed package

from serve.local.servers import s3_server, torchserve_server
from serve.rollout.torchserve_client import BATCHING
from tests.benchmarks.bench_fetch import bench_fetch
from tests.benchmarks.bench_gate import bench_gate
from tests.benchmarks.bench_loader import bench_loader
from tests.benchmarks.bench_monitor import bench_monitor
from tests.benchmarks.bench_serve import bench_serve
from tests.benchmarks.bench_training import bench_precision, bench_train, bench_tune
from tests.benchmarks.results import Result, Server
from trainer import entrypoint
from trainer.options import data_spec

BENCHMARKS: dict[str, Callable[[Path, Server], Result]] = {
    "fetch": bench_fetch,
    "gate": bench_gate,
    "loader": bench_loader,
    "monitor": bench_monitor,
    "precision": bench_precision,
    "serve": lambda data, _: bench_serve(data, torchserve_server, BATCHING),
    "train": bench_train,
    "tune": bench_tune,
}


def main(args: Namespace) -> int:
    result = BENCHMARKS[args.name](data_spec(vars(args), Path("var/drawn")).source, s3_server)
    peers = "; ".join(f"{ratio} {result.compared} {peer}" for peer, ratio in result.peers.items())
    verdict = "holds" if result.holds else "does not hold"
    _cli.emit(args, asdict(result), f"{result.name}: {peers}; the target {result.target} {verdict} ({result.machine})")
    return entrypoint.OK if result.holds else entrypoint.ERROR


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(BENCHMARKS), help="of the benchmark")
    _cli.add_data_options(parser)
    entrypoint.run(main, parser.parse_args())
