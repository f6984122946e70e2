"""Run the pipeline: prepare, train, evaluate, gate, and wait for the promoter's verdict.

python scripts/pipeline.py [--recipe R] [--data D]   one execution; exit code 3: refused
python scripts/pipeline.py --resume EXECUTION        go on with one from its first unfinished step
python scripts/pipeline.py --watch                   an execution whenever one is due, for ever
"""

import os
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial

import _cli
from serve.monitoring import alerts, drift
from trainer import entrypoint
from trainer.data import transfer
from trainer.evaluation import policy
from trainer.options import data_spec, recipe
from trainer.pipeline import retention, triggers, watcher
from trainer.pipeline.execution import ExecutionRequest
from trainer.pipeline.pipeline import ExecutionOptions, wait_for_promoter
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry


def main(args: Namespace) -> int:
    options, uri = vars(args), args.data if str(args.data).startswith("s3://") else ""
    mirror = {"data": str(transfer.mirror_folder(uri, args.state / "s3"))} if uri else {}
    spec = data_spec({**options, **mirror}, args.state / "drawn")
    request = ExecutionRequest(spec, recipe(args.recipe, options), uri)
    settled_s, trusted = 60.0 if args.watch else 0.0, signing.ensure_local_keys(args.state)
    how = ExecutionOptions(
        args.state, args.cache, policy=policy.from_options(options), settled_s=settled_s, trusted=trusted
    )
    limits, kept = triggers.limits_from(os.environ), retention.policy_from(os.environ)
    registry, webhook = Registry(args.tracking_uri), drift.webhook_from(os.environ)
    places = retention.places_of(registry, options, os.environ)
    keeper = watcher.PipelineWatcher(
        registry,
        request,
        partial(wait_for_promoter, registry),
        how,
        limits=limits,
        monitoring=args.monitoring,
        tell=partial(tell, webhook),
        prune=partial(retention.prune, places, kept),
    )
    if args.watch:
        keeper.watch(args.heartbeat, args.interval)
    execution = keeper.resume(args.resume) if args.resume else keeper.once()
    _cli.emit(args, execution.to_json(), f"{execution.decision}: {'; '.join(execution.reasons)}")
    return entrypoint.OK if execution.decision == "promoted" else entrypoint.REFUSED


def tell(webhook: str, failing: bool, reason: str) -> None:
    """An execution that fails is an alert, as what the monitoring finds is."""
    event = "alert started" if failing else "alert ended"
    alert = drift.Alert("failed execution", float(failing), 0.0, reason)
    alerts.tell([(event, alert)], webhook, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--recipe", default=os.environ.get("BINWATCH_RECIPE") or "resnet18-small")
    watcher.add_options(parser)
    _cli.add_data_options(parser)
    _cli.add_recipe_options(parser)
    policy.add_options(parser)
    entrypoint.run(main, parser.parse_args())
