"""Promote what the gate approved, and make TorchServe follow the champion; with --watch, for ever.

    python scripts/promote.py            decide what is undecided, promote what is approved, once
    python scripts/promote.py --watch    the promoter

Once: exit code 3 when the newest version was refused or its canary failed.
"""

import os
import signal
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Event

from serve.rollout import Rollout
from serve.torchserve import Inference, Management
from trainer import cli, tracking
from trainer.promoter import Promoter, watch
from trainer.tracking import Tracking


def main(args: Namespace) -> int:
    registry = Tracking(args.tracking_uri)
    server = Rollout(Inference(args.inference_url), Management(args.management_url), args.model_store, args.workers)
    promoter = Promoter(registry, server, args.model_store / "accuracy.json")
    if args.watch:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        watch(promoter, args.heartbeat, args.interval, stop)
        return cli.OK
    outcome = promoter.reconcile()
    cli.emit(args, vars(outcome), f"{outcome.did} version {outcome.version or '-'}: {outcome.reason}")
    newest = next(iter(registry.versions()), None)
    refused = newest is not None and newest.status in (tracking.REFUSED, tracking.REJECTED)
    return cli.REFUSED if refused else cli.OK


if __name__ == "__main__":
    get = os.environ.get
    parser = cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--inference-url", default=get("BINWATCH_INFERENCE_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--management-url", default=get("BINWATCH_MANAGEMENT_URL", "http://127.0.0.1:8081"))
    parser.add_argument("--model-store", type=Path, default=Path(get("BINWATCH_MODEL_STORE", "var/models")))
    parser.add_argument("--workers", type=int, default=int(get("BINWATCH_WORKERS") or 1), help="a version")
    parser.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    parser.add_argument("--interval", type=float, default=3.0, help="seconds between two rounds")
    parser.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-promoter"))
    cli.run(main, parser.parse_args())
