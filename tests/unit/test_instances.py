"""How many servers are wanted."""

import pytest

from serve.errors import SettingsError
from serve.rollout.autoscale import Decision, ScalingPolicy
from serve.rollout.instances import InstancePolicy, decide_instances
from serve.settings import read

SCALING = ScalingPolicy(most=2, target=0.7)
POLICY = InstancePolicy(fewest=1, most=3)


def wanted(*busy: float | None, workers: int = 2) -> int:
    """How many are wanted when servers with this many workers have these busy shares."""
    return decide_instances([Decision(workers, "", share) for share in busy], SCALING, POLICY).instances


def test_as_many_servers_are_wanted_as_keep_the_workers_near_the_target() -> None:
    assert wanted(0.7) == 1
    assert wanted(0.71) == 2
    assert wanted(1.0, 1.0) == 3
    assert wanted(1.0, 1.0, 1.0) == 3  # the largest number


def test_a_server_with_one_worker_gets_more_workers_before_there_are_more_servers() -> None:
    assert wanted(1.0, workers=1) == 1


def test_a_server_is_given_up_only_where_the_others_stay_clearly_below_the_target() -> None:
    assert wanted(0.34, 0.34) == 2
    assert wanted(0.31, 0.31) == 1


def test_without_a_measurement_of_each_server_nothing_changes() -> None:
    assert wanted(1.0, None) == 2
    assert decide_instances([], SCALING, POLICY).instances == 1
    assert decide_instances([Decision(2, "")] * 5, SCALING, POLICY).instances == 3


def test_the_log_says_how_many_serve_and_how_many_are_wanted() -> None:
    text = str(decide_instances([Decision(2, "", 1.0)], SCALING, POLICY))
    assert text == "servers that serve: 1, wanted: 2; 2.0 workers are busy, a server has up to 2, target 70%"


def test_the_largest_number_is_no_smaller_than_the_smallest() -> None:
    with pytest.raises(SettingsError, match="BINWATCH_MAX_INSTANCES"):
        read(InstancePolicy, {"BINWATCH_MIN_INSTANCES": "4", "BINWATCH_MAX_INSTANCES": "2"})
