"""Measure how many times as fast this project is as a named peer in the same run.

    python scripts/bench.py fetch|gate|loader|monitor|precision|serve|train|tune [--data DIR] [--json]
    python scripts/bench.py swap [--promotions 10] [--json]
    python scripts/bench.py novelty|recount [--archive FILE] [--data DIR] [--json]
    python scripts/bench.py replicas [--json]

Exits with 1 when the target of the benchmark is missed.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import _cli
import _options

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests` is not an installed package

from serve.local.servers import mlflow_server, s3_server, torchserve_server
from serve.rollout.torchserve_client import BATCHING
from tests.benchmarks.bench_fetch import bench_fetch
from tests.benchmarks.bench_gate import bench_gate
from tests.benchmarks.bench_loader import bench_loader
from tests.benchmarks.bench_monitor import bench_monitor
from tests.benchmarks.bench_novelty import bench_novelty
from tests.benchmarks.bench_recount import bench_recount
from tests.benchmarks.bench_replicas import bench_replicas
from tests.benchmarks.bench_serve import bench_serve
from tests.benchmarks.bench_swap import PROMOTIONS, bench_swap
from tests.benchmarks.bench_training import bench_precision, bench_train, bench_tune
from tests.benchmarks.results import Result, Server
from trainer import entrypoint
from trainer.options import data_spec


def benchmarks(promotions: int, archive: Path | None = None) -> dict[str, Callable[[Path, Server], Result]]:
    """All benchmarks by name. ``promotions``: of swap; ``archive``: what novelty and recount measure."""
    return {
        "fetch": bench_fetch,
        "gate": bench_gate,
        "loader": bench_loader,
        "monitor": bench_monitor,
        "novelty": lambda data, _: bench_novelty(data, archive),
        "precision": bench_precision,
        "recount": lambda data, _: bench_recount(data, archive),
        "replicas": lambda *_: bench_replicas(),
        "serve": lambda data, _: bench_serve(data, torchserve_server, BATCHING),
        "swap": lambda *_: bench_swap(mlflow_server, promotions),
        "train": bench_train,
        "tune": bench_tune,
    }


def main(args: Namespace) -> int:
    data = data_spec(vars(args), Path("var/drawn")).source
    result = benchmarks(args.promotions, args.archive)[args.name](data, s3_server)
    _cli.emit(args, asdict(result), str(result))
    return entrypoint.OK if result.holds else entrypoint.ERROR


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(benchmarks(PROMOTIONS)), help="of the benchmark")
    parser.add_argument("--promotions", type=int, default=PROMOTIONS, help="of swap (default: %(default)s)")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="of novelty and recount, in place of a new model")
    _options.add_data(parser)
    entrypoint.run(main, parser.parse_args())
