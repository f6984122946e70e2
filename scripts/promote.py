"""Promote what the gate approved, and make TorchServe follow the champion; with --watch, for ever.

    python scripts/promote.py                   decide what is undecided, promote what is approved, once
    python scripts/promote.py --watch           the promoter; with --autoscale it keeps the workers busy too
    python scripts/promote.py --rollback [WHY]  return to the version before, also while a promoter watches
    python scripts/promote.py --explain [V]     why the newest version, or V, was let through or refused, in plain words
    python scripts/promote.py --history         what served when, and why
    python scripts/promote.py --dry-run         promote and change nothing: log what autoscaling would do, for ever

Once: exit code 3 when the newest version was refused, rolled back or its canary failed.
"""

import os
import signal
from argparse import Namespace
from threading import Event

import _cli
from serve.rollout import autoscale, probation
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from trainer import entrypoint
from trainer.evaluation import policy
from trainer.promotion import decisions
from trainer.promotion.promoter import Promoter, watch
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import UNWANTED
from trainer.reporting import history


def main(args: Namespace) -> int:
    management, counted = Management(args.management_url), Metrics(args.metrics_url)
    server = Rollout(
        Inference(args.inference_url),
        management,
        args.model_store,
        args.workers,
        counted,
        probation.policy_from(os.environ),
    )
    if args.watch or args.dry_run:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        scaler = autoscale.Autoscaler(management, counted, server, autoscale.policy_from(os.environ), args.dry_run)
    if args.dry_run:
        autoscale.watch(scaler, args.interval, stop)
        return entrypoint.OK
    registry = Registry(args.tracking_uri)
    if args.explain:
        decision, text = decisions.tell(registry, args.explain)
        _cli.emit(args, decision.to_json(), text)
    if args.history:
        _cli.emit(args, *history.tell(args.tracking_uri))
    if args.explain or args.history:
        return entrypoint.OK
    accuracy_file, wanted = args.model_store / "accuracy.json", policy.from_options(vars(args))
    promoter = Promoter(registry, server, accuracy_file, wanted, args.verify_key)
    if args.watch:
        os.nice(5)  # where it shares a machine with those who answer, they come first
        watch(promoter, args.heartbeat, args.interval, stop, scaler.step if args.autoscale else None)
        return entrypoint.OK
    outcome = promoter.reconcile() if args.rollback is None else promoter.roll_back(args.rollback)
    _cli.emit(args, vars(outcome), f"{outcome.did} version {outcome.version or '-'}: {outcome.reason}")
    unwanted = UNWANTED & {each.status for each in registry.versions()[:1]}
    return entrypoint.REFUSED if unwanted and args.rollback is None else entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_promoter_options(parser, min(autoscale.MOST_WORKERS, len(os.sched_getaffinity(0))))
    parser.add_argument("--rollback", nargs="?", const="by hand", metavar="WHY", help="to the version before")
    parser.add_argument("--explain", nargs="?", const=decisions.NEWEST, metavar="VERSION", help="tell a decision")
    parser.add_argument("--history", action="store_true", help="what served when")
    policy.add_options(parser)
    entrypoint.run(main, parser.parse_args())
