"""Evaluation of an archive as it will be served: the photos' bytes through its own code.

The champion and the challenger are evaluated on the same photos: an ``Evaluation`` carries the
fingerprint of its photos, and the gate refuses to compare two that differ.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serve.archives.archive import ask, manifest_of
from serve.errors import DataError, PhotoError
from trainer.data.abid import Photo
from trainer.data.counts import Counts
from trainer.data.dataset import Part
from trainer.evaluation import alarms
from trainer.evaluation.alarms import Alarms
from trainer.evaluation.calibration import expected_calibration_error
from trainer.evaluation.statistics import bootstrap_interval

TIMED, LEAST_TIMED = 32, 4
"""Latency is timed over so many answers at once, the archive's batch, and at least so many times."""

REPORT_MIX = {"1": 0.12, "2": 0.22, "3": 0.25, "4": 0.23, "5": 0.18}
"""The share of each count among the photos of the report that binwatch starts from."""


@dataclass(frozen=True)
class Prediction:
    """What a model said of one photo. ``probabilities`` and ``fit`` (p-values): 0-1, one a count."""

    id: str
    bin: str
    recorded: int
    count: int
    expected_count: float
    probabilities: tuple[float, ...]
    fit: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Accuracy (most probable count), its 95 % interval, errors in objects, and what they rest on.

    ``classes``: the names of the counts, such as ``5`` or ``8+``, which counts as 8.

    ``accuracy_interval``: percentile bootstrap over bins, since photos of one bin are not
    independent (Field, Welsh 2007, "Bootstrapping clustered data"). ``confusion``: rows the
    recorded counts, columns the predicted, in the order of ``classes``. ``calibration_error``: how far
    confidence and accuracy are apart (0-1); ``report_mix``: accuracy and RMSE as they would be with the
    counts mixed as in REPORT_MIX; ``alarms``: what the verdict comes to.
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
    report_mix: dict[str, float] = field(default_factory=dict)
    alarms: tuple[Alarms, ...] = ()

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
        return {
            "test_accuracy": self.accuracy,
            "test_accuracy_low": low,
            "test_accuracy_high": high,
            "test_rmse": self.rmse,
            "test_rmse_most_probable": self.rmse_most_probable,
            **{
                f"test_accuracy_of_{name.replace('+', '_and_above')}": value
                for name, value in self.per_class_accuracy.items()
            },
            **{f"test_{name}_of_report_mix": value for name, value in self.report_mix.items()},
            **{
                f"{name}_at_{round(100 * each.alpha)}": value
                for each in self.alarms
                for name, value in each.metrics().items()
            },
            **({} if self.calibration_error is None else {"test_calibration_error": self.calibration_error}),
        }


def from_json(text: str) -> Evaluation:
    """Read an Evaluation back from ``evaluation.json``. Raises DataError."""
    try:
        content = json.loads(text)["binwatch"]
        content["classes"] = tuple(map(str, content["classes"]))
        content["accuracy_interval"] = tuple(content["accuracy_interval"])
        content["confusion"] = tuple(tuple(row) for row in content["confusion"])
        content["alarms"] = tuple(alarms.from_dict(each) for each in content.get("alarms", ()))
        content.pop("per_class_rmse", None)  # of evaluations made before report_mix
        return Evaluation(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"this is not an evaluation.json of binwatch: {error!r}") from error


@dataclass(frozen=True)
class Evaluated:
    """One side of the gate's comparison: the metrics, every answer, and what the answers cost.

    ``latency_ms``: milliseconds a photo, None where they were not measured in the same run as the other side's;
    ``archive_bytes``: size of the packed archive, None where it is not at hand.
    """

    evaluation: Evaluation
    predictions: Sequence[Prediction]
    latency_ms: float | None = None
    archive_bytes: int | None = None

    def costs(self) -> dict[str, float]:
        """What is known of time and space, to log by name."""
        megabytes = None if self.archive_bytes is None else self.archive_bytes / 1e6
        found = {"test_latency_ms": self.latency_ms, "archive_mb": megabytes}
        return {name: value for name, value in found.items() if value is not None}


def predictions_from_json(text: str) -> list[Prediction]:
    """Read ``predictions.json`` back: a list a column, or the table that MLflow keeps. Raises DataError."""
    try:
        content = json.loads(text)
        columns = (
            content
            if "id" in content
            else dict(zip(content["columns"], zip(*content["data"], strict=True), strict=True))
        )
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [_read(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"this is not a predictions.json of binwatch: {error!r}") from error


def _read(row: Mapping[str, Any]) -> Prediction:
    lists = {name: tuple(row.get(name) or ()) for name in ("probabilities", "fit")}
    return Prediction(**{**row, **lists})


def predict(model: Path, photos: Sequence[Photo], threads: int = 2) -> list[Prediction]:
    """Ask the packed archive ``model``, with its own code, about ``photos``. Raises PhotoError, ArchiveError."""
    return _timed(model, photos, threads, len(photos))[0]


def _timed(model: Path, photos: Sequence[Photo], threads: int, asked: int) -> tuple[list[Prediction], float | None]:
    """The answers, and the median of milliseconds a photo, each over TIMED answers in a row.

    What comes before the first answer, such as loading, does not count. ``asked``: how many photos are asked about;
    more than there are, and it goes round again.
    """
    paths = [photos[number % len(photos)].path for number in range(asked)]
    found, moments = [], []
    for number, answer in enumerate(tqdm(ask(model, paths, threads), "evaluating", asked, unit="photo")):
        if number % TIMED == 0:
            moments.append(time.perf_counter())
        if number < len(photos):
            found.append(_prediction(photos[number], answer))
    took_ms = 1000 * np.diff(moments) / TIMED
    return found, float(np.median(took_ms)) if len(took_ms) else None


def _prediction(photo: Photo, answer: dict[str, Any]) -> Prediction:
    if "error" in answer:
        raise PhotoError(f"test photo {photo.id}: {answer['error']}")
    probabilities = tuple(answer["probabilities"].values())
    fit = tuple(answer.get("fit", {}).values())
    return Prediction(photo.id, photo.bin, photo.count, answer["count"], answer["expected_count"], probabilities, fit)


def milliseconds(model: Path, part: Part) -> float | None:
    """What an answer of ``model`` takes now, ms a photo, as in ``evaluate``; None where there is no photo."""
    some = part.photos[: TIMED * (LEAST_TIMED + 1)]
    return _timed(model, some, 2, _asked(some))[1]


def _asked(photos: Sequence[Photo]) -> int:
    """How many photos are asked about: all of them, in whole batches, and enough for the time to be a median."""
    return TIMED * max(math.ceil(len(photos) / TIMED), LEAST_TIMED + 1) if photos else 0


def evaluate(model: Path, part: Part, seed: int = 0) -> Evaluated:
    """Evaluate the packed archive ``model`` on the test split ``part``."""
    predictions, latency_ms = _timed(model, part.photos, 2, _asked(part.photos))
    about = manifest_of(model)
    counts = Counts(about.classes, about.open_top)
    evaluation = summarise(predictions, counts, part.fingerprint, seed)
    return Evaluated(evaluation, predictions, latency_ms, model.stat().st_size)


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
        report_mix=_as_mixed(probabilities, recorded, counts.values) if set(counts.names) == set(REPORT_MIX) else {},
        alarms=judged(predictions, counts, seed=seed),
        confusion=tuple(
            tuple(int(((recorded == r) & (counted == c)).sum()) for c in counts.values) for r in counts.values
        ),
    )


def _rmse(errors: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64))))


def judged(
    predictions: Sequence[Prediction], counts: Counts, alphas: Sequence[float] = alarms.ALPHAS, seed: int = 0
) -> tuple[Alarms, ...]:
    """What the verdict comes to on ``predictions``; nothing for an archive that gives no p-values."""
    if not all(each.fit for each in predictions):
        return ()
    fits, recorded = np.array([each.fit for each in predictions]), np.array([each.recorded for each in predictions])
    return alarms.count_alarms(fits, recorded, counts.values, [each.bin for each in predictions], alphas, seed)


def _as_mixed(
    probabilities: NDArray[np.float64], recorded: NDArray[np.int64], values: Sequence[int]
) -> dict[str, float]:
    """Accuracy and RMSE if the counts were mixed as in REPORT_MIX, each photo weighing more or less.

    The middle counts are the hard ones. ``_told``: for a model that is told the mix, as whoever works there
    knows it: its probabilities times the new shares over those it learned, which are the split's. Saerens,
    Latinne, Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities".
    """
    columns = np.searchsorted(values, recorded)
    shares = np.bincount(columns, minlength=len(values)) / len(recorded)
    if not shares.all():
        return {}
    factor = np.array([REPORT_MIX[str(value)] for value in values]) / shares
    told = probabilities * factor
    found = {}
    for suffix, given in (("", probabilities), ("_told", told / told.sum(axis=1, keepdims=True))):
        off = given @ np.array(values) - recorded
        found[f"accuracy{suffix}"] = float(np.average(given.argmax(axis=1) == columns, weights=factor[columns]))
        found[f"rmse{suffix}"] = math.sqrt(np.average(off**2, weights=factor[columns]))
    return found
