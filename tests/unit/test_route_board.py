"""What the promoter tells the gateways, and what they tell it."""

import pytest
from pydantic import ValidationError

from serve.routing.comparison import REPORT, Comparison, Report, VersionTraffic
from serve.routing.route_board import RouteBoard
from serve.routing.route_table import Routes, Trial, TrialMode

TRIAL = Trial(id="5-0", version="5", mode=TrialMode.CANARY, share=0.1)


def comparison(trial: str, answered: int) -> Comparison:
    return Comparison(
        trial=trial,
        champion=VersionTraffic(answered=answered),
        challenger=VersionTraffic(failed=1),
        counts={"2>3": answered},
    )


def test_there_are_no_routes_before_a_champion_is_known() -> None:
    board = RouteBoard()
    board.set_trial(TRIAL)
    assert board.routes() is None
    board.publish(("http://a:8080",), "4")
    assert board.routes() == Routes(servers=("http://a:8080",), champion="4", trial=TRIAL)
    board.set_trial(None)
    assert board.routes() == Routes(servers=("http://a:8080",), champion="4")


def test_the_latest_report_of_each_gateway_about_a_trial_counts() -> None:
    board = RouteBoard()
    board.set_trial(TRIAL)
    for gateway, trial, answered in (("a", "5-0", 3), ("a", "5-0", 7), ("b", "5-0", 10), ("c", "4-1", 99)):
        board.receive(Report(gateway=gateway, comparison=comparison(trial, answered)), now_s=0.0)
    summed = board.comparison("5-0")
    assert (summed.champion.answered, summed.challenger.failed, summed.counts) == (17, 2, {"2>3": 17})
    assert board.comparison("6-0") == Comparison(trial="6-0")


def test_a_gateway_that_is_gone_still_counts_for_the_trial_that_it_reported_about() -> None:
    board = RouteBoard()
    board.set_trial(TRIAL)
    board.receive(Report(gateway="gone", comparison=comparison("5-0", 3)), now_s=0.0)
    board.receive(Report(gateway="idle"), now_s=0.0)
    assert board.gateways(now_s=10.0) == 2
    board.receive(Report(gateway="here", comparison=comparison("5-0", 4)), now_s=60.0)
    assert board.gateways(now_s=60.0) == 1
    assert board.comparison("5-0").champion.answered == 7


@pytest.mark.parametrize("latencies", [[0] * 10, [0] * 12])
def test_a_report_with_another_histogram_is_refused(latencies: list[int]) -> None:
    content = {"gateway": "a", "comparison": {"trial": "5-0", "champion": {"latencies": latencies}}}
    with pytest.raises(ValidationError):
        REPORT.validate_python(content)
