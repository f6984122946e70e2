"""Train every recipe on a prepared dataset and print the table of docs/results.md; finished trainings are not repeated.

    python scripts/experiments.py --data PREPARED --out OUT [--only best,best-seed1]

PREPARED: a folder that scripts/prepare_data.py --extra and scripts/audit_labels.py have written.
"""

from argparse import Namespace
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.experiments import compare, readme_table


def main(args: Namespace) -> int:
    names = list(filter(None, args.only.split(",")))
    tracking = ("--no-tracking",) if args.no_tracking else ("--tracking-uri", args.tracking_uri)
    folders = readme_table.run(args.data, args.out, names, tracking)
    rows = [compare.read(folder) for folder in folders]
    result = {row.name: {**row.training, "evaluation": row.evaluation.to_sagemaker()} for row in rows}
    _cli.emit(args, result, compare.table(rows))
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset that scripts/prepare_data.py prepared")
    parser.add_argument("--out", type=Path, required=True, help="folder for all outputs")
    parser.add_argument("--only", default="", metavar="NAMES", help="only these experiments, separated by commas")
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    entrypoint.run(main, parser.parse_args())
