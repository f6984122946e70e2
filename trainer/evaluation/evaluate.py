"""Evaluation of an archive as it will be served: the photos' bytes through the archive's own code.

The champion and the challenger are evaluated on the same photos: an ``Evaluation`` carries the fingerprint of its
photos, and the gate refuses to compare two that differ.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from tqdm import tqdm

from serve.archives.archive import ask, manifest_of
from serve.errors import DataError, PhotoError
from trainer.data.abid import Photo
from trainer.data.counts import Counts
from trainer.data.dataset import Part
from trainer.evaluation import alarms
from trainer.evaluation.alarms import Alarms
from trainer.evaluation.calibration import expected_calibration_error
from trainer.evaluation.record_alarms import RecordEvaluation, RecordFits, evaluate_records
from trainer.evaluation.statistics import bootstrap_interval

T = TypeVar("T")

BATCH, MIN_TIMED_BATCHES = 32, 4
"""Latency is the median over batches of this many answers, the archive's batch size, and at least so many of them."""

REPORT_MIX = {"1": 0.12, "2": 0.22, "3": 0.25, "4": 0.23, "5": 0.18}
"""The share of each count among the photos of the report (docs/background.md)."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's answer to one photo. ``probabilities`` and ``fit`` (p-values): 0-1, one per count.

    ``record_fits``: p-values of the photo's record and of wrong ones (``trainer/evaluation/record_alarms.py``); empty
    where the photo has no record with products.
    """

    id: str
    bin: str
    recorded: int
    count: int
    expected_count: float
    probabilities: tuple[float, ...]
    fit: tuple[float, ...] = ()
    record_fits: RecordFits = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Accuracy (of the most probable count), its 95 % interval, errors in objects, and what they are computed from.

    ``classes``: the names of the counts, such as ``5`` or ``8+``, which counts as 8.

    ``accuracy_interval``: percentile bootstrap over bins, since photos of one bin are not independent (Field, Welsh
    2007, "Bootstrapping clustered data"). ``confusion``: rows are the recorded counts, columns the predicted ones, in
    the order of ``classes``. ``calibration_error``: the mean distance of confidence and accuracy (0-1);
    ``report_mix``: accuracy and RMSE with the counts weighted as in REPORT_MIX; ``alarms``: the verdict's error rates;
    ``records``: those of records with products, None for a model that does not judge them; ``records_fingerprint``:
    of the records in ``Prediction.record_fits``, empty in evaluations of early versions.
    """

    classes: tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...]
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
    records: RecordEvaluation | None = None
    records_fingerprint: str = ""

    def to_sagemaker(self) -> dict[str, object]:
        """The content of ``evaluation.json``: SageMaker's model quality metrics, which a pipeline's JsonGet reads.

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
                f"{name}_at_{round(100 * at_alpha.alpha)}": value
                for at_alpha in self.alarms
                for name, value in at_alpha.metrics().items()
            },
            **(self.records.metrics() if self.records else {}),
            **({} if self.calibration_error is None else {"test_calibration_error": self.calibration_error}),
        }


@dataclass(frozen=True)
class Evaluated:
    """One side of the gate's comparison: the metrics, every answer, and what the answers cost.

    ``latency_ms``: milliseconds per photo, None where they were not measured in the same run as the other side's;
    ``archive_bytes``: size of the packed archive, None where it is not at hand.
    """

    evaluation: Evaluation
    predictions: Sequence[Prediction]
    latency_ms: float | None = None
    archive_bytes: int | None = None

    def costs(self) -> dict[str, float]:
        """Latency and archive size, where they are known, to log by name."""
        megabytes = None if self.archive_bytes is None else self.archive_bytes / 1e6
        costs = {"test_latency_ms": self.latency_ms, "archive_mb": megabytes}
        return {name: value for name, value in costs.items() if value is not None}


@dataclass(frozen=True)
class _EvaluationFile:
    binwatch: Evaluation


_EVALUATION_FILE, _PREDICTIONS = TypeAdapter(_EvaluationFile), TypeAdapter(list[Prediction])


def parse_json(adapter: TypeAdapter[T], text: str, name: str) -> T:
    """Read JSON ``text``, which must be ``name``. Raises DataError with the first problem."""
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise _not_a(name, error) from error


def _not_a(name: str, error: Exception) -> DataError:
    problem = repr(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return DataError(f"this is not {name} of binwatch: {problem}")


def evaluation_from_json(text: str) -> Evaluation:
    """Read the text of ``evaluation.json``. Raises DataError."""
    return parse_json(_EVALUATION_FILE, text, "an evaluation.json").binwatch


def predictions_from_json(text: str) -> list[Prediction]:
    """Read the text of ``predictions.json``: a list per column, or the table that MLflow writes. Raises DataError."""
    try:
        content = json.loads(text)
        if "id" not in content:
            content = dict(zip(content["columns"], zip(*content["data"], strict=True), strict=True))
        rows = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
        empty: dict[str, object] = {"probabilities": (), "fit": (), "record_fits": {}}  # each of these may be null
        known = [row | {name: row.get(name) or nothing for name, nothing in empty.items()} for row in rows]
        return _PREDICTIONS.validate_python(known)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_a("a predictions.json", error) from error


def predict(model: Path, photos: Sequence[Photo], threads: int = 2) -> list[Prediction]:
    """The answers of the packed archive ``model``, by its own code, to ``photos``. Raises PhotoError, ArchiveError."""
    return _predict_timed(model, photos, threads, len(photos))[0]


def _predict_timed(
    model: Path, photos: Sequence[Photo], threads: int, requests: int
) -> tuple[list[Prediction], float | None]:
    """The answers, and the median latency in milliseconds per photo, taken over batches of BATCH consecutive answers.

    Time before the first answer, such as loading, does not count. ``requests``: where it exceeds the number of photos,
    photos are repeated for the timing alone.
    """
    paths = [photos[number % len(photos)].path for number in range(requests)]
    predictions, batch_times = [], []
    for number, answer in enumerate(tqdm(ask(model, paths, threads), "evaluating", requests, unit="photo")):
        if number % BATCH == 0:
            batch_times.append(time.perf_counter())
        if number < len(photos):
            predictions.append(_prediction(photos[number], answer))
    batches_ms = 1000 * np.diff(batch_times) / BATCH
    return predictions, float(np.median(batches_ms)) if len(batches_ms) else None


def _prediction(photo: Photo, answer: Mapping[str, Any]) -> Prediction:
    if "error" in answer:
        raise PhotoError(f"test photo {photo.id}: {answer['error']}")
    return Prediction(
        id=photo.id,
        bin=photo.bin,
        recorded=photo.count,
        count=answer["count"],
        expected_count=answer["expected_count"],
        probabilities=tuple(answer["probabilities"].values()),
        fit=tuple(answer.get("fit", {}).values()),
    )


def measure_latency(model: Path, part: Part) -> float | None:
    """The latency of ``model`` now, ms per photo, measured as in ``evaluate``; None where there is no photo."""
    photos = part.photos[: BATCH * (MIN_TIMED_BATCHES + 1)]
    return _predict_timed(model, photos, 2, _timed_requests(photos))[1]


def _timed_requests(photos: Sequence[Photo]) -> int:
    """The number of requests: every photo, in whole batches, and enough batches for a median."""
    return BATCH * max(math.ceil(len(photos) / BATCH), MIN_TIMED_BATCHES + 1) if photos else 0


def evaluate(model: Path, part: Part, seed: int = 0) -> Evaluated:
    """Evaluate the packed archive ``model`` on the test split ``part``."""
    predictions, latency_ms = _predict_timed(model, part.photos, 2, _timed_requests(part.photos))
    manifest = manifest_of(model)
    counts = Counts(manifest.classes, manifest.open_top)
    evaluation = summarise(predictions, counts, part.fingerprint, seed)
    records = evaluate_records(model, part, {answer.id: answer.fit for answer in predictions}, seed)
    evaluation = replace(evaluation, records=records.evaluation, records_fingerprint=records.fingerprint)
    predictions = [replace(answer, record_fits=records.fits.get(answer.id, {})) for answer in predictions]
    return Evaluated(evaluation, predictions, latency_ms, model.stat().st_size)


def summarise(predictions: Sequence[Prediction], counts: Counts, fingerprint: str, seed: int = 0) -> Evaluation:
    """The metrics of ``predictions``. Raises DataError where there are none."""
    if not predictions:
        raise DataError("there is no test photo to evaluate on; add photos or raise LIMIT")
    recorded = np.array([answer.recorded for answer in predictions])
    predicted = np.array([answer.count for answer in predictions])
    expected = np.array([answer.expected_count for answer in predictions])
    correct = recorded == predicted
    probabilities = np.array([answer.probabilities for answer in predictions])
    return Evaluation(
        classes=counts.names,
        photos=len(predictions),
        fingerprint=fingerprint,
        accuracy=float(correct.mean()),
        accuracy_interval=bootstrap_interval(correct, [answer.bin for answer in predictions], seed),
        calibration_error=expected_calibration_error(probabilities, correct),
        rmse=_rmse(expected - recorded),
        rmse_most_probable=_rmse(predicted - recorded),
        per_class_accuracy={
            name: float(correct[recorded == c].mean())
            for name, c in zip(counts.names, counts.values, strict=True)
            if (recorded == c).any()
        },
        report_mix=_with_report_mix(probabilities, recorded, counts.values)
        if set(counts.names) == set(REPORT_MIX)
        else {},
        alarms=verdict_alarms(predictions, counts, seed=seed),
        confusion=tuple(
            tuple(int(((recorded == r) & (predicted == c)).sum()) for c in counts.values) for r in counts.values
        ),
    )


def _rmse(errors: NDArray[np.int64] | NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64))))


def verdict_alarms(
    predictions: Sequence[Prediction], counts: Counts, alphas: Sequence[float] = alarms.ALPHAS, seed: int = 0
) -> tuple[Alarms, ...]:
    """The verdict's error rates on ``predictions``; empty for an archive that gives no p-values."""
    if not all(answer.fit for answer in predictions):
        return ()
    fits = np.array([answer.fit for answer in predictions])
    recorded = np.array([answer.recorded for answer in predictions])
    return alarms.count_alarms(fits, recorded, counts.values, [answer.bin for answer in predictions], alphas, seed)


def _with_report_mix(
    probabilities: NDArray[np.float64], recorded: NDArray[np.int64], values: Sequence[int]
) -> dict[str, float]:
    """Accuracy and RMSE if the counts were mixed as in REPORT_MIX, by weighting the photos.

    The middle counts are the hard ones. ``_told``: for a model that is adjusted to that mix, as one would be in that
    warehouse: its probabilities times the new class shares over those of the split, which it learned. Saerens,
    Latinne, Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities".
    """
    columns = np.searchsorted(values, recorded)
    shares = np.bincount(columns, minlength=len(values)) / len(recorded)
    if not shares.all():
        return {}
    factor = np.array([REPORT_MIX[str(value)] for value in values]) / shares
    adjusted = probabilities * factor
    metrics = {}
    for suffix, rows in (("", probabilities), ("_told", adjusted / adjusted.sum(axis=1, keepdims=True))):
        errors = rows @ np.array(values) - recorded
        metrics[f"accuracy{suffix}"] = float(np.average(rows.argmax(axis=1) == columns, weights=factor[columns]))
        metrics[f"rmse{suffix}"] = math.sqrt(np.average(errors**2, weights=factor[columns]))
    return metrics
