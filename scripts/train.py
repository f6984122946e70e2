"""Train a recipe, log it to MLflow, and write the archive and evaluation.json to --out.

    python scripts/train.py resnet18-small --data DATA --out out/

Run it again after an interruption to resume the training. ``--no-tracking`` needs no MLflow.
"""

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import _cli
from trainer import entrypoint, options
from trainer.training.recipes import RECIPES

if TYPE_CHECKING:
    from trainer.registry.tracked_run import TrackedRun


def main(args: Namespace) -> int:
    words = vars(args)
    recipe = options.recipe(args.recipe, words)
    spec = options.data_spec(words, Path("var/drawn"))
    # torch and MLflow take seconds to import, so wrong options are reported first
    from trainer.training.run import run_evaluation, run_training

    with nullcontext() if args.no_tracking else _tracked(args.tracking_uri, recipe.name) as run:
        trained = run_training(
            spec, recipe, args.out, run, stop_on=options.stop_on(words), checkpoints=args.checkpoints or args.out
        )
        evaluation = run_evaluation(trained).evaluation
    low, high = evaluation.accuracy_interval
    text = (
        f"{recipe.name}: accuracy {evaluation.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"RMSE {evaluation.rmse:.3f} on {evaluation.photos} test photos; archive {trained.archive}"
    )
    if evaluation.report_mix:
        mix = evaluation.report_mix
        text += (
            f"; weighted to the report's mix of counts: accuracy {mix['accuracy']:.1%}, RMSE {mix['rmse']:.3f}, "
            f"for a model that is told the mix {mix['accuracy_told']:.1%} and {mix['rmse_told']:.3f}"
        )
    _cli.emit(args, {**evaluation.to_sagemaker(), "archive": str(trained.archive)}, text)
    return entrypoint.OK


def _tracked(uri: str, recipe: str) -> "AbstractContextManager[TrackedRun]":
    from trainer.registry.mlflow_registry import Registry

    return Registry(uri).run(f"train {recipe}")


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("recipe", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the archive and the evaluation")
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    _cli.add_data_options(parser)
    _cli.add_recipe_options(parser)
    _cli.add_training_options(parser)
    entrypoint.run(main, parser.parse_args())
