"""The result of a reconciliation."""

from dataclasses import dataclass
from enum import StrEnum


class Upkeep(StrEnum):
    """The result of a reconciliation that gave no version a new status."""

    NOTHING = "nothing"
    RESTORED = "restored"
    KEPT = "kept"
    """The champion cannot be served, or there is none: the version that serves goes on."""
    WATCHED = "watched"
    """The champion is on probation, or a challenger is tried on live traffic."""
    WAITING = "waiting"
    """A challenger is to be tried on live traffic, which this process cannot do."""


@dataclass(frozen=True)
class PromotionOutcome:
    """The result of a reconciliation or a rollback. ``did``: the new Status of ``version``, or an Upkeep."""

    did: str
    version: str
    reason: str
