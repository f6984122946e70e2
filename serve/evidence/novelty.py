"""Does a photo show what the model learned from? A conformal test for pictures that are not photos of bins.

What the network's head reads of a photo, its features, is compared with the features of training photos: their
direction, since their length says more about light and contrast than about what is seen. The nonconformity score is the
sum of two distances, each 1 in the mean over the training photos: from their centre within the space of their AXES
principal components (Mahalanobis), and from that space. The p-value ``typical`` is the share of bins whose photo scores
as high or higher, by the calibration photos, which neither the network nor the space has learned from (split conformal
prediction, as in ``serve/verdict.py``). Both distances stand in K. Lee et al., "A simple unified framework for
detecting out-of-distribution samples", 2018, and H. Wang et al., "ViM: Out-of-distribution with virtual-logit
matching", 2022; that they are taken of directions is what was best on bins (docs/results.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve import verdict
from serve.errors import ArchiveError
from serve.evidence.arrays import read_arrays, write_arrays

AXES = 32
MIN_PHOTOS = verdict.min_calibration_photos(verdict.NOVELTY_LIMIT)
"""With fewer calibration photos no p-value can be as low as NOVELTY_LIMIT, and an archive has no test."""
_SMALLEST = 1e-12

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Where the features of training photos are.

    ``centre`` ``(W,)``: the mean direction; ``axes`` ``(A, W)``: its principal components, of length 1; ``spreads``
    ``(A,)``: the standard deviation along each; ``residual``: the mean squared distance from their space.
    """

    centre: Floats
    axes: Floats
    spreads: Floats
    residual: float

    @classmethod
    def of(cls, features: Floats) -> "FeatureSpace":
        """The space of the features ``(N, W)`` of training photos."""
        directions = _directions(features)
        centre = directions.mean(axis=0)
        _, deviations, components = np.linalg.svd(directions - centre, full_matrices=False)
        number = max(1, min(AXES, features.shape[1] // 2, len(features) // 4))  # more would leave no residual
        variances = deviations**2 / len(features)
        return cls(
            centre=centre,
            axes=components[:number],
            spreads=np.sqrt(np.maximum(variances[:number], _SMALLEST)),
            residual=max(float(variances[number:].sum()), _SMALLEST),
        )

    def scores(self, features: Floats) -> Floats:
        """How unlike the training photos the photos with these features ``(B, W)`` are, ``(B,)``: about 2 for a bin."""
        offsets = _directions(features) - self.centre
        inside = offsets @ self.axes.T  # (B, A)
        outside = np.maximum((offsets**2).sum(axis=1) - (inside**2).sum(axis=1), 0.0)
        return np.asarray(((inside / self.spreads) ** 2).mean(axis=1) + outside / self.residual)

    def write(self, path: Path) -> None:
        """Store the arrays."""
        residual = np.array(self.residual)
        write_arrays(path, {"centre": self.centre, "axes": self.axes, "spreads": self.spreads, "residual": residual})

    @classmethod
    def read(cls, path: Path) -> "FeatureSpace":
        """The space that ``write`` stored. Raises ArchiveError for a damaged file."""
        arrays = read_arrays(path)
        try:
            centre, axes, spreads = (arrays[name] for name in ("centre", "axes", "spreads"))
            residual = arrays["residual"].item()
        except (KeyError, ValueError) as error:
            raise ArchiveError(f"{path.name} in the archive cannot be read: {error!r:.200}") from error
        if axes.ndim != 2 or axes.shape != (len(spreads), len(centre)) or not (residual > 0 and (spreads > 0).all()):
            shapes = f"{centre.shape}, {axes.shape}, {spreads.shape} and {residual:g}"
            raise ArchiveError(f"{path.name} in the archive holds {shapes}, which do not go together: damaged")
        return cls(centre=centre, axes=axes, spreads=spreads, residual=residual)


def _directions(features: Floats) -> NDArray[np.float64]:
    exact = features.astype(np.float64)
    return np.asarray(exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), _SMALLEST))


def stored_scores(space: FeatureSpace, features: Floats) -> tuple[float, ...]:
    """The scores of calibration photos for the manifest, ascending; none for fewer than MIN_PHOTOS photos."""
    if len(features) < MIN_PHOTOS:
        return ()
    return tuple(float(f"{score:.6g}") for score in np.sort(space.scores(features)))


def typical(score: float, scores: Sequence[float]) -> float:
    """The p-value (0-1) of a photo, rounded up to 4 digits. ``scores``: of the calibration photos.

    A score that is not a number is as unlike a bin as can be.
    """
    return math.ceil(round(1e4 * verdict.p_value(score, scores), 6)) / 1e4
