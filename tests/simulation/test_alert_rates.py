"""How often the monitor raises an alert while nothing changes, and that it does when something does."""

import numpy as np
import pytest

from serve.monitoring import drift
from tests.unit.captured import LIMITS, drawn, reference, report_on


def deciles(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    return [float(value) for value in np.quantile(values, np.linspace(0, 1, 11))]


def brightness_of(seed: int, number: int, shift: float = 0.0) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.random.default_rng(seed).normal(110, 25, number) + shift


def test_nothing_that_changed_raises_no_alert_for_twenty_days() -> None:
    """Four indices a day at 1 false alarm in 1,000: 20 days have one with a probability of 8 %; these have none."""
    for seed in range(20):
        report = report_on(drawn(seed), reference=reference(seed=1000 + seed))
        assert [index.name for index in report.drift] == ["counts", "confidence", "brightness", "sharpness"]
        assert report.alerts == ()


def test_half_the_brightness_raises_an_alert_of_that_alone() -> None:
    for seed in range(5):
        report = report_on(drawn(seed, brightness=0.5), reference=reference())
        assert [alert.name for alert in report.alerts] == ["drift of brightness"]
        assert "brightness" in report.alerts[0].message


@pytest.mark.parametrize(("now", "before"), [(200, 200), (200, 2000), (5000, 100)])
def test_without_any_change_alerts_are_as_rare_as_stated(now: int, before: int) -> None:
    """A false alarm in 1,000 reports: of 2,000 there are 2; more than 10 would have a probability of 1 in 100,000."""
    alarms, indices = 0, []
    for seed in range(2000):
        reference = {"brightness": deciles(brightness_of(2 * seed, before)), "photos": {"brightness": before}}
        (brightness,) = drift.compare({}, {"brightness": brightness_of(2 * seed + 1, now)}, reference, LIMITS)
        alarms += brightness.alert
        indices.append(brightness.psi or 0.0)
    assert alarms <= 10
    assert np.mean(indices) == pytest.approx(9 * (1 / now + 1 / before), rel=0.15)
