"""A look at the capture: read it, summarise it, write ``monitoring.json``, tell of alerts, keep a journal.

python scripts/monitor.py --capture DIR --out DIR [--watch]
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from serve.errors import BinwatchError, DataError, SettingsError, TrackingError
from serve.monitoring import alerts, records
from serve.monitoring.drift import Alert, Thresholds
from serve.monitoring.reader import Place, Reader
from serve.monitoring.report import Reference, Report, summarise

log = logging.getLogger(__name__)

FILE = "monitoring.json"
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Journal(Protocol):
    """Where reports are kept beside the file; ``trainer.monitoring.Journal`` is the real one."""

    def reference(self) -> tuple[str, Mapping[str, Any]] | None:
        """The version that serves, and what its answers are compared with. Raises TrackingError."""

    def log(self, report: Mapping[str, Any]) -> None:
        """Keep a report. Raises TrackingError."""


class Monitor:
    """Looks at a place again and again; what it has read it keeps."""

    def __init__(
        self,
        place: Place,
        out: Path,
        since: timedelta,
        limits: Thresholds,
        webhook: str = "",
        journal: Journal | None = None,
    ) -> None:
        self._out, self._since, self._limits = out, since, limits
        self._webhook, self._journal = webhook, journal
        self._reference: Reference | None = None
        self._answers = Reader(place, records.ANSWERS, records.parse_answer, records.ANSWER)
        self._truths = Reader(place, records.TRUTHS, records.parse_truth, records.TRUTH)

    def look(self, now: datetime | None = None) -> Report:
        """The report as of ``now``, written and told.

        Raises DataError where the capture cannot be read or the report not be written. Raises TrackingError where
        the journal does not answer, after the report was written with the reference that was known before.
        """
        trouble = self._ask_reference()
        now = now or datetime.now(UTC)
        first = (now - self._since).date()
        answers, unreadable = self._answers.rows(first, now.date())
        truths, foreign = self._truths.rows(first, now.date())
        report = summarise(answers, truths, unreadable + foreign, now, self._since, self._reference, self._limits)
        before = last_alerts(self._out)
        write(report, self._out)
        alerts.tell(alerts.changes(before, report.alerts), self._webhook, report.made_at)
        if trouble:
            raise trouble
        if self._journal:
            self._journal.log(report.to_json())
        return report

    def _ask_reference(self) -> TrackingError | None:
        try:
            found = self._journal.reference() if self._journal else None
        except TrackingError as error:
            return error
        self._reference = Reference(*found) if found else None
        return None


def watch(look: Callable[[], object], heartbeat: Path, interval_s: float, stop: Event) -> None:
    """Look every ``interval_s`` seconds until ``stop``; touch ``heartbeat`` after each good look.

    A look that fails, as where a file or a server cannot be reached, is reported and the next one comes in its turn.
    """
    while not stop.is_set():
        try:
            look()
            heartbeat.touch()
        except BinwatchError as error:
            log.warning("%s; trying again in %.0f s", error, interval_s)
        stop.wait(interval_s)


def write(report: Report, out: Path) -> None:
    """Write ``monitoring.json`` into ``out``, whole or not at all. Raises DataError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f".{FILE}.partial"
        partial.write_text(json.dumps(report.to_json(), allow_nan=False))
        partial.replace(out / FILE)
    except OSError as error:
        raise DataError(f"{out / FILE} cannot be written: {error}; name another folder with --out") from error


def last_alerts(out: Path) -> tuple[Alert, ...]:
    """The alerts that the last report raised; none where there is no report that can be read."""
    try:
        return tuple(Alert(**each) for each in json.loads((out / FILE).read_bytes())["alerts"])
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def span(text: str) -> timedelta:
    """``30m``, ``24h``, ``7d`` as a span of time, at most a year. Raises SettingsError."""
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    made = timedelta(**{UNITS[found[2]]: int(found[1])}) if found else timedelta.max
    if made > timedelta(days=366):
        raise SettingsError(f"--since is {text!r}; give minutes, hours or days up to a year: 30m, 24h, 7d")
    return made
