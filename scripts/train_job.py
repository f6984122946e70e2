"""Train a recipe as a job of a runner: on another host of a cluster, or on several hosts at once.

    python scripts/train_job.py best --data DATA --out JOB --runner ray --ray-address HOST:PORT [--job-hosts 3]

Run it again after an interruption to resume the training. JOB/model/ has the archive and its evaluation, or the same
folder below --job-store.
"""

import logging
from argparse import Namespace
from pathlib import Path

import _cli
import _options
import _search
from trainer import entrypoint, options
from trainer.experiments import runners
from trainer.experiments.runners import EpochReport, Job
from trainer.training.recipes import RECIPES

NAMES = ("recipe", "epochs", "size_px", "batch_size", "learning_rate", "seed", "architecture", "weights", "precision")
log = logging.getLogger(__name__)


def main(args: Namespace) -> int:
    options.recipe(args.recipe, vars(args))  # refused here, not on a host
    names = (*NAMES, "counts", "limit", "data_seed", "train_share", "drop_suspects", "stop_on")
    values = {name: str(value) for name in names if (value := vars(args)[name]) not in (None, "")}
    data = options.data_spec(vars(args), Path("var/drawn")).source
    environment = {"MLFLOW_TRACKING_URI": "" if args.no_tracking else args.tracking_uri}
    runners.run(runners.runner(args.runner, _search.cluster(args)), Job(args.out, data, values, environment), _log)
    results = f"{args.job_store}/{args.out.name}/model" if args.job_store else str(args.out / "model")
    _cli.emit(args, {"results": results}, f"the archive and its evaluation are in {results}")
    return entrypoint.OK


def _log(epoch: EpochReport) -> bool:
    log.info("epoch %d: validation loss %.4f", epoch.number, epoch.validation_loss)
    return True


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("recipe", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the job")
    parser.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    parser.add_argument("--stop-on", default="", metavar="RULES", help="rules that stop it")
    _options.add_data(parser)
    _options.add_recipe(parser)
    _search.add_runner(parser)
    entrypoint.run(main, parser.parse_args())
