"""Summarise the data capture: confidence, counts, verdicts, latency, drift, accuracy from late ground truth, alerts.

    python scripts/monitor.py [--capture DIR|s3://...] [--since 24h]   once; writes OUT/*.json, logs to MLflow
    python scripts/monitor.py --watch                                  every minute, for ever

BINWATCH_ALERT_* set the thresholds, BINWATCH_ALERT_WEBHOOK is told of alerts; see .env.example.
"""

import os
import signal
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Event

import _cli
from serve.monitoring import drift
from serve.monitoring.monitor import Monitor, span, watch
from serve.monitoring.reader import place_of
from trainer import entrypoint


def main(args: Namespace) -> int:
    limits, webhook = drift.thresholds_from(os.environ), drift.webhook_from(os.environ)
    since = span(args.since)
    place = place_of(args.capture, os.environ.get("BINWATCH_S3_ENDPOINT") or None)
    if args.no_tracking:
        monitor = Monitor(place, args.out, since, limits, webhook)
    else:
        from trainer.reporting.history import Chronicle  # MLflow takes 1.5 s and 130 MB, and need not be there
        from trainer.reporting.monitoring_runs import Journal

        journal = Journal(args.tracking_uri, Chronicle(args.tracking_uri, args.out))
        monitor = Monitor(place, args.out, since, limits, webhook, journal)
    if args.watch:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        watch(monitor.look, args.heartbeat, args.interval, stop)
        return entrypoint.OK
    report = monitor.look()
    told = "; ".join(alert.message for alert in report.alerts) or "none"
    _cli.emit(args, report.to_json(), f"{report.records} records, {report.unreadable} lines unreadable; alerts: {told}")
    return entrypoint.OK


if __name__ == "__main__":
    get = os.environ.get
    parser = _cli.parser(__doc__.splitlines()[0])
    parser.add_argument("--capture", default=get("BINWATCH_CAPTURE") or "var/capture", help="folder or s3://...")
    parser.add_argument("--out", type=Path, default=Path(get("BINWATCH_MONITORING") or "var/monitoring"))
    parser.add_argument("--since", default="24h", help="how far back: 30m, 24h, 7d")
    parser.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two looks")
    parser.add_argument("--no-tracking", action="store_true", help="without MLflow, and so without drift")
    parser.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-monitor"))
    entrypoint.run(main, parser.parse_args())
