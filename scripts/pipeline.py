"""Run the pipeline: prepare, train, evaluate, gate, and wait for the promoter's decision.

python scripts/pipeline.py [--recipe R] [--data D]   one execution; exit code 3: refused
python scripts/pipeline.py --resume EXECUTION        resume one at its first unfinished step
python scripts/pipeline.py --watch                   an execution whenever one is due, for ever
"""

from argparse import Namespace
from datetime import UTC, datetime
from functools import partial

import _cli
from serve.monitoring import alerts, drift
from trainer import entrypoint, options
from trainer.data import transfer
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline import retention, watcher
from trainer.pipeline.execution import ExecutionRequest
from trainer.pipeline.pipeline import ExecutionOptions, wait_for_promoter
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry

SETTINGS = ("recipe", "state", "monitoring", "capture", "data", "counts", "limit", "epochs")


def main(args: Namespace) -> int:
    settings = _cli.read_settings(TrainerSettings, args)
    words, state, data = {**vars(args), **dict(settings)}, settings.state, settings.data or ""
    if data.startswith("s3://"):
        words["data"] = str(transfer.mirror_folder(data, state / "s3"))
    request = ExecutionRequest(
        options.data_spec(words, state / "drawn"),
        options.recipe(settings.recipe, words),
        uri=data if data.startswith("s3://") else "",
    )
    registry = Registry(settings.tracking_uri)
    places = retention.Places(registry, settings.capture, state, settings.s3_endpoint)
    pipeline_watcher = watcher.PipelineWatcher(
        registry,
        request,
        partial(wait_for_promoter, registry),
        ExecutionOptions(
            state=state,
            cache=args.cache,
            policy=settings.gate,
            settled_s=60.0 if args.watch else 0.0,
            trusted=signing.ensure_local_keys(state),
            recovery_s=90.0,
        ),
        limits=settings.limits,
        monitoring=settings.monitoring,
        notify=partial(notify, settings.alert_webhook or ""),
        prune=partial(retention.prune, places, settings.retention),
    )
    if args.watch:
        pipeline_watcher.watch(args.heartbeat, args.interval)
    execution = pipeline_watcher.resume(args.resume) if args.resume else pipeline_watcher.run_once()
    _cli.emit(args, execution.to_json(), f"{execution.decision}: {'; '.join(execution.reasons)}")
    return entrypoint.OK if execution.decision == "promoted" else entrypoint.REFUSED


def notify(webhook: str, is_failing: bool, reason: str) -> None:
    """Raise or end the alert that executions fail."""
    event = alerts.AlertEvent.STARTED if is_failing else alerts.AlertEvent.ENDED
    alert = drift.Alert("failed execution", float(is_failing), 0.0, reason)
    alerts.notify([(event, alert)], webhook, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_settings(parser, TrainerSettings, *SETTINGS)
    watcher.add_options(parser)
    _cli.add_data_options(parser, exclude=("data", "counts", "limit"))
    _cli.add_recipe_options(parser, exclude=("epochs",))
    _cli.add_settings(parser, GatePolicy)
    entrypoint.run(main, parser.parse_args())
