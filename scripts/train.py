"""Train a recipe, log it to MLflow, and write the archive and evaluation.json to --out.

    python scripts/train.py resnet18-small --data DATA --out out/

Run it again after an interruption to resume the training. ``--no-tracking`` needs no MLflow.
"""

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import _cli
import _options
from trainer import entrypoint, options
from trainer.training.recipes import RECIPES

if TYPE_CHECKING:
    from trainer.registry.tracked_run import TrackedRun


def main(args: Namespace) -> int:
    words = vars(args)
    recipe = options.recipe(args.recipe, words)
    spec = options.data_spec(words, Path("var/drawn"))
    # torch and MLflow take seconds to import, so wrong options are reported first
    from trainer.evaluation.explain import accuracy_in_words
    from trainer.training.run import run_evaluation, run_training

    with nullcontext() if args.no_tracking else _tracked(args.tracking_uri, recipe.name) as run:
        trained = run_training(
            spec, recipe, args.out, run, stop_on=options.stop_on(words), checkpoints=args.checkpoints or args.out
        )
        evaluation = run_evaluation(trained).evaluation
    accuracy, mix = accuracy_in_words(evaluation)
    text = "; ".join(filter(None, (f"{recipe.name}: {accuracy}", f"archive {trained.archive}", mix)))
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
    _options.add_data(parser)
    _options.add_recounts(parser)
    _options.add_recipe(parser)
    _options.add_training(parser)
    entrypoint.run(main, parser.parse_args())
