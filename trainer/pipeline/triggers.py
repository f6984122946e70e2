"""When an execution is due, and the loop that starts it. ``due`` is the decision, and pure.

    no champion          at once
    enough new photos    at least so many, and at least such a share of those that the last execution had
    drift                when the monitoring reports it: one execution an episode, which ends when the drift does

After an execution nothing is started for a while; after one that failed the while doubles. What is known of the past
is in STATE/watch.json, so that a restart forgets none of it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from serve.environment import Numbers
from serve.files import write_text

FILE, MONITORING = "watch.json", "monitoring.json"
STALE_S = 900.0
"""A monitoring report that is older says nothing of now."""
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_WITHOUT_CHAMPION_S = 60.0, 6 * 3600.0, 600.0


@dataclass(frozen=True)
class Limits:
    """``new_photos``, ``new_share`` (0-1, of the photos before): both must be reached; 0 asks for nothing, and both 0
    start nothing. ``drift``: whether it starts an execution; ``cooldown_s``: seconds of rest after an execution."""

    new_photos: int = 200
    new_share: float = 0.1
    drift: bool = True
    cooldown_s: float = 3600.0


DEFAULT = Limits()


@dataclass(frozen=True)
class TriggerInputs:
    """What is seen now. ``new``: photos that the last execution did not have, ``known``: those it had.

    ``drift``: the alerts of the monitoring, None without a fresh report.
    """

    champion: bool
    new: int = 0
    known: int = 0
    drift: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WatcherState:
    """What is remembered. ``failures``: executions in a row that failed, or that left no champion where there was none;
    ``drift_answered``: the drift that is reported had its execution. Times in seconds since 1970."""

    ended_s: float = 0.0
    failures: int = 0
    drift_answered: bool = False
    pruned_s: float = 0.0


@dataclass(frozen=True)
class TriggerDecision:
    """Whether to start an execution, and why, or why not."""

    start: bool
    reasons: tuple[str, ...]


def due(view: TriggerInputs, past: WatcherState, limits: Limits, now_s: float) -> TriggerDecision:
    """Whether an execution is due at ``now_s``, seconds since 1970."""
    reasons = _reasons(view, past, limits)
    if not reasons:
        return TriggerDecision(False, ("nothing asks for an execution",))
    wait_s = _wait_s(view, past, limits)
    if 0 <= now_s - past.ended_s < wait_s:
        after = f"after {past.failures} that failed" if past.failures else "after the last one"
        return TriggerDecision(False, (*reasons, f"but an execution {after} waits {wait_s:.0f} s"))
    return TriggerDecision(True, reasons)


def _reasons(view: TriggerInputs, past: WatcherState, limits: Limits) -> tuple[str, ...]:
    if not view.champion:
        return ("there is no champion",)
    found = []
    least = max(limits.new_photos, limits.new_share * view.known)
    if view.new and least and view.new >= least:
        found.append(f"{view.new} new labelled photos have come, beside {view.known}")
    if limits.drift and view.drift and not past.drift_answered:
        found.append(f"the monitoring reports {', '.join(view.drift)}")
    return tuple(found)


def _wait_s(view: TriggerInputs, past: WatcherState, limits: Limits) -> float:
    if past.failures:
        longest_s = LONGEST_WAIT_S if view.champion else LONGEST_WITHOUT_CHAMPION_S
        return float(min(FIRST_WAIT_S * 2.0 ** min(past.failures - 1, 30), longest_s))
    return limits.cooldown_s if view.champion else 0.0


def looked(past: WatcherState, view: TriggerInputs) -> WatcherState:
    """The past after a look: an episode of drift is over when a fresh report knows none."""
    return replace(past, drift_answered=False) if view.drift == () else past


def ended(past: WatcherState, view: TriggerInputs, *, decided: bool, promoted: bool, now_s: float) -> WatcherState:
    """The past after an execution. ``decided``: it came to a decision; ``view``: what was seen when it began."""
    good = decided and (view.champion or promoted)
    answered = past.drift_answered or (decided and bool(view.drift))
    return replace(past, ended_s=now_s, failures=0 if good else past.failures + 1, drift_answered=answered)


def drift_of(path: Path, now_s: float) -> tuple[str, ...] | None:
    """The names of the drift alerts in a ``monitoring.json``; None where there is no fresh one that can be read."""
    try:
        report = json.loads(path.read_bytes())
        age_s = now_s - datetime.fromisoformat(report["made_at"]).timestamp()
        names = tuple(alert["name"] for alert in report["alerts"] if alert["name"].startswith("drift of "))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return names if age_s <= STALE_S else None


def read_past(state: Path) -> WatcherState:
    """What was remembered; nothing where there is no file, or a damaged one."""
    try:
        return WatcherState(**json.loads((state / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return WatcherState()


def write_past(state: Path, past: WatcherState) -> None:
    """Remember."""
    write_text(state / FILE, json.dumps(asdict(past)))


def limits_from(environ: Mapping[str, str]) -> Limits:
    """The limits that BINWATCH_NEW_PHOTOS, _NEW_SHARE, _RETRAIN_ON_DRIFT and _COOLDOWN_S set. Raises SettingsError."""
    read, made = Numbers(environ), Limits()
    found = Limits(
        new_photos=read("BINWATCH_NEW_PHOTOS", made.new_photos, 0, 1e9),
        new_share=read("BINWATCH_NEW_SHARE", made.new_share, 0, 1e6),
        drift=environ.get("BINWATCH_RETRAIN_ON_DRIFT", "1") != "0",
        cooldown_s=read("BINWATCH_COOLDOWN_S", made.cooldown_s, 0, 1e9),
    )
    read.check()
    return found
