"""How many workers and how much memory a rate of photos takes on this machine, measured with the deployed champion.

    python scripts/size.py --rate 30 --p99-ms 200 [--archive FILE]

Prints a table and the lines for .env. Exit code 1 where the rate cannot be reached. Takes some 20 seconds for each
number of workers, during which nothing else should run.
"""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import _cli
from serve.errors import SettingsError
from serve.local.sizing import SECONDS, deployed_archive, size
from trainer import entrypoint
from trainer.promotion.promoter_settings import PromoterSettings


def main(args: Namespace) -> int:
    if not (0 < args.rate <= 10_000 and args.p99_ms > 0 and args.max_workers > 0):
        raise SettingsError("give --rate from above 0 to 10000, --p99-ms above 0 and --max-workers from 1")
    archive = args.archive or deployed_archive(_cli.read_settings(PromoterSettings, args).model_store)
    with tempfile.TemporaryDirectory(prefix="binwatch-size-") as state:
        sizing = size(archive, args.rate, args.p99_ms, Path(state), args.max_workers, args.seconds)
    _cli.emit(args, sizing.to_json(), sizing.text())
    return entrypoint.OK if sizing.workers else entrypoint.ERROR


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, required=True, help="photos a second")
    parser.add_argument("--p99-ms", type=float, required=True, help="milliseconds within which 99 of 100 are answered")
    parser.add_argument("--archive", type=Path, help="model archive (.mar) to measure instead of the deployed one")
    _cli.add_settings(parser, PromoterSettings, "model_store")
    parser.add_argument("--max-workers", type=int, default=os.cpu_count() or 1, help="most worker processes to try")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one measurement, and at least 200 requests")
    entrypoint.run(main, parser.parse_args())
