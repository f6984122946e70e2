"""Does a challenger do well beside the champion, on photos that both answer? Pure functions.

Three things return it: it fails at more photos than the champion, it is slower, or it gives another count than the
champion much more often than on the test photos, on which the gate found it better. The last is tested for each count
of the champion, so that a challenger is caught that is worse at one count only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import binom, hypergeom

from serve.rollout.probation import ProbationPolicy
from serve.routing.comparison import BUCKETS_MS, Comparison, VersionTraffic
from trainer.promotion.rollout_policy import RolloutPolicy

LEVEL = 0.02
"""The share of rollouts in which luck alone may return a challenger for its disagreement. Of challengers that disagree
as expected far fewer are returned, because of the margin (tests/simulation/test_trial_rates.py)."""
UNEXPECTED_SHARE = 0.5
"""The disagreement that is allowed for a count that the champion gave to no test photo: two models that are right at
70 % of the photos each, and err independently, disagree at about half of them."""
FINAL_LOOK = 2


class TrialStep(StrEnum):
    """What follows from a comparison."""

    WAIT = "wait"
    PROCEED = "proceed"
    RETURN = "return"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of the test photos that the champion gave one count: how many, and how many the challenger counts differently."""

    photos: int
    differing: int

    @property
    def share(self) -> float:
        """The share that the challenger counts differently, 0-1."""
        return self.differing / self.photos if self.photos else 0.0


@dataclass(frozen=True, kw_only=True)
class TrialDecision:
    """What to do, and why. ``look``: how often the disagreement was tested in this stage, -1 for never."""

    step: TrialStep
    reason: str
    look: int = -1


def decide(
    policy: RolloutPolicy,
    limits: ProbationPolicy,
    comparison: Comparison,
    expected: Mapping[str, Expected],
    elapsed_s: float,
    look: int = -1,
) -> TrialDecision:
    """Decide about the current stage. ``expected``: by the champion's count, empty where nothing is known.

    ``elapsed_s``: since the stage began; ``look``: of the last decision, -1 at first. A stage has no time limit: while
    there are no photos, nothing is known about the challenger, and the champion serves.
    """
    compared = sum(comparison.counts.values())
    faults = _traffic_faults(limits, comparison.champion, comparison.challenger)
    next_look = look_at(compared, policy.photos)
    if next_look > look:
        level = LEVEL * _share_of_level(next_look) / max(1, len(policy.stages))
        faults += _disagreements(comparison.counts, expected, level, policy.margin)
        look = next_look
    if faults:
        return TrialDecision(step=TrialStep.RETURN, reason="; ".join(faults), look=look)
    missing_s = limits.duration_s - elapsed_s
    if compared < policy.photos or missing_s > 0:
        reason = f"{compared} of {policy.photos} photos are compared" + (
            f", and the stage lasts {missing_s:.0f} s more" if missing_s > 0 else ""
        )
        return TrialDecision(step=TrialStep.WAIT, reason=reason, look=look)
    return TrialDecision(step=TrialStep.PROCEED, reason=f"{compared} photos were compared", look=look)


def look_at(compared: int, photos: int) -> int:
    """How often the disagreement is to be tested by now, less one: at a quarter of ``photos``, at half of them, at all,
    and then whenever their number has doubled.

    A test at every poll would return many good challengers by luck.
    """
    return math.floor(math.log2(compared / photos)) + FINAL_LOOK if 4 * compared >= photos else -1


def _share_of_level(look: int) -> float:
    """The share of the error probability that a look may spend; over all looks 1."""
    return 0.1 if look < FINAL_LOOK else 0.6 if look == FINAL_LOOK else 0.2 * 2.0 ** (FINAL_LOOK - look)


def median_ms(traffic: VersionTraffic) -> float:
    """The median latency, interpolated within its bucket; 0 without requests."""
    half, below = sum(traffic.latencies) / 2, 0
    for number, low_ms, high_ms in zip(
        traffic.latencies, (0.0, *BUCKETS_MS), (*BUCKETS_MS, BUCKETS_MS[-1]), strict=True
    ):
        if number and below + number >= half:
            return low_ms + (high_ms - low_ms) * (half - below) / number
        below += number
    return 0.0


def _traffic_faults(limits: ProbationPolicy, champion: VersionTraffic, challenger: VersionTraffic) -> list[str]:
    """Failures and latency, with the limits of the probation. The median, because a few slow photos are the network's
    or the queue's; the probation measures the mean of the model alone."""
    photos = challenger.answered + challenger.failed
    if photos < limits.least_requests:
        return []
    faults = []
    allowed = limits.error_share + _failed_share(champion)
    if _failed_share(challenger) > allowed:
        faults.append(
            f"it failed at {_failed_share(challenger):.1%} of {photos} photos, at most {allowed:.1%} may, "
            "as much more as the champion's share"
        )
    took_ms = median_ms(challenger)
    allowed_ms = max(limits.latency_ms, limits.latency_times * median_ms(champion))
    if took_ms > allowed_ms:
        faults.append(
            f"half of its answers take more than {took_ms:.0f} ms, at most {allowed_ms:.0f} ms are allowed "
            f"(the champion's: {median_ms(champion):.0f} ms)"
        )
    return faults


def _failed_share(traffic: VersionTraffic) -> float:
    photos = traffic.answered + traffic.failed
    return traffic.failed / photos if photos else 0.0


def by_count(counts: Mapping[str, int]) -> dict[str, Expected]:
    """Photos and disagreements by the champion's count, from "champion's count>challenger's count"; 8+ counts as 8."""
    sums: dict[str, Expected] = {}
    for pair, number in counts.items():
        own, rival = (name.rstrip("+") for name in pair.split(">"))
        before = sums.get(own, Expected(photos=0, differing=0))
        sums[own] = Expected(photos=before.photos + number, differing=before.differing + number * (own != rival))
    return sums


def _disagreements(
    counts: Mapping[str, int], expected: Mapping[str, Expected], level: float, margin: float
) -> list[str]:
    """The counts of the champion at which the challenger disagrees too often.

    Luck must explain less than ``level`` over all counts (Holm 1979).
    """
    nothing = Expected(photos=0, differing=0)
    live = by_count(counts)
    p_values = {name: _p_value(observed, expected.get(name, nothing), margin) for name, observed in live.items()}
    faults = []
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[name] > level / (len(p_values) - rank):
            break
        observed, before = live[name], expected.get(name, nothing)
        allowed = f"{before.share:.0%} of {before.photos} test photos" if before.photos else f"{UNEXPECTED_SHARE:.0%}"
        faults.append(
            f"where the champion counts {name} it gives another count at {observed.share:.0%} of {observed.photos} "
            f"photos; {allowed}, and {margin:.0%} more, are allowed (p = {p_values[name]:.1g})"
        )
    return faults


def _p_value(observed: Expected, expected: Expected, margin: float) -> float:
    """The probability of as many disagreements or more by luck, if ``margin`` more than expected are allowed.

    With test photos Fisher's exact test, one-sided, as both samples are small; without, the exact binomial test.
    """
    if not expected.photos:
        return float(binom.sf(observed.differing - 1, observed.photos, min(1.0, UNEXPECTED_SHARE + margin)))
    allowed = min(expected.photos, expected.differing + math.ceil(margin * expected.photos))
    photos, differing = observed.photos + expected.photos, observed.differing + allowed
    return float(hypergeom.sf(observed.differing - 1, photos, differing, observed.photos))
