"""Every guard trips, does not trip, can be switched off, and is seldom tripped by luck."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from tests.conftest import rounds
from tests.unit.gating import COUNTS, side, votes
from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated, Prediction, summarise
from trainer.evaluation.gate import Decision, decide
from trainer.evaluation.guards import NOT_JUDGED, PASSED, SWITCHED_OFF, TRIPPED, Guard, Sides, by_class, check
from trainer.evaluation.paired import Pairs
from trainer.evaluation.policy import GUARDS, GatePolicy

BETTER, GOOD = votes(80, 60, 20, 40)
LOSES_FIVES = [number % 5 != 4 for number in range(200)]
"""Right on every count but 5."""
HALF = [number % 2 == 0 for number in range(200)]


def guard(decision: Decision, name: str) -> Guard:
    (found,) = [each for each in decision.guards if each.name == name]
    return found


def alarms(share: float, photos: int = 200) -> list[bool]:
    return [number < share * photos for number in range(photos)]


WORSE = {
    "class loss": (
        side(LOSES_FIVES),
        side(HALF),
        "count 5 went from 50.0% to 0.0% right on 40 photos, and its F1 from 50.0% to 0.0%; both may f",
    ),
    "calibration": (side(BETTER, confidence=0.99), side(GOOD, confidence=0.5), "29.0 points apart, the champion's 0.0"),
    "RMSE": (side(BETTER, off=3), side(GOOD, off=1), "1.643 objects, the champion's 0.707; it may be 0.05 more"),
    "false alarms": (
        side(BETTER, alarms=alarms(0.2)),
        side(GOOD, alarms=alarms(0.02)),
        "20.0% of right records raise the alarm, the champion's 2.0%; 5.0% are accepted, and 5.0 points",
    ),
    "latency": (side(BETTER, latency_ms=31), side(GOOD), "31.0 ms a photo, the champion's 10.0; it may take 3 times"),
    "archive size": (side(BETTER, archive_bytes=1501 * 10**6), side(GOOD), "1501.0 MB; it may have 1500"),
}
AS_GOOD = {
    "class loss": (side(BETTER), side(GOOD)),
    "calibration": (side(BETTER, confidence=0.7), side(GOOD, confidence=0.5)),
    "RMSE": (side(BETTER, off=1), side(GOOD, off=1)),
    "false alarms": (side(BETTER, alarms=alarms(0.1)), side(GOOD, alarms=alarms(0.02))),
    "latency": (side(BETTER, latency_ms=30), side(GOOD)),
    "archive size": (side(BETTER, archive_bytes=1500 * 10**6), side(GOOD)),
}


@pytest.mark.parametrize("name", WORSE)
def test_each_guard_refuses_what_is_more_accurate_and_worse_elsewhere(name: str) -> None:
    challenger, champion, reason = WORSE[name]
    decision = decide(challenger, champion)
    assert "more than luck" in decision.reasons[0]
    assert guard(decision, name).verdict == TRIPPED
    assert reason in guard(decision, name).reason
    assert decision.reasons[1] == f"{name}: {guard(decision, name).reason}"
    assert [each.name for each in decision.guards if each.verdict == TRIPPED] == [name]
    assert not decision.promote


@pytest.mark.parametrize(("name", "limit"), list(zip(WORSE, GUARDS, strict=True)))
def test_each_guard_can_be_switched_off(name: str, limit: str) -> None:
    challenger, champion, _ = WORSE[name]
    decision = decide(challenger, champion, replace(GatePolicy(), **{limit: None}))  # type: ignore[arg-type]
    assert decision.promote
    assert guard(decision, name) == Guard(name, SWITCHED_OFF, "switched off")


@pytest.mark.parametrize("name", WORSE)
def test_each_guard_lets_through_what_is_within_its_limit(name: str) -> None:
    challenger, champion = AS_GOOD[name]
    decision = decide(challenger, champion)
    assert guard(decision, name).verdict == PASSED
    assert decision.promote


def in_few_bins(evaluated: Evaluated) -> Evaluated:
    """The same answers, the photos being those of four bins."""
    rows = [replace(row, bin=str(number // 5 % 4)) for number, row in enumerate(evaluated.predictions)]
    return replace(evaluated, predictions=rows)


@pytest.mark.parametrize("name", ["class loss", "calibration", "RMSE", "false alarms"])
def test_a_loss_above_the_limit_that_may_be_luck_trips_nothing(name: str) -> None:
    """The same losses as above, on photos of four bins."""
    challenger, champion, _ = WORSE[name]
    found = guard(decide(in_few_bins(challenger), in_few_bins(champion)), name)
    assert found.value is not None
    assert found.limit is not None
    assert found.value > found.limit
    assert found.verdict == PASSED
    assert "which may be luck (p = " in found.reason


def test_false_alarms_above_the_promise_are_accepted_where_the_champion_raises_as_many() -> None:
    challenger, champion = (side(each, alarms=alarms(0.2)) for each in (BETTER, GOOD))
    assert guard(decide(challenger, champion), "false alarms").verdict == PASSED


@pytest.mark.parametrize(("share", "verdict"), [(0.2, TRIPPED), (0.1, PASSED), (0.0, PASSED)])
def test_a_first_challenger_s_false_alarms_are_held_against_the_promise(share: float, verdict: str) -> None:
    decision = decide(side(BETTER, alarms=alarms(share)), None)
    assert guard(decision, "false alarms").verdict == verdict
    assert decision.promote is (verdict == PASSED)
    others = {each.verdict for each in decision.guards if each.name not in ("false alarms", "archive size")}
    assert others == {NOT_JUDGED}


def without_fit(evaluated: Evaluated) -> Evaluated:
    return replace(evaluated, predictions=[replace(each, fit=()) for each in evaluated.predictions])


@pytest.mark.parametrize(
    ("challenger", "champion", "name", "reason"),
    [
        (side(BETTER, latency_ms=None), side(GOOD), "latency", "not timed in the same run"),
        (side(BETTER), side(GOOD, latency_ms=None), "latency", "not timed in the same run"),
        (side(BETTER, archive_bytes=None), side(GOOD), "archive size", "size is not known"),
        (side(BETTER), without_fit(side(GOOD)), "false alarms", "gives no p-values"),
        (without_fit(side(BETTER)), None, "false alarms", "gives no p-values"),
    ],
)
def test_what_cannot_be_judged_refuses_nothing_and_says_so(
    challenger: Evaluated, champion: Evaluated | None, name: str, reason: str
) -> None:
    decision = decide(challenger, champion)
    assert guard(decision, name).verdict == NOT_JUDGED
    assert reason in guard(decision, name).reason
    assert decision.promote


def test_a_count_without_photos_is_no_count_that_lost() -> None:
    recorded = [number % 4 + 1 for number in range(200)]
    decision = decide(side(BETTER, recorded=recorded), side(GOOD, recorded=recorded))
    assert decision.comparison is not None
    assert [each.name for each in decision.comparison.classes] == ["1", "2", "3", "4"]
    assert guard(decision, "class loss").verdict == PASSED


def test_a_count_that_the_champion_always_names_is_no_count_that_lost() -> None:
    always = [number % 5 == 2 for number in range(200)]
    stuck = side(always)
    stuck = replace(stuck, predictions=[replace(each, count=3) for each in stuck.predictions])
    decision = decide(side(HALF), stuck)
    assert decision.comparison is not None
    (three,) = [each for each in decision.comparison.classes if each.name == "3"]
    assert (three.champion, three.challenger, three.loss) == (1.0, 0.5, 0.5)
    assert three.lost < 0
    assert guard(decision, "class loss").verdict == PASSED


def test_the_highest_count_may_stand_for_all_above() -> None:
    rows = [Prediction(str(i), str(i), 8, 8, 8.0, (0.0, 1.0), (0.5, 0.5)) for i in range(100)]
    both = Evaluated(summarise(rows, Counts((1, 8), open_top=True), "f"), rows)
    decision = decide(both, both)
    assert decision.comparison is not None
    assert [each.name for each in decision.comparison.classes] == ["8+"]


def as_good_as(rng: np.random.Generator, photos: int) -> list[Prediction]:
    """Answers of one of many equally good models: about 45 % right, confidence as believable, 5 % false alarms."""
    recorded = np.arange(photos) % 5
    rows = rng.dirichlet([1.0] * 5, photos)
    said = np.array([rng.choice(5, p=row) for row in rows])
    right = rng.random(photos) < 0.3
    rows[right, recorded[right]], rows[right, said[right]] = rows[right, said[right]], rows[right, recorded[right]]
    fits = rng.random(photos)
    return [
        Prediction(
            str(i),
            str(i // 2),
            int(recorded[i]) + 1,
            int(row.argmax()) + 1,
            float(row @ np.arange(1, 6)),
            tuple(row.tolist()),
            (float(fits[i]),) * 5,
        )
        for i, row in enumerate(rows)
    ]


def both(rng: np.random.Generator, photos: int) -> Sides:
    """Two equally good models side by side."""
    ours, theirs = as_good_as(rng, photos), as_good_as(rng, photos)
    pairs, evaluation = Pairs.of(ours, theirs, COUNTS.values), side([True, False]).evaluation
    classes = by_class(pairs, COUNTS.names, COUNTS.values)
    return Sides(Evaluated(evaluation, ours), Evaluated(evaluation, theirs), pairs, classes, COUNTS.values)


@pytest.mark.parametrize("photos", [50, 150, 500])
def test_luck_alone_seldom_trips_a_guard_however_small_its_limit(photos: int) -> None:
    """With limits of next to nothing, only the p-values hold the guards back; each may trip once in a hundred."""
    rng, tries = np.random.default_rng(photos), rounds(25, 600)
    tight = dict.fromkeys(GUARDS, 1e-09)
    policy = replace(GatePolicy(), **tight)  # type: ignore[arg-type]
    pairs = [both(rng, photos) for _ in range(tries)]
    verdicts = [{each.name: each.verdict for each in check(sides, policy)} for sides in pairs]
    tripped = {name: sum(each[name] == TRIPPED for each in verdicts) for name in verdicts[0]}
    blunt = np.mean([any(each.loss > 0.05 for each in sides.classes) for sides in pairs])
    print(f"{photos} photos, {tries} equally good pairs: tripped {tripped}; a blunt limit of 5 points: {blunt:.0%}")
    for name in ("class loss", "calibration", "RMSE", "false alarms"):
        assert tripped[name] <= binom.ppf(0.9995, tries, policy.guard_level), name
    assert blunt > 0.5
