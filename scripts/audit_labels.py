"""Find the photos whose record most likely disagrees with what is in the bin.

    python scripts/audit_labels.py --data PREPARED [--show 200]

Look through PREPARED/audit.html; then train with --drop-suspects 0.02, or with --relabel-file relabel.csv.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import _cli
from trainer import entrypoint
from trainer.data.audit import audit, summary, write_audit
from trainer.data.prepared import AUDIT, audit_table, read
from trainer.training.features import layout_features


def main(args: Namespace) -> int:
    prepared = read(args.data)
    result = audit(prepared, layout_features(prepared), args.seed)
    write_audit(prepared, result, args.show)
    fields = {
        "photos": len(result.doubts),
        "wrong_at_most": result.wrong_at_most,
        "cleanlab": result.cleanlab,
        "planted_found": result.recall,
        "most_doubted": [asdict(doubt) for doubt in result.doubts[: args.show]],
        "table": str(audit_table(prepared)),
        "page": str(args.data / AUDIT),
    }
    _cli.emit(args, fields, f"{summary(result)}. Look through {args.data / AUDIT}")
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset that scripts/prepare_data.py prepared")
    parser.add_argument("--show", type=int, default=200, help="photos on the contact sheet")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds and of the falsified records")
    entrypoint.run(main, parser.parse_args())
