"""Every guard trips, does not trip, and can be switched off."""

import re
from dataclasses import replace

import pytest

from tests.unit.gating import side, votes
from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated, Prediction, summarise
from trainer.evaluation.gate import Decision, decide
from trainer.evaluation.guards import Guard, GuardVerdict
from trainer.evaluation.policy import GUARDS, GatePolicy

BETTER, GOOD = votes(80, 60, 20, 40)
LOSES_FIVES = [number % 5 != 4 for number in range(200)]
"""Right on every count but 5."""
ALL, NONE = [True] * 200, [False] * 200
HALF = [number % 2 == 0 for number in range(200)]


def guard(decision: Decision, name: str) -> Guard:
    (match,) = [guard for guard in decision.guards if guard.name == name]
    return match


def alarms(share: float, photos: int = 200) -> list[bool]:
    return [number < share * photos for number in range(photos)]


WORSE = {
    "class loss": (
        side(LOSES_FIVES),
        side(HALF),
        r"count 5 .* 50\.0% to 0\.0% .* 40 photos, .* F1 from 50\.0% to 0\.0%; .* 10\.0 points",
    ),
    "calibration": (
        side(BETTER, confidence=0.99),
        side(GOOD, confidence=0.5),
        r"29\.0 points .* champion's 0\.0 points; .* 5\.0 points",
    ),
    "RMSE": (side(BETTER, off=3), side(GOOD, off=1), r"1\.643 objects, the champion's 0\.707; .* 0\.05"),
    "false alarms": (
        side(BETTER, alarms=alarms(0.2)),
        side(GOOD, alarms=alarms(0.02)),
        r"20\.0% .* champion's 2\.0%; 5\.0% .* 5\.0 points",
    ),
    "caught records": (
        side(BETTER, caught=alarms(0.2)),
        side(GOOD, caught=alarms(0.6)),
        r"10\.0% of wrong .* champion's 30\.0%; .* fall by 5\.0 points",
    ),
    "latency": (side(BETTER, latency_ms=31), side(GOOD), r"31\.0 ms .* champion's 10\.0; .* 3 times"),
    "archive size": (side(BETTER, archive_bytes=1501 * 10**6), side(GOOD), r"1501\.0 MB; .* 1500 MB"),
}
LIMITS = dict(zip(WORSE, GUARDS, strict=True)) | {"false alarms with products": "max_false_alarm_rise"}
"""The setting that each guard can be switched off by."""
WORSE["false alarms with products"] = (
    side(BETTER, record_alarms=alarms(0.2)),
    side(GOOD, record_alarms=alarms(0.02)),
    r"20\.0% .* champion's 2\.0%; 5\.0% .* 5\.0 points",
)
AS_GOOD = {
    "class loss": (side(BETTER), side(GOOD)),
    "calibration": (side(BETTER, confidence=0.7), side(GOOD, confidence=0.5)),
    "RMSE": (side(BETTER, off=1), side(GOOD, off=1)),
    "false alarms": (side(BETTER, alarms=alarms(0.1)), side(GOOD, alarms=alarms(0.02))),
    "false alarms with products": (
        side(BETTER, record_alarms=alarms(0.1)),
        side(GOOD, record_alarms=alarms(0.02)),
    ),
    "caught records": (side(BETTER, caught=alarms(0.52)), side(GOOD, caught=alarms(0.6))),
    "latency": (side(BETTER, latency_ms=30), side(GOOD)),
    "archive size": (side(BETTER, archive_bytes=1500 * 10**6), side(GOOD)),
}


@pytest.mark.parametrize("name", WORSE)
def test_each_guard_refuses_what_is_more_accurate_and_worse_elsewhere(name: str) -> None:
    challenger, champion, reason = WORSE[name]
    decision = decide(challenger, champion)
    assert decision.p_value is not None
    assert decision.p_value <= decision.policy.level
    assert guard(decision, name).verdict == GuardVerdict.TRIPPED
    assert re.search(reason, guard(decision, name).reason)
    assert decision.reasons[1] == f"{name}: {guard(decision, name).reason}"
    assert [check.name for check in decision.guards if check.verdict == GuardVerdict.TRIPPED] == [name]
    assert not decision.promote


@pytest.mark.parametrize(("name", "limit"), LIMITS.items())
def test_each_guard_can_be_switched_off(name: str, limit: str) -> None:
    challenger, champion, _ = WORSE[name]
    decision = decide(challenger, champion, GatePolicy().model_copy(update={limit: None}))
    assert decision.promote
    off = Guard(name=name, verdict=GuardVerdict.SWITCHED_OFF, reason="switched off")
    assert guard(decision, name) == off


@pytest.mark.parametrize("name", WORSE)
def test_each_guard_lets_through_what_is_within_its_limit(name: str) -> None:
    challenger, champion = AS_GOOD[name]
    decision = decide(challenger, champion)
    assert guard(decision, name).verdict == GuardVerdict.PASSED
    assert decision.promote


def in_few_bins(evaluated: Evaluated) -> Evaluated:
    """The same answers, the photos being those of four bins."""
    rows = [replace(row, bin=str(number // 5 % 4)) for number, row in enumerate(evaluated.predictions)]
    return replace(evaluated, predictions=rows)


@pytest.mark.parametrize("name", [name for name in WORSE if name not in ("latency", "archive size")])
def test_a_loss_above_the_limit_that_may_be_luck_trips_nothing(name: str) -> None:
    """The same losses as above, on photos of four bins."""
    challenger, champion, _ = WORSE[name]
    guarded = guard(decide(in_few_bins(challenger), in_few_bins(champion)), name)
    assert guarded.value is not None
    assert guarded.limit is not None
    assert guarded.p_value is not None
    assert guarded.value > guarded.limit
    assert guarded.verdict == GuardVerdict.PASSED
    assert f"p = {guarded.p_value:.3f}" in guarded.reason


def test_false_alarms_above_the_promise_are_accepted_where_the_champion_raises_as_many() -> None:
    challenger, champion = (side(right, alarms=alarms(0.2)) for right in (BETTER, GOOD))
    assert guard(decide(challenger, champion), "false alarms").verdict == GuardVerdict.PASSED


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.2, GuardVerdict.TRIPPED), (0.1, GuardVerdict.PASSED), (0.0, GuardVerdict.PASSED)]
)
def test_a_first_challenger_s_false_alarms_are_held_against_the_promise(share: float, verdict: GuardVerdict) -> None:
    decision = decide(side(BETTER, alarms=alarms(share)), None)
    assert guard(decision, "false alarms").verdict == verdict
    assert decision.promote is (verdict == GuardVerdict.PASSED)
    of_both = [check for check in decision.guards if check.name not in ("false alarms", "archive size")]
    assert {check.verdict for check in of_both} == {GuardVerdict.NOT_JUDGED}


@pytest.mark.parametrize("champion", [None, side(GOOD), side(GOOD, record_alarms=alarms(0.2), records="of before")])
@pytest.mark.parametrize(
    ("share", "verdict"), [(0.2, GuardVerdict.TRIPPED), (0.1, GuardVerdict.PASSED), (0.0, GuardVerdict.PASSED)]
)
def test_false_alarms_with_products_are_held_against_the_promise_where_the_champion_judged_other_records_or_none(
    champion: Evaluated | None, share: float, verdict: GuardVerdict
) -> None:
    decision = decide(side(BETTER, record_alarms=alarms(share)), champion)
    assert guard(decision, "false alarms with products").verdict == verdict
    assert decision.promote is (verdict == GuardVerdict.PASSED)


def test_what_is_caught_counts_at_the_policy_s_alpha_and_all_kinds_of_error_alike() -> None:
    challenger, champion = side(BETTER, caught=NONE), side(GOOD, caught=ALL)
    assert guard(decide(challenger, champion), "caught records").value == pytest.approx(0.5)  # none is exchanged
    lax = GatePolicy().model_copy(update={"alpha": 0.95})  # every p-value of these records is an alarm
    assert guard(decide(challenger, champion, lax), "caught records").value == 0


@pytest.mark.parametrize("reads_products", [True, False])
def test_a_challenger_that_catches_fewer_wrong_records_is_refused_whether_it_reads_products_or_not(
    reads_products: bool,
) -> None:
    challenger = side(BETTER, record_alarms=NONE, caught=NONE, reads_products=reads_products)
    decision = decide(challenger, side(GOOD, record_alarms=NONE, caught=ALL))
    assert guard(decision, "caught records").verdict == GuardVerdict.TRIPPED
    alarms = guard(decision, "false alarms with products").verdict
    assert alarms == (GuardVerdict.PASSED if reads_products else GuardVerdict.NOT_JUDGED)


def test_a_challenger_that_reads_products_is_compared_with_a_champion_that_does_not() -> None:
    decision = decide(side(BETTER, caught=ALL), side(GOOD, caught=NONE, reads_products=False))
    assert guard(decision, "caught records").value == pytest.approx(-0.5)  # no exchanged one is caught
    assert decision.promote


def recounted(evaluated: Evaluated) -> Evaluated:
    """The same side with one wrong record less."""
    first, *others = evaluated.predictions
    return replace(evaluated, predictions=[replace(first, record_fits={"right": (0.9,)}), *others])


def without_fit(evaluated: Evaluated) -> Evaluated:
    return replace(evaluated, predictions=[replace(answer, fit=()) for answer in evaluated.predictions])


@pytest.mark.parametrize(
    ("challenger", "champion", "name", "reason"),
    [
        (side(BETTER, latency_ms=None), side(GOOD), "latency", "not timed in the same run"),
        (side(BETTER), side(GOOD, latency_ms=None), "latency", "not timed in the same run"),
        (side(BETTER, archive_bytes=None), side(GOOD), "archive size", "size is not known"),
        (side(BETTER), without_fit(side(GOOD)), "false alarms", "gives no p-values"),
        (without_fit(side(BETTER)), None, "false alarms", "gives no p-values"),
        (side(BETTER), side(GOOD, caught=ALL), "caught records", "challenger judges no records"),
        (side(BETTER), side(GOOD, caught=ALL), "false alarms with products", "challenger judges no records"),
        (side(BETTER, caught=ALL), side(GOOD), "caught records", "champion judges no records"),
        (side(BETTER, caught=ALL), None, "caught records", "no champion"),
        (
            side(BETTER, caught=NONE, reads_products=False),
            side(GOOD, caught=ALL, reads_products=False),
            "caught records",
            "neither reads",
        ),
        (side(BETTER, caught=NONE), side(GOOD, caught=ALL, records="of before"), "caught records", "the same records"),
        (side(BETTER, caught=NONE), recounted(side(GOOD, caught=ALL)), "caught records", "the same records"),
        (side(BETTER, caught=NONE, records=""), side(GOOD, caught=ALL, records=""), "caught records", "same records"),
    ],
)
def test_what_cannot_be_judged_refuses_nothing_and_says_so(
    challenger: Evaluated, champion: Evaluated | None, name: str, reason: str
) -> None:
    decision = decide(challenger, champion)
    assert guard(decision, name).verdict == GuardVerdict.NOT_JUDGED
    assert reason in guard(decision, name).reason
    assert decision.promote


def test_a_count_without_photos_is_no_count_that_lost() -> None:
    recorded = [number % 4 + 1 for number in range(200)]
    decision = decide(side(BETTER, recorded=recorded), side(GOOD, recorded=recorded))
    assert decision.comparison is not None
    assert [result.name for result in decision.comparison.classes] == ["1", "2", "3", "4"]
    assert guard(decision, "class loss").verdict == GuardVerdict.PASSED


def test_a_count_that_the_champion_always_names_is_no_count_that_lost() -> None:
    always = [number % 5 == 2 for number in range(200)]
    stuck = side(always)
    stuck = replace(stuck, predictions=[replace(answer, count=3) for answer in stuck.predictions])
    decision = decide(side(HALF), stuck)
    assert decision.comparison is not None
    (three,) = [result for result in decision.comparison.classes if result.name == "3"]
    assert (three.champion, three.challenger, three.loss) == (1.0, 0.5, 0.5)
    assert three.guarded_loss < 0
    assert guard(decision, "class loss").verdict == GuardVerdict.PASSED


def test_the_highest_count_may_stand_for_all_above() -> None:
    row = Prediction(id="", bin="", recorded=8, count=8, expected_count=8.0, probabilities=(0.0, 1.0), fit=(0.5, 0.5))
    rows = [replace(row, id=str(number), bin=str(number)) for number in range(100)]
    both = Evaluated(summarise(rows, Counts((1, 8), open_top=True), "f"), rows)
    decision = decide(both, both)
    assert decision.comparison is not None
    assert [result.name for result in decision.comparison.classes] == ["8+"]
