"""Promote what the gate approved, and make TorchServe follow the champion; with --watch, for ever.

    python scripts/promote.py                   decide what is undecided, promote what is approved, once
    python scripts/promote.py --watch           the promoter; with --autoscale it keeps the workers busy too
    python scripts/promote.py --rollback [WHY]  return to the version before, also while a promoter watches
    python scripts/promote.py --explain [V]     why the newest version, or V, was let through or refused, in plain words
    python scripts/promote.py --dry-run         promote and change nothing: log what autoscaling would do, for ever

Once: exit code 3 when the newest version was refused, rolled back or its canary failed.
"""

import os
import signal
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Event

from serve import autoscale, probation
from serve.rollout import Rollout
from serve.torchserve import Inference, Management, Metrics
from trainer import cli, decisions, policy, tracking
from trainer.promoter import Promoter, watch
from trainer.tracking import Tracking


def main(args: Namespace) -> int:
    management, counted = Management(args.management_url), Metrics(args.metrics_url)
    watched = probation.policy_from(os.environ)
    server = Rollout(Inference(args.inference_url), management, args.model_store, args.workers, counted, watched)
    if args.watch or args.dry_run:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        scaler = autoscale.Autoscaler(management, counted, server, autoscale.policy_from(os.environ), args.dry_run)
    if args.dry_run:
        autoscale.watch(scaler, args.interval, stop)
        return cli.OK
    registry = Tracking(args.tracking_uri)
    if args.explain:
        decision, text = decisions.tell(registry, args.explain)
        cli.emit(args, decision.to_json(), text)
        return cli.OK
    accuracy_file, wanted = args.model_store / "accuracy.json", policy.from_options(vars(args))
    promoter = Promoter(registry, server, accuracy_file, wanted, args.verify_key)
    if args.watch:
        watch(promoter, args.heartbeat, args.interval, stop, scaler.step if args.autoscale else None)
        return cli.OK
    outcome = promoter.reconcile() if args.rollback is None else promoter.roll_back(args.rollback)
    cli.emit(args, vars(outcome), f"{outcome.did} version {outcome.version or '-'}: {outcome.reason}")
    refused = {tracking.REFUSED, tracking.REJECTED, tracking.ROLLED_BACK}
    newest = registry.versions()[:1]
    return cli.REFUSED if args.rollback is None and newest and newest[0].status in refused else cli.OK


if __name__ == "__main__":
    parser = cli.parser(__doc__.splitlines()[0])
    cli.add_server_options(parser, min(autoscale.MOST_WORKERS, len(os.sched_getaffinity(0))))
    autoscaled = os.environ.get("BINWATCH_AUTOSCALE") == "1"
    parser.add_argument("--autoscale", action="store_true", default=autoscaled, help="by load")
    parser.add_argument("--dry-run", action="store_true", help="only log what autoscaling would do")
    parser.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    parser.add_argument("--rollback", nargs="?", const="by hand", metavar="WHY", help="to the version before")
    parser.add_argument("--explain", nargs="?", const=decisions.NEWEST, metavar="VERSION", help="tell a decision")
    policy.add_options(parser)
    parser.add_argument("--interval", type=float, default=3.0, help="seconds between two rounds")
    parser.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-promoter"))
    cli.run(main, parser.parse_args())
