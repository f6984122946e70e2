"""Notifies of alerts once when they start and once when they end, in the log and by webhook.

The webhook, BINWATCH_ALERT_WEBHOOK, gets one POST per notification, a JSON object

    {"event": "alert started" or "alert ended", "name", "value", "threshold", "message", "at"}

If the webhook fails twice, the failure is logged and the notification dropped: a webhook never stops the monitoring.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum

import requests

from serve.monitoring.drift import Alert

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
MAX_ATTEMPTS = 2


class AlertEvent(StrEnum):
    """What happened to an alert."""

    STARTED = "alert started"
    ENDED = "alert ended"


def diff(before: Sequence[Alert], after: Sequence[Alert]) -> list[tuple[AlertEvent, Alert]]:
    """The alerts that started and ended between two reports, compared by name."""
    old, new = ({alert.name: alert for alert in alerts} for alerts in (before, after))
    started = [(AlertEvent.STARTED, alert) for name, alert in new.items() if name not in old]
    return started + [(AlertEvent.ENDED, alert) for name, alert in old.items() if name not in new]


def notify(events: Sequence[tuple[AlertEvent, Alert]], webhook: str, at: str) -> None:
    """Log what started and ended at the time ``at`` (ISO 8601), and post it to ``webhook`` unless that is empty."""
    for event, alert in events:
        log.warning("%s: %s: %s", event, alert.name, alert.message)
        if webhook:
            _post(webhook, {"event": event, **asdict(alert), "at": at})


def notify_of_failures(webhook: str, is_failing: bool, reason: str) -> None:
    """Start or end the alert that executions of the pipeline fail."""
    event = AlertEvent.STARTED if is_failing else AlertEvent.ENDED
    alert = Alert("failed execution", float(is_failing), 0.0, reason)
    notify([(event, alert)], webhook, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _post(webhook: str, content: Mapping[str, object]) -> None:
    reason = ""
    for _ in range(MAX_ATTEMPTS):
        try:
            answer = requests.post(webhook, json=content, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            reason = type(error).__name__  # its message would show the address, which may contain a secret
            continue
        if answer.status_code < 300:
            return
        reason = f"status {answer.status_code}"
    log.warning("the webhook failed for %r: %s; check BINWATCH_ALERT_WEBHOOK", content["name"], reason)
