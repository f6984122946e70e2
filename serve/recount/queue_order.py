"""Which bin is recounted next, and which one leaves a queue that is full. Pure.

Two lists are merged. The bins with the least likely records come best first. The random share comes by time alone,
whatever its verdicts: what is measured on it (accuracy, base rate, the promise) would be biased if a random bin with
an alarm were recounted sooner, or kept longer, than one without.
"""

from collections.abc import Iterable, Mapping, Sequence

from serve.recount.recount_entities import Candidate

RANDOM_EVERY = 5
"""Every fifth bin that is handed out is of the random share, as long as there is one."""
MAX_RANDOM_SHARE = 0.5
"""The random share takes at most this part of the queue; of more, the oldest ones leave."""


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates with alarms first, then by how likely the record is wrong, then by how badly it fits."""
    return sorted(candidates, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, float, float, float, str, str]:
    """Small for a bin that is to be recounted soon; the model's own probability breaks ties of the p-value."""
    return (
        not candidate.alarm,
        -(candidate.probability_wrong or 0.0),
        1.0 if candidate.p_value is None else candidate.p_value,
        1.0 if candidate.probability_recorded is None else candidate.probability_recorded,
        candidate.seen_at,
        candidate.event_id,
    )


def oldest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates by their time."""
    return sorted(candidates, key=lambda candidate: (candidate.seen_at, candidate.event_id))


def choose_next(candidates: Sequence[Candidate], handed_out: int) -> Candidate | None:
    """The bin to hand out after ``handed_out`` others; None where no candidate is left."""
    ranked = best_first(candidate for candidate in candidates if not candidate.random)
    drawn = oldest_first(candidate for candidate in candidates if candidate.random)
    random_turn = handed_out % RANDOM_EVERY == RANDOM_EVERY - 1
    order = [*drawn[:1], *ranked[:1]] if random_turn else [*ranked[:1], *drawn[:1]]
    return next(iter(order), None)


def surplus(candidates: Sequence[Candidate], limit: int) -> list[Candidate]:
    """Which candidates leave, so that at most ``limit`` stay: the least likely ones, of the random share the oldest."""
    excess = len(candidates) - limit
    if excess <= 0:
        return []
    drawn = oldest_first(candidate for candidate in candidates if candidate.random)
    ranked = best_first(candidate for candidate in candidates if not candidate.random)
    from_drawn = min(excess, max(0, len(drawn) - int(limit * MAX_RANDOM_SHARE)))
    from_ranked = min(excess - from_drawn, len(ranked))
    return [*drawn[:from_drawn], *ranked[len(ranked) - from_ranked :]]


def superseded(candidate: Candidate, candidates: Mapping[str, Candidate]) -> list[Candidate]:
    """The older candidates of the same bin, which a newer photo or a recount of it makes pointless.

    Those of the random share stay: a bin is photographed again more often where there was an alarm.
    """
    if not candidate.bin_id:
        return []
    return [
        older
        for older in candidates.values()
        if older.bin_id == candidate.bin_id
        and older.event_id != candidate.event_id
        and older.seen_at <= candidate.seen_at
        and not older.random
    ]
