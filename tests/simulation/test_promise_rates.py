"""How often the test of the promise raises an alert while it is kept, and after how many recounts when it is broken."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.monitoring.recount_statistics import FALSE_ALERT_RATE
from serve.monitoring.sequential_test import probability_e_value, rate_e_value

ALPHA, STREAMS, LENGTH, STEP = 0.05, 400, 1500, 25
LIMIT = 1 / FALSE_ALERT_RATE


def first_alerts(rate: float, seed: int) -> NDArray[np.float64]:
    """After how many recounts of right records each stream first raises the alert; infinity for never.

    The alert is looked for after every STEP recounts: an e-value that is above the limit seldom falls at once.
    """
    rng, first = np.random.default_rng(seed), np.full(STREAMS, np.inf)
    for stream in range(STREAMS):
        alarms = rng.random(LENGTH) < rate
        lengths = range(STEP, LENGTH + 1, STEP)
        first[stream] = next((length for length in lengths if rate_e_value(alarms[:length], ALPHA) >= LIMIT), np.inf)
    return first


def test_while_the_promise_is_kept_at_most_the_stated_share_of_streams_ever_raises_an_alert() -> None:
    """At exactly alpha, the worst case: at most 4 of 400 streams are expected to; 11 have 3 chances in 1,000."""
    alerts = np.isfinite(first_alerts(ALPHA, seed=1))
    print(f"{alerts.sum()} of {STREAMS} streams of {LENGTH} recounts ever raise an alert at {ALPHA:.0%}")
    assert alerts.mean() <= 10 / STREAMS


@pytest.mark.parametrize(("multiple", "median", "nine_tenths"), [(2, 400, 800), (3, 140, 280)])
def test_a_broken_promise_raises_an_alert_after_some_hundred_recounts(
    multiple: float, median: int, nine_tenths: int
) -> None:
    recounts = first_alerts(multiple * ALPHA, seed=2)
    print(f"{multiple} alpha: alert after {np.quantile(recounts, [0.1, 0.5, 0.9])} recounts of right records")
    assert np.median(recounts) < median
    assert np.quantile(recounts, 0.9, method="higher") < nine_tenths


def test_confidence_that_is_right_raises_no_alert_and_one_that_is_ten_points_too_high_does() -> None:
    rng, alerts = np.random.default_rng(3), {0.0: 0, 0.1: 0}
    for _ in range(300):
        confidence = rng.uniform(0.4, 0.95, 600)
        luck = rng.random(600)
        for excess in alerts:
            correct = luck < confidence - excess
            looks = (probability_e_value(correct[:length], confidence[:length]) for length in range(50, 601, 50))
            alerts[excess] += max(looks) >= LIMIT
    print(f"alerts in 300 streams of 600 recounts, by how much too high the confidence is: {alerts}")
    assert alerts[0.0] <= 9  # 3 are expected at most; 10 have 1 chance in 1,000
    assert alerts[0.1] >= 240
