"""How far the recounts are: what waits, what was found against what was expected, what the random share says. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve.recount.base_rate import BaseRate
from serve.recount.recount_entities import Candidate, Outcome, Recount

Z95 = 1.959964


@dataclass(frozen=True)
class MeasuredShare:
    """A share (0-1) with its 95 % interval, measured on ``total`` bins; None where there are none."""

    share: float | None
    low: float | None
    high: float | None
    total: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> "MeasuredShare":
        """The share of True (interval: E. B. Wilson, 1927)."""
        total = len(outcomes)
        if not total:
            return cls(None, None, None, 0)
        share, square = sum(outcomes) / total, Z95**2
        middle = (share + square / (2 * total)) / (1 + square / total)
        half = Z95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
        return cls(round(share, 4), round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4), total)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The recounts of a selection.

    ``pending``: bins that wait, ``pending_random``: those of the random share; ``outcomes``: settled bins by outcome;
    ``wrong``: records that were wrong; ``expected_wrong``: the sum of the probabilities, when they were seen, that
    these ``expected_of`` settled records were wrong; ``base_rate``: expected share of wrong records among all bins,
    after the recounts of the random share; ``wrong_share``, ``accuracy``: measured on the random share alone, the
    others were chosen because they looked wrong; ``stations``, ``days``: of the bins that wait, with how many.
    """

    pending: int
    pending_random: int
    outcomes: dict[str, int]
    wrong: int
    expected_wrong: float
    expected_of: int
    base_rate: float
    wrong_share: MeasuredShare
    accuracy: MeasuredShare
    stations: dict[str, int]
    days: dict[str, int]


def progress_of(pending: Iterable[Candidate], settled: Iterable[Recount], station: str = "", day: str = "") -> Progress:
    """The progress, of one station and day (yyyy-mm-dd, UTC) where they are given; the lists for filters are of all."""
    waiting, recounts = list(pending), [recount for recount in settled if matches(recount, station, day)]
    selected = [candidate for candidate in waiting if matches(candidate, station, day)]
    counted = [recount for recount in recounts if recount.record_was_right is not None]
    drawn = [recount for recount in counted if recount.random]
    probabilities = [recount.probability_wrong for recount in counted if recount.probability_wrong is not None]
    outcomes = Counter(recount.outcome for recount in recounts)
    return Progress(
        pending=len(selected),
        pending_random=sum(candidate.random for candidate in selected),
        outcomes={outcome: outcomes[outcome] for outcome in Outcome},
        wrong=sum(recount.record_was_right is False for recount in counted),
        expected_wrong=round(sum(probabilities), 2),
        expected_of=len(probabilities),
        base_rate=round(BaseRate().updated(recounts).mean, 4),
        wrong_share=MeasuredShare.of([recount.record_was_right is False for recount in drawn]),
        accuracy=MeasuredShare.of([recount.answer_was_right for recount in drawn]),
        stations=_tally(candidate.station for candidate in waiting),
        days=_tally(candidate.day for candidate in waiting),
    )


def matches(candidate: Candidate, station: str, day: str) -> bool:
    """Whether a bin is of this station and day; empty ones match all."""
    return (not station or candidate.station == station) and (not day or candidate.day == day)


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(name for name in names if name).items()))
