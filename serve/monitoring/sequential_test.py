"""Tests by betting, which may be looked at after every observation without more false alerts. Pure.

An e-value is what a player who starts with 1 owns after betting against a hypothesis. While the hypothesis is true, the
player expects to win nothing, so with a probability of at most 1 / x the e-value ever reaches x (J. Ville, 1939). See
I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, Journal of the Royal Statistical
Society B 86(1), 2024.

The players here divide their money among several bets and among the times at which they begin, every RESTART
observations: a hypothesis can become false after it was true for long, and money that bet all the time would be lost by
then. The k-th share is 1 / (k (k + 1)) of the money; what no player uses yet is kept.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

RESTART = 100
MULTIPLES = np.array([1.5, 2.0, 3.0, 5.0, 10.0])
"""Bets against "at most this rate": the rate of an event that has this many times as many chances to occur."""
STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Bets against probabilities: these shares of the money, on "higher" and on "lower"."""
MAX_E_VALUE = 1e9
"""More says nothing, and JSON has no infinity."""


def rate_e_value(events: NDArray[np.bool_], rate: float) -> float:
    """The e-value against "each event has a probability of at most ``rate``" (0-1), whatever happened before.

    ``events``: in the order of their times, shape ``(N,)``.
    """
    if not 0 < rate < 1:
        return 1.0
    rates = (1 - (1 - rate) ** MULTIPLES)[:, None]
    return _e_value(np.where(events, np.log(rates / rate), np.log((1 - rates) / (1 - rate))))


def probability_e_value(correct: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """The e-value against "each is correct with its ``probability``" (0-1); both in the order of time, ``(N,)``."""
    stakes = np.concatenate([STAKES, -STAKES])[:, None]
    return _e_value(np.log1p(stakes * (correct - probability)))


def _e_value(gains: NDArray[np.float64]) -> float:
    """The e-value of bets with these logarithms of what each observation multiplies their money by, ``(bets, N)``."""
    bets, number = gains.shape
    sums = np.concatenate([np.zeros((bets, 1)), np.cumsum(gains, axis=1)], axis=1)
    starts = np.arange(0, number, RESTART)
    players = np.arange(1, len(starts) + 1)
    money = logsumexp(sums[:, -1:] - sums[:, starts], axis=0) - np.log(bets) - np.log(players * (players + 1))
    total = float(logsumexp([*money, -np.log(len(starts) + 1)]))
    return min(float(np.exp(min(total, 50.0))), MAX_E_VALUE)
