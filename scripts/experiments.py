"""Train every recipe on a prepared dataset and print the README's table; what is done is not done again.

    python scripts/experiments.py --data PREPARED --out OUT [--only best,best-seed1]

PREPARED: what scripts/prepare_data.py --extra and scripts/audit_labels.py left.
"""

from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.experiments import compare, readme_table


def main(args: Namespace) -> int:
    wanted = list(filter(None, args.only.split(",")))
    words = ("--no-tracking",) if args.no_tracking else ("--tracking-uri", args.tracking_uri)
    folders = readme_table.run(args.data, args.out, wanted, words)
    rows = [compare.read(folder) for folder in folders]
    result = {row.name: {**row.training, "evaluation": row.evaluation.to_sagemaker()} for row in rows}
    _cli.emit(args, result, compare.table(rows))
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset that scripts/prepare_data.py prepared")
    parser.add_argument("--out", type=Path, required=True, help="a folder for all of them")
    parser.add_argument("--only", default="", metavar="NAMES", help="some of them, with commas")
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    entrypoint.run(main, parser.parse_args())
