"""Reads the capture, summarises it, writes ``monitoring.json``, notifies of alerts and logs the report to MLflow.

python scripts/monitor.py --capture DIR --out DIR [--watch]
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Protocol

from serve.errors import OUTSIDE, BinwatchError, DataError, SettingsError, TrackingError, sentence
from serve.monitoring import alerts, capture_rows
from serve.monitoring.drift import Alert, checked_reference
from serve.monitoring.monitor_settings import ALPHA, Thresholds
from serve.monitoring.reader import CaptureSource, Reader
from serve.monitoring.report import Reference, Report, summarise
from serve.objects.object_store import ObjectStore
from serve.recount.json_index import JsonIndex
from serve.recount.queue_store import SETTLED
from serve.recount.recount_entities import parse_recount

log = logging.getLogger(__name__)

FILE = "monitoring.json"
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Journal(Protocol):
    """Provides references and logs reports; implemented by ``trainer.reporting.monitoring_runs.Journal``."""

    def reference(self) -> tuple[str, Mapping[str, object]] | None:
        """The version that serves, and what its answers are compared with. Raises TrackingError."""

    def comparison(self) -> Mapping[str, object] | None:
        """How the newest challenger does beside the champion on live traffic, if one was. Raises TrackingError."""

    def log(self, report: Mapping[str, object]) -> None:
        """Log a report. Raises TrackingError."""


class Monitor:
    """Creates reports on a capture; each run only reads what is new since the last one.

    ``out``: where ``monitoring.json`` is written; ``window``: how far back a report reaches; ``recounts``:
    BINWATCH_RECOUNTS, none for no recounts; ``alpha``: the share of right records that may raise the alarm (0-1).
    """

    def __init__(
        self,
        source: CaptureSource,
        out: ObjectStore,
        window: timedelta,
        thresholds: Thresholds,
        webhook: str = "",
        journal: Journal | None = None,
        recounts: ObjectStore | None = None,
        alpha: float = ALPHA,
    ) -> None:
        self._out, self._window, self._thresholds = out, window, thresholds
        self._webhook, self._journal = webhook, journal
        self._reference: Reference | None = None
        self._comparison: Mapping[str, object] | None = None
        self._problem = ""
        self._recounts = JsonIndex(recounts, SETTLED, parse_recount) if recounts else None
        self._alpha = alpha
        self._answers = Reader(source, capture_rows.ANSWERS, capture_rows.parse_traffic, capture_rows.ANSWER_DTYPE)
        self._truths = Reader(source, capture_rows.TRUTHS, capture_rows.parse_truth, capture_rows.TRUTH_DTYPE)

    def run_once(self, now: datetime | None = None) -> Report:
        """Create the report as of ``now``, write it, and notify of alerts that started or ended.

        Raises DataError if the capture cannot be read or the report cannot be written. Raises TrackingError if the
        journal does not answer, but only after writing the report with the last known reference.
        """
        tracking_error = self._update_reference()
        now = now or datetime.now(UTC)
        first_day = (now - self._window).date()
        answers, unreadable_answers = self._answers.rows(first_day, now.date())
        truths, unreadable_truths = self._truths.rows(first_day, now.date())
        unreadable = unreadable_answers + unreadable_truths
        report = summarise(
            answers,
            truths,
            unreadable,
            now,
            self._window,
            self._reference,
            self._thresholds,
            list(self._recounts.refresh().values()) if self._recounts else (),
            self._alpha,
            self._comparison,
        )
        events = alerts.diff(last_alerts(self._out), report.alerts)
        write(report, self._out)
        alerts.notify(events, self._webhook, report.made_at)
        if tracking_error:
            raise tracking_error
        if self._journal:
            self._journal.log(report.to_json())
        return report

    def _update_reference(self) -> TrackingError | None:
        try:
            reference = self._journal.reference() if self._journal else None
            self._comparison = self._journal.comparison() if self._journal else None
        except TrackingError as error:
            return error
        self._reference = self._checked(*reference) if reference else None
        return None

    def _checked(self, version: str, content: Mapping[str, object]) -> Reference | None:
        """The reference, or None where it has another shape, which is logged once."""
        try:
            reference, problem = Reference(version, checked_reference(content)), ""
        except DataError as error:
            reference, problem = None, f"drift from version {version} is not measured: {error}"
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
        return reference


def watch(run_once: Callable[[], object], heartbeat: Path, interval_s: float, stop: Event) -> None:
    """Call ``run_once`` every ``interval_s`` seconds until ``stop`` is set; touch ``heartbeat`` after each success.

    An error, such as a file or server that cannot be reached, is logged, and the next run comes in its turn.
    """
    while not stop.is_set():
        try:
            run_once()
            heartbeat.touch()
        except (BinwatchError, *OUTSIDE) as error:
            log.warning("%s; trying again in %.0f s", sentence(error), interval_s)
        stop.wait(interval_s)


def write(report: Report, out: ObjectStore) -> None:
    """Write ``monitoring.json`` to ``out`` atomically. Raises DataError."""
    try:
        out.write(FILE, json.dumps(report.to_json(), allow_nan=False).encode())
    except OSError as error:
        raise DataError(f"{out.place}/{FILE} cannot be written: {error}; choose another place with --out") from error


def last_alerts(out: ObjectStore) -> tuple[Alert, ...]:
    """The alerts in the last report; none if there is no readable report. Raises UnavailableError."""
    try:
        stored = out.read(FILE)
        return tuple(Alert(**alert) for alert in json.loads(stored.content)["alerts"]) if stored else ()
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def parse_window(text: str) -> timedelta:
    """Parse ``30m``, ``24h`` or ``7d``, at most a year. Raises SettingsError."""
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    window = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else timedelta.max
    if window > timedelta(days=366):
        raise SettingsError(f"--since is {text!r}; give minutes, hours or days up to a year: 30m, 24h, 7d")
    return window
