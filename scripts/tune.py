"""Search for hyperparameters: a Bayesian search whose trials are training jobs, nested runs in MLflow.

    python scripts/tune.py --data PREPARED --out STUDY [--trials 5] [--parallel 1] [--architectures resnet,vgg,alexnet]

Run it again after it was killed to resume it; --warm-start STUDY learns from an earlier study.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import _cli
import _options
from trainer import entrypoint, options
from trainer.experiments import runners, tracked_search, tune
from trainer.registry.mlflow_registry import Registry
from trainer.training.networks import ARCHITECTURES


def main(args: Namespace) -> int:
    recipe = options.recipe(args.recipe, vars(args))
    names = ("recipe", "epochs", "size_px", "weights", "seed", "counts", "limit", "data_seed")
    values = {**vars(args), "epochs": recipe.epochs}
    fixed = {name: str(values[name]) for name in names if values.get(name) not in (None, "")}
    space = tune.Space(tune.architectures(args.architectures, list(ARCHITECTURES)))
    registry = Registry(args.tracking_uri)
    with tracked_search.parent_run(registry, args.out) as run:
        search = tune.Search(
            out=args.out,
            data=options.data_spec(vars(args), Path("var/drawn")).source,
            fixed=fixed,
            environment={"MLFLOW_TRACKING_URI": args.tracking_uri, "BINWATCH_PARENT_RUN": run.id},
            space=space,
            runner=runners.runner(args.runner),
            trials=args.trials,
            parallel=args.parallel,
        )
        trials = search.run(args.warm_start)
        best = tracked_search.log(run, args.out, trials)
    text = f"best of {len(trials)} trials: validation loss {best.loss:.4f} with {best.params} (trial {best.number})"
    _cli.emit(args, {"best": asdict(best), "trials": [asdict(trial) for trial in trials], "run": run.id}, text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--recipe", default="hpo-frozen", help="recipe whose hyperparameters are searched")
    parser.add_argument("--architectures", default="resnet,vgg,alexnet", help="networks to choose from")
    parser.add_argument("--trials", type=int, default=5, help="number of trials")
    parser.add_argument("--parallel", type=int, default=1, help="parallel jobs")
    parser.add_argument("--runner", default="process", help=f"where jobs run: {', '.join(runners.RUNNERS)}")
    parser.add_argument("--warm-start", type=Path, metavar="STUDY", help="folder of an earlier study")
    _options.add_data(parser)
    _options.add_recipe(parser, exclude=("architecture", "batch-size", "learning-rate"))
    entrypoint.run(main, parser.parse_args())
