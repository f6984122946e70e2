"""Comparison of trainings on the same test photos, with a confidence interval for the difference.

Reads the folders that ``scripts/train.py`` writes: ``training.json`` (settings and duration), ``evaluation.json``, and
``predictions.json`` (the prediction for every test photo).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.errors import DataError
from trainer.artifacts import EVALUATION, PREDICTIONS, TRAINING
from trainer.evaluation.evaluate import Evaluation, evaluation_from_json, predictions_from_json
from trainer.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Row:
    """One training: the name of its folder, the content of ``training.json``, and its evaluation."""

    name: str
    training: dict[str, Any]
    evaluation: Evaluation


@dataclass(frozen=True)
class Difference:
    """How much more accurate one model is than another on the same photos (-1 to 1), with a 95 % interval.

    A paired bootstrap over bins: errors that both models make cancel out.
    """

    accuracy: float
    interval: tuple[float, float]
    photos: int


def read(folder: Path) -> Row:
    """Read the folder of a training. Raises DataError for another folder."""
    try:
        training = json.loads((folder / TRAINING).read_text())
        return Row(folder.name, training, evaluation_from_json((folder / EVALUATION).read_text()))
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{folder} is not an --out folder of scripts/train.py: {error}") from error


def difference(folder: Path, baseline: Path, seed: int = 0) -> Difference:
    """How much more accurate the model of ``folder`` is than that of ``baseline``.

    Raises DataError when they were tested on different photos.
    """
    predictions = predictions_from_json((folder / PREDICTIONS).read_text())
    right = {prediction.id: prediction.count == prediction.recorded for prediction in predictions}
    baseline_predictions = predictions_from_json((baseline / PREDICTIONS).read_text())
    baseline_right = {prediction.id: prediction.count == prediction.recorded for prediction in baseline_predictions}
    if right.keys() != baseline_right.keys():
        raise DataError(f"{folder} and {baseline} were tested on different photos; train both on the same data")
    gains = np.array([float(right[photo]) - float(baseline_right[photo]) for photo in right])
    interval = bootstrap_interval(gains, [prediction.bin for prediction in predictions], seed)
    return Difference(float(gains.mean()), interval, len(gains))


def table(rows: Sequence[Row]) -> str:
    """The trainings as a Markdown table, shares in per cent."""
    lines = [
        "| training | accuracy (95 %) | RMSE | of each count | report's mix, told it | epochs | time | photos/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, rows),
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    evaluation, training, (low, high) = row.evaluation, row.training, row.evaluation.accuracy_interval
    mix, stopped_by = evaluation.report_mix, training["stopped_by"]
    cells = [
        row.name,
        f"{evaluation.accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})",
        f"{evaluation.rmse:.3f}",
        " ".join(f"{100 * accuracy:.0f}" for accuracy in evaluation.per_class_accuracy.values()),
        f"{mix['accuracy_told']:.1%}, {mix['rmse_told']:.3f}" if mix else "",
        f"{training['best_epoch']} of {training['epochs']}" + (f", {stopped_by}" if stopped_by else ""),
        f"{training['seconds'] / 60:.0f} min",
        f"{training['photos_per_second']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
