"""Run the pipeline: prepare, train, evaluate, gate, and wait for the promoter's decision.

python scripts/pipeline.py [--recipe R] [--data D]   one execution; exit code 3: refused
python scripts/pipeline.py --resume EXECUTION        resume one at its first unfinished step
python scripts/pipeline.py --watch                   an execution whenever one is due, for ever
"""

from argparse import Namespace
from functools import partial

import _cli
import _options
from serve.monitoring import alerts
from trainer import entrypoint
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline import watcher
from trainer.pipeline.programs import build_watcher
from trainer.pipeline.trainer_settings import TrainerSettings

SETTINGS = ("recipe", "state", "monitoring", "capture", "data", "counts", "limit", "epochs", "recounts")


def main(args: Namespace) -> int:
    settings = _cli.read_settings(TrainerSettings, args)
    notify = partial(alerts.notify_of_failures, settings.alert_webhook or "")
    pipeline_watcher = build_watcher(settings, vars(args), notify)
    if args.watch:
        pipeline_watcher.watch(args.heartbeat, args.interval)
    execution = pipeline_watcher.resume(args.resume) if args.resume else pipeline_watcher.run_once()
    _cli.emit(args, execution.to_json(), f"{execution.decision}: {'; '.join(execution.reasons)}")
    return entrypoint.OK if execution.decision == "promoted" else entrypoint.REFUSED


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_settings(parser, TrainerSettings, *SETTINGS)
    watcher.add_options(parser)
    _options.add_data(parser, exclude=("data", "counts", "limit"))
    _options.add_recipe(parser, exclude=("epochs",))
    _cli.add_settings(parser, GatePolicy)
    entrypoint.run(main, parser.parse_args())
