"""Run the pipeline: train, evaluate, gate, and wait for the promoter's verdict.

python scripts/pipeline.py [--recipe R] [--data D]   one execution; exit code 3: refused
python scripts/pipeline.py --watch                   an execution whenever there is no champion
"""

import os
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

from trainer import cli
from trainer.pipeline import execute, wait_for_promoter, watch
from trainer.tracking import Tracking


def main(args: Namespace) -> int:
    options = vars(args)
    recipe = cli.recipe(args.recipe, options)
    spec = cli.data_spec(options, args.state / "drawn")
    registry = Tracking(args.tracking_uri)
    run = partial(execute, registry, spec, recipe, partial(wait_for_promoter, registry))
    if args.watch:
        watch(registry, run, args.heartbeat, args.interval)
    execution = run()
    cli.emit(args, execution.to_json(), f"{execution.decision}: {'; '.join(execution.reasons)}")
    return cli.OK if execution.decision == "promoted" else cli.REFUSED


if __name__ == "__main__":
    get = os.environ.get
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--recipe", default=get("BINWATCH_RECIPE") or "resnet18-small")
    parser.add_argument("--state", type=Path, default=Path(get("BINWATCH_STATE", "var")), help="for drawn bins")
    parser.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-trainer"))
    cli.add_data_options(parser)
    cli.add_recipe_options(parser)
    cli.run(main, parser.parse_args())
