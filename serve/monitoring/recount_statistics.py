"""What recounts of the random share say: whether the promise about alarms holds, and how accurate answers are. Pure.

Of right records, at most the share alpha may raise the alarm. Only bins that were chosen at random tell: those with an
alarm were recounted because of it. Both tests are sequential (``sequential_test.py``), with the recounts in the order
in which they were settled, and begin again with each model version (docs/decisions/0033-the-promise-is-tested.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve.monitoring.drift import Alert
from serve.monitoring.sequential_test import probability_e_value, rate_e_value
from serve.recount.recount_entities import Recount
from serve.recount.recount_progress import MeasuredShare

FALSE_ALERT_RATE = 0.01
"""Share of model versions for which a test may ever raise an alert without a reason."""
MIN_RIGHT_RECORDS = 100
"""With fewer right records, the share of mismatches among all verdicts has a say, too."""


@dataclass(frozen=True, kw_only=True)
class RecountStatistics:
    """The recounts of the random share for the answers of ``version``.

    ``alarms_on_right``: the share of right records that raised the alarm, which may be ``alpha``; one by a weight alone
    is not covered by the promise, and does not count; ``promise_e_value``: the evidence that it is more;
    ``accuracy``: the share of right answers; ``accuracy_estimated``: the mean confidence of those ``accuracy_compared``
    answers whose confidence is known, None without any; ``accuracy_e_value``: the evidence that their confidence is not
    the probability to be right. From ``threshold`` on, evidence is an alert.
    """

    version: str
    alpha: float
    alarms_on_right: MeasuredShare
    promise_e_value: float
    accuracy: MeasuredShare
    accuracy_estimated: float | None
    accuracy_compared: int
    accuracy_e_value: float
    threshold: float = 1 / FALSE_ALERT_RATE

    @property
    def tests_promise(self) -> bool:
        """Whether there are enough recounts to do without the coarse share of mismatches."""
        return self.alarms_on_right.total >= MIN_RIGHT_RECORDS


def summarise_recounts(recounts: Sequence[Recount], version: str | None, alpha: float) -> RecountStatistics | None:
    """The statistics of a version, without one of that of the newest recount; None where it has no random recount.

    ``alpha``: the promised share (0-1).
    """
    counted = sorted(
        (recount for recount in recounts if recount.random and recount.count is not None),
        key=lambda recount: (recount.settled_at, recount.event_id),
    )
    if version is None and counted:
        version = counted[-1].model_version
    drawn = [recount for recount in counted if recount.model_version == version]
    if version is None or not drawn:
        return None
    false_alarms = [false for recount in drawn if (false := recount.is_false_alarm(alpha)) is not None]
    alarms = np.array(false_alarms, bool)
    compared = [recount for recount in drawn if recount.confidence is not None]
    confidence = np.array([recount.confidence for recount in compared], np.float64)
    return RecountStatistics(
        version=version,
        alpha=alpha,
        alarms_on_right=MeasuredShare.of(false_alarms),
        promise_e_value=_rounded(rate_e_value(alarms, alpha)),
        accuracy=MeasuredShare.of([recount.answer_was_right for recount in drawn]),
        accuracy_estimated=round(float(confidence.mean()), 4) if compared else None,
        accuracy_compared=len(compared),
        accuracy_e_value=_rounded(
            probability_e_value(np.array([recount.answer_was_right for recount in compared], bool), confidence)
        ),
    )


def promise_alerts(statistics: RecountStatistics | None) -> tuple[Alert, ...]:
    """The alerts that the recounts raise."""
    if statistics is None:
        return ()
    alarms, accuracy, estimated = statistics.alarms_on_right, statistics.accuracy, statistics.accuracy_estimated or 0.0
    since = f"by the random recounts of version {statistics.version}"
    rules = [
        (
            "promise",
            statistics.promise_e_value,
            f"{alarms.share or 0:.1%} of {alarms.total} right records raised the alarm {since}, more than the promised "
            f"{statistics.alpha:.1%}; calibrate the scores again with scripts/recalibrate.py, or look at what changed",
        ),
        (
            "accuracy",
            statistics.accuracy_e_value,
            f"{accuracy.share or 0:.1%} of {accuracy.total} answers are right {since}, but the confidence of "
            f"{statistics.accuracy_compared} of them says {estimated:.1%}; do not rely on the estimated accuracy, and "
            "look at what changed",
        ),
    ]
    return tuple(
        Alert(name, e_value, statistics.threshold, message)
        for name, e_value, message in rules
        if e_value >= statistics.threshold
    )


def _rounded(e_value: float) -> float:
    """Three digits of a number that may be very small or very large."""
    return float(f"{e_value:.3g}")
