"""What random recounts say of the promise and of the accuracy, and which alerts they raise."""

from dataclasses import replace
from typing import Any

import pytest

from serve.monitoring.recount_statistics import promise_alerts, summarise_recounts
from serve.monitoring.report import Reference
from serve.recount.recount_entities import Outcome, Recount
from tests.unit.captured import answer, event, line, recount, reference, report_on


def stream(number: int, every: int, **more: Any) -> list[Recount]:
    """Recounts of right records, of which one in ``every`` raised the alarm; seven in ten answers are right."""
    return [
        recount(index, alarm=index % every == 0, predicted_count=3 if index % 10 < 7 else 4, **more)
        for index in range(number)
    ]


def test_a_promise_that_holds_raises_no_alert_and_one_that_is_broken_does() -> None:
    kept, broken = summarise_recounts(stream(400, 20), "1", 0.05), summarise_recounts(stream(400, 5), "1", 0.05)
    assert kept is not None
    assert broken is not None
    assert (kept.alarms_on_right.share, kept.alarms_on_right.total) == (0.05, 400)
    assert (kept.accuracy.share, kept.accuracy_estimated, kept.accuracy_compared) == (0.7, 0.7, 400)
    assert promise_alerts(kept) == ()
    (alert,) = promise_alerts(broken)
    assert (alert.name, alert.threshold) == ("promise", 100)
    assert alert.value == broken.promise_e_value > 100
    assert "20.0% of 400" in alert.message
    assert "5.0%" in alert.message


def test_only_right_records_of_the_random_share_that_were_counted_test_the_promise() -> None:
    wrong = [recount(1000 + index, count=2, alarm=True) for index in range(300)]
    chosen = [recount(2000 + index, random=False, alarm=True) for index in range(300)]
    unclear = [
        replace(recount(3000 + index, alarm=True), outcome=Outcome.CANNOT_TELL, count=None) for index in range(300)
    ]
    unjudged = [recount(4000 + index, p_value=None) for index in range(10)]
    statistics = summarise_recounts([*wrong, *chosen, *unclear, *unjudged, *stream(200, 20)], "1", 0.05)
    assert statistics is not None
    assert statistics.alarms_on_right.total == 200
    assert statistics.accuracy.total == 510
    assert statistics.promise_e_value < 1


def test_an_alarm_by_a_weight_alone_is_not_covered_by_the_promise() -> None:
    weighed = [recount(index, alarm=True, p_value=0.3) for index in range(100)]
    statistics = summarise_recounts(weighed, "1", 0.05)
    assert statistics is not None
    assert (statistics.alarms_on_right.share, statistics.alarms_on_right.total) == (0.0, 100)


def test_another_version_begins_anew_and_without_a_reference_it_is_that_of_the_newest_recount() -> None:
    older = stream(400, 5, model_version="1")
    newer = [replace(recount(500 + index), model_version="2") for index in range(10)]
    statistics = summarise_recounts([*newer, *older], None, 0.05)
    assert statistics is not None
    assert (statistics.version, statistics.alarms_on_right.total) == ("2", 10)
    assert summarise_recounts([*newer, *older], "3", 0.05) is None
    assert summarise_recounts([], None, 0.05) is None


def test_an_accuracy_that_the_confidence_does_not_say_raises_an_alert() -> None:
    overconfident = summarise_recounts(stream(300, 20, confidence=0.9), "1", 0.05)
    assert overconfident is not None
    (alert,) = promise_alerts(overconfident)
    assert alert.name == "accuracy"
    assert "70.0% of 300" in alert.message
    assert "90.0%" in alert.message
    unknown = summarise_recounts(stream(300, 20, confidence=None), "1", 0.05)
    assert unknown is not None
    assert (unknown.accuracy.share, unknown.accuracy_estimated, unknown.accuracy_e_value) == (0.7, None, 1.0)


def test_an_open_count_is_right_for_all_above_it() -> None:
    shares = []
    for is_open in (False, True):
        predicted = {"predicted_count": 8, "predicted_open": is_open}
        recounts = [recount(1, count=9, **predicted), recount(2, count=8, **predicted), recount(3, count=7)]
        shares.append(summarise_recounts(recounts, "1", 0.05))
    assert [statistics and statistics.accuracy.share for statistics in shares] == [0.3333, 0.6667]


@pytest.mark.parametrize(("number", "names"), [(0, ["mismatches"]), (99, ["mismatches"]), (100, [])])
def test_the_fixed_share_of_mismatches_counts_until_recounts_can_tell(number: int, names: list[str]) -> None:
    lines = [line(event(1, answer=answer(verdict="mismatch"))) for _ in range(200)]
    report = report_on(lines, recounts=stream(number, 20))
    assert [alert.name for alert in report.alerts] == names
    assert (report.recounts is not None) == (number > 0)


def test_the_version_of_the_reference_is_tested() -> None:
    drawn = reference()
    report = report_on([line(event())], reference=Reference("2", drawn.shares), recounts=stream(10, 5))
    assert report.recounts is None
