"""The benchmark of "not a bin": how many other pictures a model recognises, and how many bins it takes for them.

A linear head on a frozen EfficientNet-Lite0 is trained, or a finished archive is measured. The photos of bins are those
of the test split; the other pictures come from ``tests/benchmarks/other_pictures.py``.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import betabinom

from serve import photo
from serve.archives.archive import manifest_of, unpacked
from serve.counter import BATCH, Counter
from serve.errors import TrainingError
from serve.evidence.novelty import MIN_PHOTOS
from serve.verdict import NOVELTY_LIMIT
from tests.benchmarks.other_pictures import PIECES, other_pictures
from tests.benchmarks.results import COUNTS, Result, machine, rounded
from trainer.data import prepared, synthetic
from trainer.data.dataset import DataSpec, Part
from trainer.training.recipes import RECIPES
from trainer.training.run import run_training

RECIPE = replace(RECIPES["hpo-frozen"], name="frozen-lite0", architecture="efficientnet-lite0", epochs=3)
ENOUGH, DRAWN, DRAWN_SEED = 2400, 200, 4711
TARGET = 0.9
"""The share of the pictures without any bin in them that a model must recognise."""
BINS, DRAWN_BINS, MEAN = "bins of the test split", "newly drawn bins", "pictures without a bin"


def bench_novelty(data: Path, archive: Path | None = None) -> Result:
    """The share of each kind of picture that is called not a bin at the limit of 0.5 %.

    ``data``: of bins; where they are too few for a test, others are drawn. ``archive``: what to measure in place of a
    model that is trained here. It holds when the mean over the kinds without a bin is at least TARGET, and of the bins
    no more than the limit allows, but for chance.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        spec = DataSpec(data if archive or _is_enough(data) else draw_bins(Path(folder) / "bins"), counts=COUNTS)
        archive = archive or run_training(spec, RECIPE, Path(folder) / "out", None).archive
        manifest = manifest_of(archive)
        if not manifest.novelty:
            raise TrainingError(f"{archive} has no test, which takes {MIN_PHOTOS} calibration photos; use more photos")
        test = prepared.load_any(spec, manifest.size_px).test
        drawn = synthetic.draw_dataset(Path(folder) / "drawn", DRAWN, seed=DRAWN_SEED)
        pictures = other_pictures([item.path for item in test.photos])
        pictures[DRAWN_BINS] = [Image.open(path) for path in sorted(drawn.rglob("*.jpg"))]
        with unpacked(archive) as model:
            counter = Counter(model, threads=len(os.sched_getaffinity(0)))
            kinds = {name: _squashed(images, manifest.size_px) for name, images in pictures.items()}
            shares = {BINS: _share_of_bins(counter, test)} | {
                name: _share(counter, batch) for name, batch in kinds.items()
            }
    return result_of(shares, {BINS: len(test), **{name: len(batch) for name, batch in kinds.items()}}, manifest.novelty)


def _is_enough(data: Path) -> bool:
    """Whether a model that is trained on ``data`` has a test."""
    validation = prepared.load_any(DataSpec(data, counts=COUNTS), RECIPE.size_px).validation
    return all(len(half) >= MIN_PHOTOS for half in validation.halves(RECIPE.seed))


def draw_bins(folder: Path) -> Path:
    """Bins enough for a test."""
    return synthetic.draw_dataset(folder, ENOUGH)


def result_of(shares: Mapping[str, float], numbers: Mapping[str, int], scores: Sequence[float]) -> Result:
    """The result from the share and the number of each kind of picture, and the scores of the calibration photos."""
    without_bin = [name for name in shares if name not in (BINS, DRAWN_BINS, *PIECES)]
    mean = float(np.mean([shares[name] for name in without_bin]))
    allowed = largest_share(numbers[BINS], len(scores))
    checks = {
        f"at least {TARGET:.0%} of the pictures without a bin are recognised": mean >= TARGET,
        f"at most {allowed:.1%} of the bins are taken for something else": shares[BINS] <= allowed,
    }
    return Result(
        name="novelty",
        ratio=rounded(mean),
        target=TARGET,
        holds=all(checks.values()),
        peers={MEAN: rounded(mean), **{name: rounded(share) for name, share in shares.items()}},
        runs={f"{name}, photos": [number] for name, number in numbers.items()},
        machine=machine(),
        compared="called not a bin, of",
        checks=checks,
    )


def largest_share(photos: int, calibration_photos: int) -> float:
    """The share of bins that chance alone exceeds once in a thousand models: both samples of photos are random.

    Of exchangeable photos, the number below the limit is beta-binomial (V. Vovk, "Conditional validity of inductive
    conformal predictors", 2012).
    """
    rank = max(1, math.floor(NOVELTY_LIMIT * (calibration_photos + 1)))
    return float(betabinom.ppf(0.999, photos, rank, calibration_photos + 1 - rank) / photos)


def _squashed(images: Sequence[Image.Image], size_px: int) -> photo.Pixels:
    return np.stack([photo.squash(image.convert("RGB"), size_px) for image in images])


def _share_of_bins(counter: Counter, part: Part) -> float:
    return _share(counter, part.pixels[: len(part)])


def _share(counter: Counter, pixels: photo.Pixels) -> float:
    """The share of photos, uint8 ``(N, S, S, 3)``, that are no more typical of bins than the limit."""
    batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    counted = [result for batch in batches for result in counter.count(list(batch))]
    values = [result.answer["typical"] for result in counted if not isinstance(result, Exception)]
    return float(np.mean(np.array(values) <= NOVELTY_LIMIT))
