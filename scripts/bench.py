"""Measure how many times faster we are than a named peer, or better, in one run.

python scripts/bench.py fetch|gate|loader|monitor|precision|serve|train|tune [--data DIR] [--json]
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from serve.embedded import s3_server, torchserve_server
from serve.torchserve import BATCHING
from trainer import benches, cli, gate_benches, monitoring_benches, serving_benches, training_benches

BENCHES: dict[str, Callable[[Path, benches.Server], benches.Result]] = {
    **benches.BENCHES,
    **gate_benches.BENCHES,
    **monitoring_benches.BENCHES,
    **training_benches.BENCHES,
    "serve": lambda data, _: serving_benches.bench_serve(data, torchserve_server, BATCHING),
}


def main(args: Namespace) -> int:
    result = BENCHES[args.name](cli.data_spec(vars(args), Path("var/drawn")).source, s3_server)
    peers = "; ".join(f"{ratio} {result.compared} {peer}" for peer, ratio in result.peers.items())
    verdict = "holds" if result.holds else "does not hold"
    cli.emit(args, asdict(result), f"{result.name}: {peers}; the target {result.target} {verdict} ({result.machine})")
    return cli.OK if result.holds else cli.ERROR


if __name__ == "__main__":
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(BENCHES))
    cli.add_data_options(parser)
    cli.run(main, parser.parse_args())
