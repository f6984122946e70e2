"""Measure how many times faster we are than a named peer, or better, in one run.

python scripts/bench.py fetch|gate|loader|monitor|precision|serve|train|tune [--data DIR] [--json]
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import _cli
from serve.local.servers import s3_server, torchserve_server
from serve.rollout.torchserve_client import BATCHING
from tests.benchmarks import benches, gate_benches, monitoring_benches, serving_benches, training_benches
from trainer import entrypoint
from trainer.options import data_spec

BENCHES: dict[str, Callable[[Path, benches.Server], benches.Result]] = {
    **benches.BENCHES,
    **gate_benches.BENCHES,
    **monitoring_benches.BENCHES,
    **training_benches.BENCHES,
    "serve": lambda data, _: serving_benches.bench_serve(data, torchserve_server, BATCHING),
}


def main(args: Namespace) -> int:
    result = BENCHES[args.name](data_spec(vars(args), Path("var/drawn")).source, s3_server)
    peers = "; ".join(f"{ratio} {result.compared} {peer}" for peer, ratio in result.peers.items())
    verdict = "holds" if result.holds else "does not hold"
    _cli.emit(args, asdict(result), f"{result.name}: {peers}; the target {result.target} {verdict} ({result.machine})")
    return entrypoint.OK if result.holds else entrypoint.ERROR


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(BENCHES))
    _cli.add_data_options(parser)
    entrypoint.run(main, parser.parse_args())
