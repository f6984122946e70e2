"""How far a model's confidence can be believed, and one number that sets it right.

The temperature divides the logits, so it changes how sure an answer is and never which one it is.
It is fitted on the half of the validation photos that chose neither epoch nor recipe.
C. Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from serve import verdict

BINS = 15
COLDEST, HOTTEST = 0.1, 10.0


@dataclass(frozen=True)
class Reliability:
    """Answers of about the same confidence: its mean, the share that is right (both 0-1), and how many."""

    confidence: float
    accuracy: float
    answers: int


def fit_temperature(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """The temperature, 0.1-10, with the lowest cross-entropy. Logits ``(N, C)``, labels ``(N,)``; 1 without any."""
    if not len(labels):
        return 1.0
    rows = np.arange(len(labels))

    def cross_entropy(exponent: float) -> float:
        return -float(log_softmax(logits / np.exp(exponent), axis=1)[rows, labels].mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def reliability(probabilities: NDArray[Any], correct: NDArray[np.bool_]) -> list[Reliability]:
    """Answers by their confidence, in BINS steps of equal width; empty steps are left out."""
    confidence = probabilities.max(axis=1)
    step = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = (step == number for number in range(BINS))
    return [
        Reliability(float(confidence[each].mean()), float(correct[each].mean()), int(each.sum()))
        for each in members
        if each.any()
    ]


def expected_calibration_error(probabilities: NDArray[Any], correct: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy, 0-1, weighted by how many answers there are."""
    found = reliability(probabilities, correct)
    return sum(each.answers * abs(each.confidence - each.accuracy) for each in found) / len(correct)


def calibrate(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """The temperature, and how far confidence and accuracy are apart without and with it, by name."""
    temperature = fit_temperature(logits, labels)
    correct = logits.argmax(axis=1) == labels
    errors = {
        name: expected_calibration_error(softmax(logits / divisor, axis=1), correct)
        for name, divisor in (("calibration_error_before", 1.0), ("calibration_error", temperature))
    }
    return {"temperature": temperature, **errors}


def conformal_scores(logits: NDArray[Any], labels: NDArray[Any], names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Of each count, how badly its calibration photos fit it, for the verdict: ascending, uncalibrated."""
    probabilities = softmax(logits, axis=1)
    own, most = probabilities[np.arange(len(labels)), labels], probabilities.max(axis=1)
    scores = np.array([round(verdict.score(*each), 6) for each in zip(own.tolist(), most.tolist(), strict=True)])
    return {name: tuple(sorted(scores[labels == label].tolist())) for label, name in enumerate(names)}
