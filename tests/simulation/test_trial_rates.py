"""How often the comparison on live traffic returns a challenger that is as good as expected, and one that is worse."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from serve.rollout.probation import ProbationPolicy
from serve.routing.comparison import Comparison
from tests.conftest import rounds
from trainer.promotion.rollout_policy import RolloutPolicy
from trainer.promotion.trial_decision import Expected, TrialStep, by_count, decide

COUNTS = ("1", "2", "3", "4", "5")
LIMITS = ProbationPolicy(duration_s=0)


def pairs(rng: np.random.Generator, photos: int, shares: dict[str, float]) -> Counter[str]:
    """Photos of each count alike; the challenger gives another count to ``shares`` of them."""
    names = [f"{own}>{own if same else 'other'}" for own in COUNTS for same in (True, False)]
    cells = [share / len(COUNTS) for own in COUNTS for share in (1 - shares[own], shares[own])]
    return Counter(dict(zip(names, map(int, rng.multinomial(photos, cells)), strict=True)))


def expected_from(rng: np.random.Generator, photos: int, share: float) -> dict[str, Expected]:
    return by_count(pairs(rng, photos, dict.fromkeys(COUNTS, share)))


def is_returned(
    rng: np.random.Generator,
    policy: RolloutPolicy,
    live: dict[str, float],
    expected: dict[str, Expected],
    steps: int = 50,
) -> bool:
    """Whether any stage of a rollout returns the challenger, with a decision after every ``steps`` photos."""
    for _ in policy.stages:
        counts, look = Counter[str](), -1
        for _ in range(2 * policy.photos // steps):
            counts += pairs(rng, steps, live)
            decision = decide(policy, LIMITS, Comparison(trial="7", counts=counts), expected, 0.0, look)
            if decision.step == TrialStep.RETURN:
                return True
            look = decision.look
    return False


@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("plan", ["shadow", "canary:10,50,100"])
def test_a_challenger_that_is_as_expected_is_hardly_ever_returned(plan: str, share: float) -> None:
    """Luck alone may return 2 % of them, and so more of a few: at most as many as happen once in 1,000 runs."""
    rng = np.random.default_rng(22)
    policy = RolloutPolicy(plan=plan, photos=200)
    number = rounds(50, 2000)
    returned = sum(
        is_returned(rng, policy, dict.fromkeys(COUNTS, share), expected_from(rng, 1000, share)) for _ in range(number)
    )
    assert returned <= binom.ppf(0.999, number, 0.02)


def test_a_challenger_that_differs_a_little_more_on_live_photos_is_not_returned() -> None:
    rng = np.random.default_rng(23)
    live, policy, number = dict.fromkeys(COUNTS, 0.25), RolloutPolicy(plan="shadow"), rounds(50, 2000)
    returned = sum(is_returned(rng, policy, live, expected_from(rng, 1000, 0.2)) for _ in range(number))
    assert returned <= 0.02 * number


@pytest.mark.parametrize(("photos", "tested", "share"), [(200, 1000, 0.85), (400, 1000, 0.99), (500, 500, 0.99)])
def test_a_challenger_that_errs_at_one_count_is_caught_before_it_proceeds(
    photos: int, tested: int, share: float
) -> None:
    """It differs at 60 % of the photos of one count where 20 % are expected."""
    rng = np.random.default_rng(24)
    policy = RolloutPolicy(plan="shadow", photos=photos)
    live = {**dict.fromkeys(COUNTS, 0.2), "3": 0.6}
    number = rounds(150, 3000)
    caught = 0
    for _ in range(number):
        comparison, expected = Comparison(trial="7", counts=pairs(rng, photos, live)), expected_from(rng, tested, 0.2)
        decision = decide(policy, LIMITS, comparison, expected, 0.0)
        caught += decision.step == TrialStep.RETURN
    assert caught >= share * number
