"""Search for hyperparameters: a Bayesian search whose trials are training jobs, nested runs in MLflow.

    python scripts/tune.py --data PREPARED --out STUDY [--trials 5] [--parallel 1] [--architectures resnet,vgg,alexnet]

Run it again after it was killed to resume it; --warm-start STUDY learns from an earlier study. --runner ray runs the
trials on a cluster; with --study postgresql://..., searches on several hosts share a study.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import _cli
import _options
import _search
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
    runner, registry = runners.runner(args.runner, _search.cluster(args)), Registry(args.tracking_uri)
    with tracked_search.parent_run(registry, args.out) as run:
        search = tune.Search(
            out=args.out,
            data=options.data_spec(vars(args), Path("var/drawn")).source,
            fixed=fixed,
            environment={"MLFLOW_TRACKING_URI": args.tracking_uri, "BINWATCH_PARENT_RUN": run.id},
            space=space,
            runner=runner,
            trials=args.trials,
            parallel=args.parallel,
            random_trials=args.random_trials,
            database=args.study,
            study=args.study_name,
        )
        trials = search.run(args.warm_start)
        best = tracked_search.log(run, search, trials)
    text = f"best of {len(trials)} trials: validation loss {best.loss:.4f} with {best.params} (trial {best.number})"
    _cli.emit(args, {"best": asdict(best), "trials": [asdict(trial) for trial in trials], "run": run.id}, text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--recipe", default="hpo-frozen", help="recipe whose hyperparameters are searched")
    _search.add_search(parser)
    _search.add_runner(parser)
    parser.add_argument("--warm-start", type=Path, metavar="STUDY", help="folder of an earlier study")
    _options.add_data(parser)
    _options.add_recipe(parser, exclude=("architecture", "batch-size", "learning-rate"))
    entrypoint.run(main, parser.parse_args())
