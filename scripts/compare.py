"""Compare trainings: accuracy, RMSE, time; and how much better the first is than each of the rest.

    python scripts/compare.py OUT [OUT...]      folders that scripts/train.py --out has written

The difference comes with a 95 % interval; one that holds 0 may be luck.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.experiments import compare


def main(args: Namespace) -> int:
    rows = [compare.read(folder) for folder in args.folders]
    first, *rest = args.folders
    differences = {str(folder): compare.difference(first, folder) for folder in rest}
    lines = [compare.table(rows), ""]
    for folder, difference in differences.items():
        low, high = difference.interval
        lines.append(
            f"{first} against {folder}: {100 * difference.accuracy:+.1f} points "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}) on {difference.photos} test photos"
        )
    result = {
        "trainings": [
            {"name": row.name, "training": row.training, "evaluation": asdict(row.evaluation)} for row in rows
        ],
        "differences": {folder: asdict(difference) for folder, difference in differences.items()},
    }
    _cli.emit(args, result, "\n".join(lines).rstrip())
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="OUT", help="output folders of trainings")
    entrypoint.run(main, parser.parse_args())
