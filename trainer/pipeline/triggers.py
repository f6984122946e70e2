"""When the watcher starts an execution. ``decide`` makes the decision and is pure.

    no champion          at once
    new photos           when there are enough of them, in number and relative to those of the last execution
    drift                when the monitoring reports it: one execution an episode, which ends when the drift does

After an execution there is a cooldown; after one that failed there is exponential backoff. The watcher's state is
stored in STATE/watch.json and survives restarts.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from pydantic import Field

from serve.files import write_text
from serve.settings import Settings

FILE = "watch.json"
STALE_S = 900.0
"""A monitoring report that is older is ignored."""
FIRST_WAIT_S, MAX_WAIT_S, MAX_WAIT_WITHOUT_CHAMPION_S = 60.0, 6 * 3600.0, 600.0


class Limits(Settings):
    """What starts an execution. ``new_photos`` and ``new_share`` must both be reached; 0 demands nothing, and both 0
    start nothing."""

    new_photos: int = Field(
        default=200,
        ge=0,
        le=10**9,
        description="an execution starts after this many new labelled photos; 0: any number",
    )
    new_share: float = Field(
        default=0.1,
        ge=0,
        le=1e6,
        description="and only if they are at least this share of those before; 0: any share",
    )
    drift: bool = Field(
        default=True,
        validation_alias="BINWATCH_RETRAIN_ON_DRIFT",
        description="whether an execution starts when the monitoring reports drift",
    )
    cooldown_s: float = Field(default=3600.0, ge=0, le=1e9, description="seconds to wait after an execution")


DEFAULT = Limits()


@dataclass(frozen=True)
class TriggerInputs:
    """What the decision rests on.

    ``new_photos``: how many the last execution did not have; ``new_recounts``: how many of these are recounts;
    ``known_photos``: how many it had; ``drift``: the drift alerts of the monitoring, None without a fresh report.
    """

    has_champion: bool
    new_photos: int = 0
    known_photos: int = 0
    drift: tuple[str, ...] | None = None
    new_recounts: int = 0


@dataclass(frozen=True)
class WatcherState:
    """What the watcher remembers; times in seconds since 1970.

    ``ended_s``: the end of the last execution; ``failures``: consecutive executions that failed, or that left no
    champion where there was none; ``drift_answered``: the present episode of drift had its execution; ``pruned_s``:
    the last pruning.
    """

    ended_s: float = 0.0
    failures: int = 0
    drift_answered: bool = False
    pruned_s: float = 0.0


@dataclass(frozen=True)
class TriggerDecision:
    """Whether to start an execution, and why, or why not."""

    start: bool
    reasons: tuple[str, ...]


def decide(inputs: TriggerInputs, state: WatcherState, limits: Limits, now_s: float) -> TriggerDecision:
    """Whether to start an execution at ``now_s``, seconds since 1970."""
    reasons = _reasons(inputs, state, limits)
    if not reasons:
        return TriggerDecision(False, ("nothing asks for an execution",))
    wait_s = _wait_s(inputs, state, limits)
    if 0 <= now_s - state.ended_s < wait_s:
        after = f"after {state.failures} that failed" if state.failures else "after the last one"
        return TriggerDecision(False, (*reasons, f"but an execution {after} waits {wait_s:.0f} s"))
    return TriggerDecision(True, reasons)


def _reasons(inputs: TriggerInputs, state: WatcherState, limits: Limits) -> tuple[str, ...]:
    if not inputs.has_champion:
        return ("there is no champion",)
    reasons = []
    minimum = max(limits.new_photos, limits.new_share * inputs.known_photos)
    if inputs.new_photos and minimum and inputs.new_photos >= minimum:
        recounts = f", {inputs.new_recounts} of them recounts" if inputs.new_recounts else ""
        reasons.append(f"{inputs.new_photos} new labelled photos have come{recounts}, beside {inputs.known_photos}")
    if limits.drift and inputs.drift and not state.drift_answered:
        reasons.append(f"the monitoring reports {', '.join(inputs.drift)}")
    return tuple(reasons)


def _wait_s(inputs: TriggerInputs, state: WatcherState, limits: Limits) -> float:
    if state.failures:
        max_wait_s = MAX_WAIT_S if inputs.has_champion else MAX_WAIT_WITHOUT_CHAMPION_S
        return float(min(FIRST_WAIT_S * 2.0 ** min(state.failures - 1, 30), max_wait_s))
    return limits.cooldown_s if inputs.has_champion else 0.0


def after_poll(state: WatcherState, inputs: TriggerInputs) -> WatcherState:
    """The state after a poll: a fresh report without drift ends the episode."""
    return replace(state, drift_answered=False) if inputs.drift == () else state


def after_execution(
    state: WatcherState, inputs: TriggerInputs, *, decided: bool, promoted: bool, now_s: float
) -> WatcherState:
    """The state after an execution. ``decided``: it reached a decision; ``inputs``: those when it started."""
    succeeded = decided and (inputs.has_champion or promoted)
    answered = state.drift_answered or (decided and bool(inputs.drift))
    failures = 0 if succeeded else state.failures + 1
    return replace(state, ended_s=now_s, failures=failures, drift_answered=answered)


def read_drift(content: bytes, now_s: float) -> tuple[str, ...] | None:
    """The names of the drift alerts in a ``monitoring.json``; None where it is empty, damaged or stale."""
    try:
        report = json.loads(content)
        age_s = now_s - datetime.fromisoformat(report["made_at"]).timestamp()
        names = tuple(alert["name"] for alert in report["alerts"] if alert["name"].startswith("drift of "))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return names if age_s <= STALE_S else None


def read_state(folder: Path) -> WatcherState:
    """The stored state; the default one where the file is missing or damaged."""
    try:
        return WatcherState(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return WatcherState()


def write_state(folder: Path, state: WatcherState) -> None:
    """Store the state."""
    write_text(folder / FILE, json.dumps(asdict(state)))
