"""Summarise capture and recounts: confidence, verdicts, latency, drift, accuracy, stations, the promise, alerts.

    python scripts/monitor.py [--capture DIR|s3://...] [--since 24h]   once; writes OUT/*.json, logs to MLflow
    python scripts/monitor.py --watch                                  every minute, for ever

BINWATCH_ALERT_* set the thresholds, and BINWATCH_ALERT_WEBHOOK receives the alerts; see .env.example.
"""

import signal
import tempfile
from argparse import Namespace
from pathlib import Path
from threading import Event

import _cli
from serve.monitoring.monitor import Journal, Monitor, parse_window, watch
from serve.monitoring.monitor_settings import MonitorSettings
from serve.monitoring.reader import open_source
from serve.objects.places import open_objects
from trainer import entrypoint


def main(args: Namespace) -> int:
    settings, since = _cli.read_settings(MonitorSettings, args), parse_window(args.since)
    source = open_source(settings.capture, settings.s3_endpoint)
    out = open_objects(settings.monitoring, settings.s3_endpoint)
    recounts = open_objects(settings.recounts, settings.s3_endpoint) if settings.recounts else None
    journal: Journal | None = None
    if not args.no_tracking:
        from trainer.reporting import monitoring_runs  # MLflow takes 1.5 s and 130 MB, and is optional
        from trainer.reporting.history import HistoryExporter

        history = HistoryExporter(settings.tracking_uri, out)
        journal = monitoring_runs.Journal(settings.tracking_uri, history)
    webhook = settings.alert_webhook or ""
    monitor = Monitor(source, out, since, settings.thresholds, webhook, journal, recounts, settings.alpha)
    if args.watch:
        stop = Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        watch(monitor.run_once, args.heartbeat, args.interval, stop)
        return entrypoint.OK
    report = monitor.run_once()
    alerts = "; ".join(alert.message for alert in report.alerts) or "none"
    text = f"{report.records} records, {report.unreadable} lines unreadable; alerts: {alerts}"
    _cli.emit(args, report.to_json(), text)
    return entrypoint.OK


if __name__ == "__main__":
    parser = _cli.parser(__doc__.splitlines()[0])
    _cli.add_settings(parser, MonitorSettings, "capture", "monitoring")
    parser.add_argument("--since", default="24h", help="how far back: 30m, 24h, 7d")
    parser.add_argument("--watch", action="store_true", help="run until SIGTERM")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two reports")
    parser.add_argument("--no-tracking", action="store_true", help="do without MLflow, and so without drift")
    beat = Path(tempfile.gettempdir(), "binwatch-monitor")
    parser.add_argument("--heartbeat", type=Path, default=beat, help="file that each report touches")
    entrypoint.run(main, parser.parse_args())
