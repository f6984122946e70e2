import numpy as np
import pytest

from trainer.evaluation.alarms import count_alarms
from trainer.evaluation.evaluation_plots import alarm_curves


def test_counts_alarms_of_right_and_of_wrong_records() -> None:
    fits = np.array([[0.9, 0.04, 0.01], [0.5, 0.03, 0.2]])
    recorded = np.array([1, 2])
    (alarms,) = count_alarms(fits, recorded, (1, 2, 3), ["a", "b"], [0.05])
    assert alarms.false_alarms == 0.5  # the second photo's own record
    assert alarms.false_alarms_interval == (0.0, 1.0)
    # off by one: 2 for the first photo raises the alarm, 1 and 3 for the second do not; off by two: 3 for the first
    assert alarms.caught == {"1": pytest.approx(1 / 3), "2": 1.0, "3+": None}
    assert alarms.metrics() == {"false_alarms": 0.5, "caught_off_by_1": pytest.approx(1 / 3), "caught_off_by_2": 1.0}


def test_an_alarm_at_exactly_alpha_is_one_and_more_of_them_come_with_a_larger_alpha() -> None:
    fits = np.array([[0.05, 1.0]])
    alarms = count_alarms(fits, np.array([1]), (1, 2), ["a"], [0.01, 0.05, 0.1])
    assert [at_alpha.false_alarms for at_alpha in alarms] == [0.0, 1.0, 1.0]


def test_the_curves_show_every_kind_of_record() -> None:
    fits = np.random.default_rng(0).random((50, 5))
    alarms = count_alarms(fits, np.arange(50) % 5 + 1, (1, 2, 3, 4, 5), [str(i) for i in range(50)], [0.1, 0.2, 0.3])
    (axes,) = alarm_curves(alarms).axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["promised at most", "right records", "off by 1", "off by 2", "off by 3+"]
