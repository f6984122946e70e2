"""Temperature scaling with its calibration error, and the conformal scores behind the promise about false alarms.

The temperature divides the logits: it changes how confident an answer is, never which count it names. It is fitted on
the half of the validation photos that selected neither the epoch nor the recipe.
C. Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from serve import verdict

STEPS = 15
"""Intervals of equal width into which confidences are grouped."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0

Logits = NDArray[np.float32] | NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """Answers of similar confidence: their mean confidence and the share that is right (both 0-1), and their number."""

    confidence: float
    accuracy: float
    answers: int


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature, 0.1-10, with the lowest cross-entropy. Logits ``(N, C)``, labels ``(N,)``; 1 where N is 0."""
    if not len(labels):
        return 1.0
    from scipy.optimize import minimize_scalar  # half a second to import, and most programs fit nothing

    rows = np.arange(len(labels))

    def cross_entropy(exponent: float) -> float:
        return -float(log_softmax(logits / np.exp(exponent), axis=1)[rows, labels].mean())

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def reliability(probabilities: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[Reliability]:
    """The answers by confidence, in STEPS intervals; empty ones are left out."""
    confidence = probabilities.max(axis=1)
    step = np.minimum((confidence * STEPS).astype(int), STEPS - 1)
    members = (step == number for number in range(STEPS))
    return [
        Reliability(float(confidence[mask].mean()), float(correct[mask].mean()), int(mask.sum()))
        for mask in members
        if mask.any()
    ]


def expected_calibration_error(probabilities: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy, 0-1, weighted by the number of answers."""
    groups = reliability(probabilities, correct)
    return sum(group.answers * abs(group.confidence - group.accuracy) for group in groups) / len(correct)


def calibrate(logits: Logits, labels: Labels) -> dict[str, float]:
    """The fitted temperature, and the calibration error before and after dividing by it, by metric name."""
    temperature = fit_temperature(logits, labels)
    correct = logits.argmax(axis=1) == labels
    errors = {
        name: expected_calibration_error(softmax(logits / divisor, axis=1), correct)
        for name, divisor in (("calibration_error_before", 1.0), ("calibration_error", temperature))
    }
    return {"temperature": temperature, **errors}


def conformal_scores(logits: Logits, labels: Labels, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The nonconformity scores of each count's calibration photos, ascending, for ``serve/verdict.py``.

    They are computed from the probabilities at temperature 1.
    """
    probabilities = softmax(logits, axis=1)
    recorded, highest = probabilities[np.arange(len(labels)), labels], probabilities.max(axis=1)
    pairs = zip(recorded.tolist(), highest.tolist(), strict=True)
    scores = np.array([round(verdict.nonconformity(*pair), 6) for pair in pairs])
    return {name: tuple(sorted(scores[labels == label].tolist())) for label, name in enumerate(names)}
