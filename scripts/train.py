"""Train a recipe, log it to MLflow, and leave the archive and evaluation.json in --out.

    python scripts/train.py resnet18-small --data DATA --out out/

Without a reachable MLflow, ``--no-tracking`` trains all the same.
"""

from argparse import Namespace
from pathlib import Path

from trainer import cli
from trainer.job import run_evaluation, run_training
from trainer.recipes import RECIPES
from trainer.tracking import Tracking


def main(args: Namespace) -> int:
    options = vars(args)
    recipe = cli.recipe(args.recipe, options)
    spec = cli.data_spec(options, Path("var/drawn"))
    if args.no_tracking:
        trained = run_training(spec, recipe, args.out, None)
        evaluation = run_evaluation(trained)
    else:
        with Tracking(args.tracking_uri).run(f"train {recipe.name}") as run:
            trained = run_training(spec, recipe, args.out, run)
            evaluation = run_evaluation(trained)
    low, high = evaluation.accuracy_interval
    text = (
        f"{recipe.name}: accuracy {evaluation.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"RMSE {evaluation.rmse:.3f} on {evaluation.photos} test photos; archive {trained.archive}"
    )
    cli.emit(args, {**evaluation.to_sagemaker(), "archive": str(trained.archive)}, text)
    return cli.OK


if __name__ == "__main__":
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument("recipe", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    cli.add_data_options(parser)
    cli.add_recipe_options(parser)
    cli.run(main, parser.parse_args())
