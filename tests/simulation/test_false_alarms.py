"""The false-alarm promise: of right records, at most alpha raise the alarm."""

import numpy as np
import pytest

from serve.verdict import (
    nonconformity,
    p_value,
)


def drawn_scores(rng: np.random.Generator, photos: int) -> list[float]:
    """The nonconformity of the right count in photos of a mediocre model with two counts."""
    return [nonconformity(right, max(right, 1 - right)) for right in rng.beta(2, 3, photos)]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.2])
def test_of_right_records_at_most_alpha_raises_the_alarm(alpha: float) -> None:
    """The promise does not need a good model."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(300):
        scores = drawn_scores(rng, 150)
        alarms += [p_value(score, scores) <= alpha for score in drawn_scores(rng, 50)]
    share = float(np.mean(alarms))
    print(f"alpha {alpha}: {share:.4f} of {len(alarms)} right records raised the alarm")
    assert alpha - 0.015 < share < alpha + 0.005
