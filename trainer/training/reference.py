"""The reference for drift: how predictions and photos were distributed when a model was trained."""

import numpy as np
from numpy.typing import NDArray

from serve import photo
from trainer.data.counts import Counts
from trainer.data.dataset import Part

MAX_PHOTOS = 2000
"""How many training photos are measured at most."""

_DECILES = np.linspace(0, 1, 11)


def drift_reference(
    probabilities: NDArray[np.float64], calibration_error: float, counts: Counts, train: Part, seed: int
) -> dict[str, dict[str, int] | dict[str, float] | list[float] | float]:
    """Shares of the predicted counts; 11 deciles each of confidence, brightness and sharpness; and the sample sizes.

    The sample sizes (``photos``) are needed to tell drift from chance. ``probabilities``: calibrated, ``(N, C)``, of
    the calibration photos; ``calibration_error``: of these (0-1), for the estimate of the accuracy from confidence;
    brightness and sharpness are those of training photos.
    """
    shares = np.bincount(probabilities.argmax(axis=1), minlength=len(counts.names)) / len(probabilities)
    rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:MAX_PHOTOS])
    statistics = np.array([photo.statistics(train.pixels[row]) for row in rows])
    predicted, measured = len(probabilities), len(rows)
    return {
        "photos": {"counts": predicted, "confidence": predicted, "brightness": measured, "sharpness": measured},
        "calibration_error": round(calibration_error, 4),
        "counts": {name: round(float(share), 6) for name, share in zip(counts.names, shares, strict=True)},
        "confidence": _deciles(probabilities.max(axis=1)),
        "brightness": _deciles(statistics[:, 0]),
        "sharpness": _deciles(statistics[:, 1]),
    }


def _deciles(values: NDArray[np.float64]) -> list[float]:
    return [round(float(decile), 4) for decile in np.quantile(values, _DECILES)]
