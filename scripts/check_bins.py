"""Check the records of many bins, and write the list of those to recount, the most probably wrong ones first.

    python scripts/check_bins.py --records R --photos P --out O [--url URL | --archive FILE]
                                 [--budget 200] [--fdr 0.2] [--one-in 20]

R: a folder of JSON records, a CSV, or a database with --query; P: a folder of photos that are named after the bins, or
s3://bucket/prefix. Writes O/recount.csv, O/recount.html and O/problems.csv, and prints what to expect. A check that was
killed goes on where it stopped. Where the gateway demands an API key, it is read from the variable BINWATCH_API_KEY.
"""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

import _cli
from serve.bin_check.bin_check import Progress
from serve.bin_check.check_run import Places, run_check
from serve.bin_check.check_settings import CheckSettings
from serve.bin_check.recount_list import ONE_IN, Wishes
from trainer import entrypoint


@contextmanager
def bar(total: int, done: int) -> Iterator[Progress]:
    with tqdm(total=total, initial=done, desc="checking bins", unit="bin") as shown:
        yield shown.update


def main(args: Namespace) -> int:
    names = ("records", "query", "photos", "out", "url", "archive")
    places = Places(**{name: vars(args)[name] for name in names}, key=os.environ.get("BINWATCH_API_KEY", ""))
    wishes = Wishes(budget=args.budget, fdr=args.fdr, one_in=args.one_in)
    result = run_check(places, _cli.read_settings(CheckSettings, args), wishes, bar)
    _cli.emit(args, result.to_json(), result.text())
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, help="folder of JSON files, CSV, or address of a database")
    parser.add_argument("--query", default="", help="of a database: a SELECT of all bins, with bin_id and quantity")
    parser.add_argument("--photos", default="", help="folder or s3://bucket/prefix; without, the column photo says")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, and of what is done so far")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the gateway or of TorchServe")
    parser.add_argument("--archive", type=Path, help="model archive (.mar) to use instead of a server")
    parser.add_argument("--budget", type=int, help="bins that can be recounted: how many wrong records will they hold?")
    parser.add_argument("--fdr", type=float, help="choose the most bins of which at most this share (0-1) is right")
    parser.add_argument("--one-in", type=float, default=ONE_IN, help="when is a recount no longer worthwhile?")
    _cli.add_settings(parser, CheckSettings)
    entrypoint.run(main, parser.parse_args())
