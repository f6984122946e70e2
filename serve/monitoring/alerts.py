"""Alerts as they are told: once when they begin and once when they end, to the log and to a webhook.

The webhook, BINWATCH_ALERT_WEBHOOK, gets one POST for each, a JSON object

    {"event": "alert started" or "alert ended", "name", "value", "threshold", "message", "at"}

What it does not take within two tries is logged and given up: it never stops the monitoring.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import requests

from serve.monitoring.drift import Alert

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
TRIES = 2


def changes(before: Sequence[Alert], after: Sequence[Alert]) -> list[tuple[str, Alert]]:
    """What began and what ended between two reports, by name."""
    old, new = ({alert.name: alert for alert in alerts} for alerts in (before, after))
    began = [("alert started", alert) for name, alert in new.items() if name not in old]
    return began + [("alert ended", alert) for name, alert in old.items() if name not in new]


def tell(events: Sequence[tuple[str, Alert]], webhook: str, at: str) -> None:
    """Log what began and ended ``at`` a time (ISO), and send it to ``webhook`` where there is one."""
    for event, alert in events:
        log.warning("%s: %s: %s", event, alert.name, alert.message)
        if webhook:
            _post(webhook, {"event": event, **asdict(alert), "at": at})


def _post(webhook: str, content: dict[str, Any]) -> None:
    reason = ""
    for _ in range(TRIES):
        try:
            answer = requests.post(webhook, json=content, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            reason = type(error).__name__  # the whole would show the address, which may hold a secret
            continue
        if answer.status_code < 300:
            return
        reason = f"it answered {answer.status_code}"
    log.warning("the webhook did not take %r: %s; check BINWATCH_ALERT_WEBHOOK", content["name"], reason)
