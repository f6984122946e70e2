from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from serve.errors import SettingsError
from serve.rollout.probation import ProbationPolicy
from serve.routing.comparison import BUCKETS_MS, Comparison, VersionTraffic
from serve.routing.route_table import TrialMode
from serve.settings import read
from trainer.promotion.rollout_policy import RolloutPolicy, Stage
from trainer.promotion.trial_decision import Expected, TrialDecision, TrialStep, by_count, decide, look_at, median_ms
from trainer.promotion.trial_status import TrialStatus, status_from_text

POLICY = RolloutPolicy(plan="shadow", photos=200)
LIMITS = ProbationPolicy(duration_s=30)
EXPECTED = {str(count): Expected(photos=200, differing=40) for count in range(1, 6)}


def traffic(answered: int = 200, failed: int = 0, took_ms: float = 30.0) -> VersionTraffic:
    bucket = sum(took_ms > bound for bound in BUCKETS_MS)
    return VersionTraffic(
        answered=answered, failed=failed, latencies=tuple(answered * (i == bucket) for i in range(len(BUCKETS_MS) + 1))
    )


def live(photos: int = 200, shares: Mapping[str, float] | None = None) -> Counter[str]:
    """Each count alike; the challenger gives another one to a fifth of the photos, or to ``shares``."""
    counts = Counter[str]()
    for own in EXPECTED:
        differing = round((shares or {}).get(own, 0.2) * photos / 5)
        counts += Counter({f"{own}>{own}": photos // 5 - differing, f"{own}>9": differing})
    return counts


GOOD = Comparison(trial="7", champion=traffic(), challenger=traffic(), counts=live())


def step(comparison: Comparison, elapsed_s: float = 60, look: int = -1, **policy: object) -> TrialDecision:
    return decide(POLICY.model_copy(update=policy), LIMITS, comparison, EXPECTED, elapsed_s, look)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("all", []),
        ("shadow", [("shadow", 1.0)]),
        ("canary:100", [("canary", 1.0)]),
        ("canary:10,50,100", [("canary", 0.1), ("canary", 0.5), ("canary", 1.0)]),
    ],
)
def test_a_plan_names_its_stages(text: str, shares: list[tuple[str, float]]) -> None:
    policy = read(RolloutPolicy, {"BINWATCH_ROLLOUT": text})
    assert policy.stages == tuple(Stage(mode=TrialMode(mode), share=share) for mode, share in shares)


@pytest.mark.parametrize(
    "text",
    [
        "canary",
        "canary:",
        "canary:10",
        "canary:50,10,100",
        "canary:10,10,100",
        "canary:0,100",
        "canary:10,200",
        "Shadow",
    ],
)
def test_a_plan_that_does_not_rise_to_all_of_the_traffic_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"BINWATCH_ROLLOUT is .*canary:10,50,100"):
        read(RolloutPolicy, {"BINWATCH_ROLLOUT": text})


def test_a_challenger_that_does_as_expected_proceeds_once_time_and_photos_suffice() -> None:
    assert step(GOOD).step == TrialStep.PROCEED
    early = step(GOOD, elapsed_s=29)
    assert early.step == TrialStep.WAIT
    assert "1 s more" in early.reason
    few = step(replace(GOOD, counts=live(195)))
    assert few.step == TrialStep.WAIT
    assert "195 of 200 photos" in few.reason


def test_without_traffic_a_challenger_waits_however_long() -> None:
    decision = step(Comparison(trial="7"), elapsed_s=1e7)
    assert (decision.step, decision.look) == (TrialStep.WAIT, -1)
    assert "0 of 200 photos" in decision.reason


def test_a_challenger_that_is_worse_at_one_count_only_is_returned() -> None:
    decision = step(replace(GOOD, counts=live(200, {"3": 0.7})))
    assert decision.step == TrialStep.RETURN
    assert "champion counts 3" in decision.reason
    assert "70% of 40 photos" in decision.reason
    assert "20% of 200 test photos" in decision.reason
    assert "champion counts 2" not in decision.reason


def test_a_disagreement_is_allowed_if_the_test_photos_have_it_too() -> None:
    counts = live(200, {"3": 0.7})
    expected = {**EXPECTED, "3": Expected(photos=200, differing=140)}
    comparison = replace(GOOD, counts=counts)
    assert decide(POLICY, LIMITS, comparison, expected, 60).step == TrialStep.PROCEED


def test_without_test_photos_only_a_gross_disagreement_returns() -> None:
    some, many = (replace(GOOD, counts=live(200, {"3": share})) for share in (0.5, 0.9))
    assert decide(POLICY, LIMITS, some, {}, 60).step == TrialStep.PROCEED
    assert decide(POLICY, LIMITS, many, {}, 60).step == TrialStep.RETURN


def test_the_disagreement_is_tested_a_few_times_and_not_at_every_poll() -> None:
    assert [look_at(photos, 200) for photos in (0, 49, 50, 99, 100, 199, 200, 399, 400)] == [
        -1,
        -1,
        0,
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    worse = replace(GOOD, counts=live(200, {"3": 0.7}))
    assert step(worse, look=2).step == TrialStep.PROCEED  # it was tested when there were fewer
    assert step(replace(GOOD, counts=live(100, {"3": 0.95}))).step == TrialStep.RETURN  # before all are there


def test_a_challenger_that_fails_more_often_than_the_champion_is_returned() -> None:
    def failing(number: int, of_champion: int = 0) -> Comparison:
        return replace(GOOD, champion=traffic(100, of_champion), challenger=traffic(100 - number, number))

    assert step(failing(5)).step == TrialStep.PROCEED
    assert "failed at 6.0% of 100 photos, at most 5.0%" in step(failing(6)).reason
    assert step(failing(6)).step == TrialStep.RETURN
    assert step(failing(6, of_champion=5)).step == TrialStep.PROCEED
    assert step(Comparison(trial="7", challenger=traffic(0, 19))).step == TrialStep.WAIT  # BINWATCH_WATCH_MIN_REQUESTS
    assert step(Comparison(trial="7", challenger=traffic(0, 20)), elapsed_s=1).step == TrialStep.RETURN


def test_a_challenger_that_is_slower_is_returned_beyond_what_is_slow_anyway() -> None:
    def taking(took_ms: float, of_champion: float = 30.0) -> TrialDecision:
        return step(replace(GOOD, champion=traffic(took_ms=of_champion), challenger=traffic(took_ms=took_ms)))

    assert taking(180).step == TrialStep.PROCEED  # up to BINWATCH_WATCH_LATENCY_MS
    slow = taking(400)
    assert slow.step == TrialStep.RETURN
    assert "350 ms" in slow.reason
    assert "at most 250 ms" in slow.reason
    assert taking(400, of_champion=150).step == TrialStep.PROCEED  # less than three times as slow


def test_the_median_is_interpolated_within_its_bucket() -> None:
    assert median_ms(VersionTraffic()) == 0
    assert median_ms(traffic(took_ms=30)) == pytest.approx(35)
    assert median_ms(traffic(took_ms=20_000)) == BUCKETS_MS[-1]
    halves = VersionTraffic(answered=4, latencies=(2, 0, 2, *(0,) * (len(BUCKETS_MS) - 2)))
    assert median_ms(halves) == 10


def test_open_counts_are_the_same_as_their_number() -> None:
    assert by_count({"8+>8": 3, "8>7": 1}) == {"8": Expected(photos=4, differing=1)}


def test_a_status_is_read_back_and_explained() -> None:
    status = TrialStatus(
        version="2",
        champion="1",
        plan="shadow",
        stage="shadow",
        at="2026-11-24T12:00:00+00:00",
        step=TrialStep.WAIT,
        reason="34 of 200 photos are compared",
        comparison=replace(GOOD, verdicts={"match>match": 30, "match>mismatch": 4}),
        expected=EXPECTED,
    )
    assert status_from_text(status.to_text()) == status
    text = status.explain()
    for part in (
        "34 of 200",
        "champion counts 3: another count at 20% of 40 photos, 20% of 200",
        "match, then mismatch: 4",
    ):
        assert part in text
    assert status_from_text("") is None
    assert status_from_text("{}") is None
