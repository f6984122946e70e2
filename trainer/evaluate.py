"""Evaluation of an archive as it will be served: the photos' bytes through its own code.

The champion and the challenger are evaluated on the same photos: an ``Evaluation`` carries the
fingerprint of its photos, and the gate refuses to compare two that differ.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve import archive
from serve.errors import DataError, PhotoError
from trainer.abid import Photo
from trainer.calibration import expected_calibration_error
from trainer.counts import Counts
from trainer.dataset import Part

RESAMPLES = 2000
REPORT_MIX = {"1": 0.12, "2": 0.22, "3": 0.25, "4": 0.23, "5": 0.18}
"""The share of each count among the photos of the report that binwatch starts from."""


@dataclass(frozen=True)
class Prediction:
    """What a model said of one photo."""

    id: str
    bin: str
    recorded: int
    count: int
    expected_count: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy (most probable count), its 95 % interval, errors in objects, and what they rest on.

    ``classes``: the names of the counts, such as ``5`` or ``8+``, which counts as 8.

    ``accuracy_interval``: percentile bootstrap over bins, since photos of one bin are not
    independent (Field, Welsh 2007, "Bootstrapping clustered data"). ``confusion``: rows the
    recorded counts, columns the predicted, in the order of ``classes``. ``calibration_error``: how far
    confidence and accuracy are apart (0-1).
    """

    classes: tuple[str, ...]
    photos: int
    fingerprint: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    rmse: float
    rmse_most_probable: float
    per_class_accuracy: dict[str, float]
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float | None = None
    per_class_rmse: dict[str, float] = field(default_factory=dict)

    def weighted(self, mix: Mapping[str, float] = REPORT_MIX) -> tuple[float, float] | None:
        """Accuracy and RMSE as they would be if the counts were mixed like ``mix``; None for other counts.

        A split of other proportions is easier or harder: the middle counts are the hard ones.
        """
        if not set(mix) == set(self.per_class_rmse) == set(self.classes):
            return None
        accuracy = sum(share * self.per_class_accuracy[name] for name, share in mix.items())
        return accuracy, math.sqrt(sum(share * self.per_class_rmse[name] ** 2 for name, share in mix.items()))

    def to_sagemaker(self) -> dict[str, Any]:
        """The shape of SageMaker's model quality metrics, which a pipeline's JsonGet reads.

        https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-model-quality-metrics.html
        """
        confusion = {
            recorded: dict(zip(self.classes, row, strict=True))
            for recorded, row in zip(self.classes, self.confusion, strict=True)
        }
        return {
            "multiclass_classification_metrics": {
                "accuracy": {"value": self.accuracy, "standard_deviation": "NaN"},
                "confusion_matrix": confusion,
            },
            "regression_metrics": {"rmse": {"value": self.rmse, "standard_deviation": "NaN"}},
            "binwatch": asdict(self),
        }

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        low, high = self.accuracy_interval
        mixed = dict(
            zip(("test_accuracy_of_report_mix", "test_rmse_of_report_mix"), self.weighted() or (), strict=False)
        )
        return {
            "test_accuracy": self.accuracy, "test_accuracy_low": low, "test_accuracy_high": high,
            "test_rmse": self.rmse, "test_rmse_most_probable": self.rmse_most_probable,
            **{f"test_accuracy_of_{name.replace('+', '_and_above')}": value
               for name, value in self.per_class_accuracy.items()},
            **mixed,
            **({} if self.calibration_error is None else {"test_calibration_error": self.calibration_error}),
        }  # fmt: skip


def from_json(text: str) -> Evaluation:
    """Read an Evaluation back from ``evaluation.json``. Raises DataError."""
    try:
        content = json.loads(text)["binwatch"]
        content["classes"] = tuple(map(str, content["classes"]))
        content["accuracy_interval"] = tuple(content["accuracy_interval"])
        content["confusion"] = tuple(tuple(row) for row in content["confusion"])
        return Evaluation(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"this is not an evaluation.json of binwatch: {error!r}") from error


def predict(model: Path, photos: Sequence[Photo], threads: int = 2) -> list[Prediction]:
    """Ask the packed archive ``model``, with its own code, about ``photos``. Raises PhotoError, ArchiveError."""
    answers = archive.ask(model, [photo.path for photo in photos], threads)
    bar = tqdm(answers, total=len(photos), desc="evaluating", unit="photo")
    return [_prediction(*pair) for pair in zip(photos, bar, strict=True)]


def _prediction(photo: Photo, answer: dict[str, Any]) -> Prediction:
    if "error" in answer:
        raise PhotoError(f"test photo {photo.id}: {answer['error']}")
    probabilities = tuple(answer["probabilities"].values())
    return Prediction(photo.id, photo.bin, photo.count, answer["count"], answer["expected_count"], probabilities)


def evaluate(model: Path, part: Part, seed: int = 0) -> tuple[Evaluation, list[Prediction]]:
    """Evaluate the packed archive ``model`` on the test split ``part``."""
    predictions = predict(model, part.photos)
    about = archive.manifest_of(model)
    counts = Counts(about.classes, about.open_top)
    return summarise(predictions, counts, part.fingerprint, seed), predictions


def summarise(predictions: Sequence[Prediction], counts: Counts, fingerprint: str, seed: int = 0) -> Evaluation:
    """The metrics of ``predictions``. Raises DataError where there are none."""
    if not predictions:
        raise DataError("there is no test photo to evaluate on; add photos or raise LIMIT")
    recorded = np.array([each.recorded for each in predictions])
    counted = np.array([each.count for each in predictions])
    expected = np.array([each.expected_count for each in predictions])
    correct = recorded == counted
    probabilities = np.array([each.probabilities for each in predictions])
    return Evaluation(
        classes=counts.names,
        photos=len(predictions),
        fingerprint=fingerprint,
        accuracy=float(correct.mean()),
        accuracy_interval=bootstrap_interval(correct, [each.bin for each in predictions], seed),
        calibration_error=expected_calibration_error(probabilities, correct),
        rmse=_rmse(expected - recorded),
        rmse_most_probable=_rmse(counted - recorded),
        per_class_accuracy={
            name: float(correct[recorded == c].mean())
            for name, c in zip(counts.names, counts.values, strict=True)
            if (recorded == c).any()
        },
        per_class_rmse={
            name: _rmse((expected - recorded)[recorded == c])
            for name, c in zip(counts.names, counts.values, strict=True)
            if (recorded == c).any()
        },
        confusion=tuple(
            tuple(int(((recorded == r) & (counted == c)).sum()) for c in counts.values) for r in counts.values
        ),
    )


def _rmse(errors: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64))))


def bootstrap_interval(correct: NDArray[np.bool_], bins: Sequence[str], seed: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy (0-1), resampling whole bins with replacement."""
    _, index = np.unique(np.array(bins), return_inverse=True)
    right, total = np.bincount(index, weights=correct), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(total), (RESAMPLES, len(total)))
    accuracies = right[drawn].sum(axis=1) / total[drawn].sum(axis=1)
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return float(low), float(high)
