"""Gives Prometheus the monitoring's report and the history, which are read with each scrape."""

import logging
from collections.abc import Iterator, Mapping
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import TypeAdapter, ValidationError

from serve.errors import BinwatchError
from serve.gateway.exposition.monitoring_files import HISTORY_FILE, MONITORING_FILE, HistoryFile, MonitoringFile
from serve.objects.object_store import ObjectStore

log = logging.getLogger(__name__)

MONITORING, HISTORY = "monitoring.json", "history.json"
MAX_ALERTS = 30
"""Alerts with a series of their own; those of many stations would be as many."""
Content = TypeVar("Content")


class MonitoringCollector(Collector):
    """A collector for a ``CollectorRegistry``; it waits for the place of the files, which may be a bucket."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def collect(self) -> Iterator[Metric]:
        """The metrics; what a file does not have is missing, and so is all of a file that cannot be read."""
        report = self._read(MONITORING, MONITORING_FILE)
        history = self._read(HISTORY, HISTORY_FILE)
        readable = _gauge("binwatch_monitoring_readable", "Whether a file of the monitoring could be read", "file")
        readable.add_metric([MONITORING], report is not None)
        readable.add_metric([HISTORY], history is not None)
        yield readable
        if report:
            yield from report_metrics(report)
        if history:
            yield from history_metrics(history)

    def _read(self, name: str, adapter: TypeAdapter[Content]) -> Content | None:
        try:
            stored = self._objects.read(name)
            return adapter.validate_json(stored.content) if stored else None
        except ValidationError as error:
            log.warning("%s has another shape: %s", name, error.errors(include_url=False)[0]["msg"])
        except (BinwatchError, OSError) as error:
            log.warning("%s cannot be read: %s", name, error)
        return None


def report_metrics(report: MonitoringFile) -> Iterator[Metric]:
    """The metrics of a report. Shares are 0-1, over its window of 24 h unless ``monitor.py --since`` says otherwise."""
    totals, verdicts = report.totals, sum(report.totals.verdicts.values())
    numbers = {
        "binwatch_monitoring_timestamp_seconds": ("Time of the last report", report.made_at.timestamp()),
        "binwatch_monitoring_requests": ("Requests in the report's window", totals.requests),
        "binwatch_monitoring_errors": ("Requests without an answer in the window", totals.errors),
        "binwatch_monitoring_feedback": ("Answers with ground truth in the window", totals.feedback),
        "binwatch_monitoring_not_a_bin": ("Verdicts on photos that show no bin", totals.not_a_bin),
        "binwatch_monitoring_unreadable_lines": ("Lines of the capture that cannot be read", report.unreadable),
        "binwatch_confidence_mean_ratio": ("Mean confidence", totals.confidence_mean),
        "binwatch_alarm_ratio": (
            "Share of verdicts that are mismatches",
            totals.verdicts.get("mismatch", 0) / verdicts if verdicts else None,
        ),
        "binwatch_accuracy_ratio": ("Share of answers with ground truth that are right", totals.accuracy),
        "binwatch_accuracy_estimated_ratio": (
            "The same of all answers, by their confidence",
            totals.accuracy_estimated,
        ),
    }
    for name, (text, value) in numbers.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, value=value)
    yield _labelled("binwatch_monitoring_verdicts", "Verdicts in the window", "verdict", totals.verdicts)
    yield _labelled("binwatch_monitoring_answers", "Answers in the window", "version", report.model_versions)
    drift = {index.name: index.psi for index in report.drift if index.psi is not None}
    yield _labelled("binwatch_drift_psi", "Population stability index against the reference", "statistic", drift)
    alerts = dict.fromkeys([alert.name for alert in report.alerts][:MAX_ALERTS], 1)
    yield _labelled("binwatch_monitoring_alert", "1 for an alert of the monitoring that is active", "alert", alerts)


def history_metrics(history: HistoryFile) -> Iterator[Metric]:
    """The metrics of the champion and of the last execution."""
    champion = next((period for period in history.served if period.end is None), None)
    if champion:
        yield _labelled("binwatch_champion_info", "The version that serves", "version", {champion.version: 1})
        since_s = champion.start.timestamp()
        yield GaugeMetricFamily("binwatch_champion_since_timestamp_seconds", "Since when it serves", value=since_s)
    if history.executions:
        last = history.executions[0]
        info = _gauge("binwatch_execution_last_info", "The last execution", "status", "decision")
        info.add_metric([last.status, last.decision], 1)
        yield info
        numbers = {
            "binwatch_execution_last_start_timestamp_seconds": ("When it started", last.started.timestamp()),
            "binwatch_execution_last_duration_seconds": ("How long it took", last.seconds),
            "binwatch_execution_last_failed": ("Whether it failed", float(last.status == "failed")),
        }
        for name, (text, value) in numbers.items():
            yield GaugeMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = _gauge(name, text, label)
    for key, value in values.items():
        family.add_metric([key], value)
    return family
