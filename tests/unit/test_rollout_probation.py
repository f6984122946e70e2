from dataclasses import replace

import pytest

from serve.errors import SettingsError
from serve.rollout.probation import ProbationPolicy, Traffic, assess
from serve.rollout.torchserve_client import parse_traffic
from serve.settings import read

POLICY = ProbationPolicy(duration_s=30)
BEFORE = Traffic(requests=1000, failed=10, answered=990, seconds=99.0)  # 1 % failed, 100 ms on average
GOOD = Traffic(requests=100, failed=2, answered=98, seconds=20.0)


def test_a_version_that_does_as_before_stays_when_the_time_is_over() -> None:
    early, late = assess(POLICY, 29.9, BEFORE, GOOD, ()), assess(POLICY, 30, BEFORE, GOOD, ())
    assert (early.over, late.over) == (False, True)
    assert early.fault == late.fault == ""
    assert "100 requests, 2.0% failed, 204 ms on average (before: 1000 requests, 1.0% failed, 100 ms" in late.summary


def test_failed_requests_are_a_fault_beyond_what_failed_before() -> None:
    assert assess(POLICY, 1, BEFORE, replace(GOOD, failed=6), ()).fault == ""
    assert assess(POLICY, 1, BEFORE, replace(GOOD, failed=7), ()).fault == (
        "7.0% of 100 requests failed, at most 6.0% may"
    )
    assert assess(POLICY, 1, None, replace(GOOD, failed=6), ()).fault != ""  # nothing is known of before
    assert assess(POLICY, 1, replace(BEFORE, failed=500), replace(GOOD, failed=54), ()).fault == ""  # it was overloaded


def test_slow_answers_are_a_fault_beyond_what_is_slow_anyway_and_what_was_before() -> None:
    assert assess(POLICY, 1, BEFORE, replace(GOOD, seconds=98 * 0.3), ()).fault == ""
    assert assess(POLICY, 1, BEFORE, replace(GOOD, seconds=98 * 0.301), ()).fault == (
        "requests take 301 ms on average, at most 300 ms are allowed"
    )
    assert assess(POLICY, 1, None, replace(GOOD, seconds=98 * 0.249), ()).fault == ""
    assert assess(POLICY, 1, None, replace(GOOD, seconds=98 * 0.251), ()).fault != ""


def test_few_requests_say_nothing() -> None:
    few = Traffic(requests=19, failed=19, answered=0, seconds=0)
    assert assess(POLICY, 1, BEFORE, few, ()).fault == ""
    assert assess(POLICY, 1, BEFORE, None, ()).fault == ""
    assert assess(POLICY, 1, few, replace(GOOD, failed=6), ()).fault != ""  # as few before are no measure


def test_golden_photos_that_disagree_again_and_again_are_a_fault() -> None:
    assert assess(POLICY, 1, None, None, ("off", "off")).fault == ""
    assert (
        "3 golden photos did not get the promised answer: 0.2 off"
        in assess(POLICY, 1, None, None, ("off", "off", "0.2 off")).fault
    )


def test_counters_that_start_again_are_no_difference() -> None:
    assert GOOD.since(BEFORE) is None
    assert BEFORE.since(GOOD) == Traffic(900, 8, 892, 79.0)


METRICS = """# TYPE Requests5XX counter
Requests5XX{Level="Host",Hostname="h",} 3.0
Requests2XX{Level="Host",Hostname="h",} 90.0
ts_inference_requests_total{model_name="bin-counter",model_version="default",hostname="h",} 93.0
ts_inference_requests_total{model_name="bin-counter",model_version="2",hostname="h",} 5.0
ts_inference_requests_total{model_name="other",model_version="default",hostname="h",} 7.0
ts_inference_latency_microseconds_count{model_name="bin-counter",model_version="default",hostname="h",} 90.0
ts_inference_latency_microseconds_sum{model_name="bin-counter",model_version="default",hostname="h",} 1800000.0
ts_inference_latency_microseconds_sum{model_name="bin-counter",model_version="2",hostname="h",} 5000.0
"""


def test_only_requests_without_a_version_are_live_traffic() -> None:
    assert parse_traffic(METRICS) == Traffic(requests=93, failed=3, answered=90, seconds=1.8)
    assert parse_traffic("") == Traffic()


def test_the_environment_sets_the_watch_and_all_problems_are_named_at_once() -> None:
    assert read(ProbationPolicy, {}) == ProbationPolicy(duration_s=30)
    environ = {"BINWATCH_WATCH_S": "5", "BINWATCH_WATCH_MIN_REQUESTS": "7"}
    assert read(ProbationPolicy, environ) == ProbationPolicy(duration_s=5, least_requests=7)
    with pytest.raises(SettingsError, match=r"BINWATCH_WATCH_S is 'long'.*BINWATCH_WATCH_ERROR_SHARE is '2'"):
        read(ProbationPolicy, {"BINWATCH_WATCH_S": "long", "BINWATCH_WATCH_ERROR_SHARE": "2"})
