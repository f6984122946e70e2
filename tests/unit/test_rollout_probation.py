from dataclasses import replace
from pathlib import Path

import pytest

from serve.answers import PATIENCE_S
from serve.errors import SettingsError
from serve.links import TIMEOUT_S
from serve.rollout.probation import HANG_S, ProbationPolicy, Silence, Traffic, assess
from serve.rollout.torchserve_client import parse_traffic
from serve.settings import read

ROOT = Path(__file__).parents[2]
POLICY = ProbationPolicy(duration_s=30)
BEFORE = Traffic(answered=990, failed=10, seconds=100.0)  # 1 % failed, 100 ms on average
GOOD = Traffic(answered=98, failed=2, seconds=20.0)


def test_a_version_that_does_as_before_stays_when_the_time_is_over() -> None:
    early, late = assess(POLICY, 29.9, BEFORE, GOOD, ()), assess(POLICY, 30, BEFORE, GOOD, ())
    assert (early.over, late.over) == (False, True)
    assert early.fault == late.fault == ""
    assert "100 photos, 2.0% failed, 200 ms on average (before: 1000 photos, 1.0% failed, 100 ms" in late.summary


def failing(share: int) -> Traffic:
    """100 photos, this many of which the model failed at."""
    return Traffic(answered=100 - share, failed=share, seconds=20.0)


def test_photos_that_the_model_fails_at_are_a_fault_beyond_those_before() -> None:
    assert assess(POLICY, 1, BEFORE, failing(6), ()).fault == ""
    assert "failed at 7.0% of 100 photos, at most 6.0% may" in assess(POLICY, 1, BEFORE, failing(7), ()).fault
    assert assess(POLICY, 1, None, failing(6), ()).fault != ""  # nothing is known of before
    assert assess(POLICY, 1, replace(failing(50), answered=500, failed=500), failing(54), ()).fault == ""


def test_slow_answers_are_a_fault_beyond_what_is_slow_anyway_and_what_was_before() -> None:
    assert assess(POLICY, 1, BEFORE, replace(GOOD, seconds=30.0), ()).fault == ""
    assert "301 ms on average, at most 300 ms" in assess(POLICY, 1, BEFORE, replace(GOOD, seconds=30.1), ()).fault
    assert assess(POLICY, 1, None, replace(GOOD, seconds=24.9), ()).fault == ""
    assert assess(POLICY, 1, None, replace(GOOD, seconds=25.1), ()).fault != ""


def test_few_photos_say_nothing() -> None:
    few = Traffic(answered=0, failed=19, seconds=0)
    assert assess(POLICY, 1, BEFORE, few, ()).fault == ""
    assert assess(POLICY, 1, BEFORE, None, ()).fault == ""
    assert assess(POLICY, 1, few, failing(6), ()).fault != ""  # as few before are no measure


def test_golden_photos_that_disagree_again_and_again_are_a_fault() -> None:
    assert assess(POLICY, 1, None, None, ("off", "off")).fault == ""
    assert (
        "3 golden photos did not get the promised answer: 0.2 off"
        in assess(POLICY, 1, None, None, ("off", "off", "0.2 off")).fault
    )


def test_counters_that_start_again_are_no_difference() -> None:
    assert GOOD.since(BEFORE) is None
    assert BEFORE.since(GOOD) == Traffic(892, 8, 80.0)
    assert BEFORE.since(replace(GOOD, failed=11)) is None


def test_golden_photos_without_an_answer_are_a_fault_only_where_nothing_is_answered_for_long() -> None:
    silence = Silence(start_s=100, batches=7)
    assert not silence.is_fault(100 + HANG_S - 1, 7)
    assert silence.is_fault(100 + HANG_S, 7)
    assert not silence.is_fault(100 + HANG_S, 8)  # others are answered: the queue is full
    settings = (ROOT / "serve" / "torchserve" / "config.properties").read_text().splitlines()
    assert f"default_response_timeout={HANG_S:.0f}" in settings
    assert PATIENCE_S + TIMEOUT_S < HANG_S / 1.5


METRICS = """# TYPE binwatch_photos_total counter
binwatch_photos_total{ModelName="bin-counter",ModelVersion="2",Outcome="answered",Hostname="h",} 90.0
binwatch_photos_total{ModelName="bin-counter",ModelVersion="2",Outcome="failed",Hostname="h",} 3.0
binwatch_photos_total{ModelName="bin-counter",ModelVersion="1",Outcome="answered",Hostname="h",} 5.0
binwatch_photos_total{ModelName="other",ModelVersion="2",Outcome="failed",Hostname="h",} 7.0
# TYPE binwatch_model_seconds_total counter
binwatch_model_seconds_total{ModelName="bin-counter",ModelVersion="2",Hostname="h",} 1.8
# TYPE Requests5XX counter
Requests5XX{Level="Host",Hostname="h",} 97.0
ts_inference_requests_total{model_name="bin-counter",model_version="default",hostname="h",} 93.0
"""


def test_live_traffic_is_what_the_version_s_own_handler_counts() -> None:
    assert parse_traffic(METRICS, "2") == Traffic(answered=90, failed=3, seconds=1.8)
    assert parse_traffic(METRICS, "1") == Traffic(answered=5)
    assert parse_traffic(METRICS, "3") is None  # an archive made before handlers counted
    assert parse_traffic("", "1") is None


def test_the_environment_sets_the_watch_and_all_problems_are_named_at_once() -> None:
    assert read(ProbationPolicy, {}) == ProbationPolicy(duration_s=30)
    environ = {"BINWATCH_WATCH_S": "5", "BINWATCH_WATCH_MIN_REQUESTS": "7"}
    assert read(ProbationPolicy, environ) == ProbationPolicy(duration_s=5, least_requests=7)
    with pytest.raises(SettingsError, match=r"BINWATCH_WATCH_S is 'long'.*BINWATCH_WATCH_ERROR_SHARE is '2'"):
        read(ProbationPolicy, {"BINWATCH_WATCH_S": "long", "BINWATCH_WATCH_ERROR_SHARE": "2"})
