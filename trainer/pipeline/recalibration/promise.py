"""Is the promise about false alarms kept? ``promise_keeper.py`` acts on the answer.

    STATE/recalibration.json     which version was looked at last, and how many recounts it had then

Looked at are the recounts of the random share whose record was right and that the champion has answered. Whenever
another BINWATCH_RECALIBRATE_AFTER of them have come, an exact binomial test says whether more of them raised the alarm
than ``alpha`` allows. Fewer alarms than allowed are no reason: the promise is kept.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.special import bdtrc

from serve.files import write_text
from serve.recount.recount_entities import Recount

FILE = "recalibration.json"
LEVEL = 0.01
"""How often luck alone may start a recalibration, at each look; the gate decides about it all the same."""


@dataclass(frozen=True, kw_only=True)
class PromiseCheck:
    """How many right records a version has answered, and how many of them raised the alarm.

    ``p_value``: how often so many alarms or more come if the promise is kept (0-1).
    """

    records: int
    alarms: int
    p_value: float

    @property
    def is_broken(self) -> bool:
        """Whether there are more alarms than luck explains."""
        return self.p_value <= LEVEL

    def in_words(self) -> str:
        """For the log."""
        return f"{self.alarms} of {self.records} recounted right records raised the alarm (p = {self.p_value:.2g})"


@dataclass(frozen=True, kw_only=True)
class LastLook:
    """The version that was looked at last, and the recounts of it that there were."""

    version: str = ""
    recounts: int = 0


def check_promise(recounts: Sequence[Recount], alpha: float) -> PromiseCheck:
    """Check the promise with the recounts of the random share that one version has answered."""
    false_alarms = [false for recount in recounts if (false := recount.is_false_alarm(alpha)) is not None]
    alarms = sum(false_alarms)
    p_value = float(bdtrc(alarms - 1, len(false_alarms), alpha)) if alarms else 1.0
    return PromiseCheck(records=len(false_alarms), alarms=alarms, p_value=p_value)


def is_due(recounts: int, version: str, last: LastLook, after: int) -> bool:
    """Whether to look: ``after`` recounts have come since the version serves, and since the last look at it."""
    return bool(after) and recounts >= after + (last.recounts if last.version == version else 0)


def read_last_look(state: Path) -> LastLook:
    """The last look; none where the file is missing or damaged."""
    try:
        return LastLook(**json.loads((state / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return LastLook()


def write_last_look(state: Path, look: LastLook) -> None:
    """Store the look."""
    write_text(state / FILE, json.dumps(asdict(look)))
