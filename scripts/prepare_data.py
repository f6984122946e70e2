"""Turn a source of photos into a prepared dataset: split table, fingerprint, report, decoded photos.

    python scripts/prepare_data.py --data SOURCE --out PREPARED [--counts 1-5] [--extra] [--recounts FOLDER]

Run it again after photos were added: every old photo stays in its split. Train with --data PREPARED.
"""

from argparse import Namespace
from collections import Counter
from pathlib import Path

import _cli
import _options
from trainer import entrypoint
from trainer.data.inspection import write_report
from trainer.data.prepare import prepare
from trainer.data.prepared import REPORT, decoded
from trainer.data.recounts import number_of_recounts
from trainer.options import data_spec


def main(args: Namespace) -> int:
    spec = data_spec(vars(args), args.out.with_name("drawn"))
    prepared = prepare(spec.source, args.out, spec.counts, spec.seed, args.extra, spec.recounts)
    for size_px in args.size_px:
        decoded(prepared, size_px)
    report = write_report(prepared, args.out / REPORT)
    splits = Counter(row.split for row in prepared.rows)
    result = {
        "fingerprint": prepared.fingerprint,
        "photos": dict(splits),
        "recounts": number_of_recounts(prepared.photos()),
        "bins": len({row.bin for row in prepared.rows}),
        "skipped": len(prepared.skipped),
        "report": str(report),
    }
    shares = ", ".join(f"{number} {name}" for name, number in splits.items())
    shares += f" ({result['recounts']} recounts)" if args.recounts else ""
    text = (
        f"{args.out}: version {prepared.fingerprint[:12]}, {shares}, {result['bins']} bins; "
        f"{len(prepared.skipped)} photos left out, named in the report {report}"
    )
    _cli.emit(args, result, text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _options.add_data(parser)
    _options.add_recounts(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the prepared dataset")
    parser.add_argument("--extra", action="store_true", help="also prepare photos of other counts, for the recipe best")
    parser.add_argument("--size-px", type=int, nargs="*", default=[], help="decode the photos at these sizes now")
    entrypoint.run(main, parser.parse_args())
