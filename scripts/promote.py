"""Promote what the gate approved, and make TorchServe follow the champion; with --watch, for ever.

    python scripts/promote.py            decide what is undecided, promote what is approved, once
    python scripts/promote.py --watch    the promoter; with --autoscale it keeps the workers busy too
    python scripts/promote.py --dry-run  promote and change nothing: log what autoscaling would do, for ever

Once: exit code 3 when the newest version was refused or its canary failed.
"""

import os
import signal
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Event

from serve import autoscale
from serve.rollout import Rollout
from serve.torchserve import Inference, Management, Metrics
from trainer import cli, tracking
from trainer.promoter import Promoter, watch
from trainer.tracking import Tracking


def main(args: Namespace) -> int:
    management = Management(args.management_url)
    server = Rollout(Inference(args.inference_url), management, args.model_store, args.workers)
    if args.watch or args.dry_run:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        counted, policy = Metrics(args.metrics_url), autoscale.policy_from(os.environ)
        scaler = autoscale.Autoscaler(management, counted, server, policy, args.dry_run)
    if args.dry_run:
        autoscale.watch(scaler, args.interval, stop)
        return cli.OK
    registry = Tracking(args.tracking_uri)
    promoter = Promoter(registry, server, args.model_store / "accuracy.json")
    if args.watch:
        watch(promoter, args.heartbeat, args.interval, stop, scaler.step if args.autoscale else None)
        return cli.OK
    outcome = promoter.reconcile()
    cli.emit(args, vars(outcome), f"{outcome.did} version {outcome.version or '-'}: {outcome.reason}")
    refused = {tracking.REFUSED, tracking.REJECTED} & {each.status for each in registry.versions()[:1]}
    return cli.REFUSED if refused else cli.OK


if __name__ == "__main__":
    get = os.environ.get
    parser = cli.parser(__doc__.splitlines()[0])
    for name, port in (("inference", 8080), ("management", 8081), ("metrics", 8082)):
        parser.add_argument(f"--{name}-url", default=get(f"BINWATCH_{name.upper()}_URL", f"http://127.0.0.1:{port}"))
    parser.add_argument("--model-store", type=Path, default=Path(get("BINWATCH_MODEL_STORE", "var/models")))
    workers = int(get("BINWATCH_WORKERS") or min(autoscale.MOST_WORKERS, len(os.sched_getaffinity(0))))
    parser.add_argument("--workers", type=int, default=workers, help="a version starts with")
    parser.add_argument("--autoscale", action="store_true", default=get("BINWATCH_AUTOSCALE") == "1", help="by load")
    parser.add_argument("--dry-run", action="store_true", help="only log what autoscaling would do")
    parser.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    parser.add_argument("--interval", type=float, default=3.0, help="seconds between two rounds")
    parser.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-promoter"))
    cli.run(main, parser.parse_args())
