"""What predictions and photos looked like when a model was trained: what drift is measured against."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve import photo
from trainer.data.counts import Counts
from trainer.data.dataset import Part

PHOTOS = 2000
"""How many training photos are looked at, at most."""

_TENTHS = np.linspace(0, 1, 11)


def reference(probabilities: NDArray[Any], counts: Counts, train: Part, seed: int) -> dict[str, Any]:
    """Shares of the counts predicted, deciles of confidence, brightness and sharpness, 11 numbers each, and how many
    ``photos`` each comes from: drift is told from the luck of a small sample by that.

    ``probabilities``: calibrated, ``(N, C)``, of the photos that calibrated them; the looks are of training photos.
    """
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=len(counts.names)) / len(probabilities)
    rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:PHOTOS])
    looks = np.array([photo.statistics(train.pixels[row]) for row in rows])
    judged, seen = len(probabilities), len(rows)
    return {
        "photos": {"counts": judged, "confidence": judged, "brightness": seen, "sharpness": seen},
        "counts": {name: round(float(share), 6) for name, share in zip(counts.names, predicted, strict=True)},
        "confidence": _deciles(probabilities.max(axis=1)),
        "brightness": _deciles(looks[:, 0]),
        "sharpness": _deciles(looks[:, 1]),
    }


def _deciles(values: NDArray[Any]) -> list[float]:
    return [round(float(each), 4) for each in np.quantile(values, _TENTHS)]
