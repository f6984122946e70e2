"""Trainings side by side: what each reached on the same test photos, and whether the difference is more than luck.

``scripts/train.py`` leaves three files in a folder: ``training.json`` (how it went), ``evaluation.json``
and ``predictions.json`` (what it said of every test photo); a table is made of such folders.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serve.errors import DataError
from trainer.artifacts import EVALUATION, PREDICTIONS, TRAINING
from trainer.evaluation.evaluate import Evaluation, from_json
from trainer.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Row:
    """One training: its folder, what ``training.json`` says, and its evaluation."""

    name: str
    training: dict[str, Any]
    evaluation: Evaluation


@dataclass(frozen=True)
class Difference:
    """How much more accurate one model is than another on the same photos (-1 to 1), with a 95 % interval.

    The interval is that of the mean difference a photo, over bins: pairs, so that what both get wrong cancels out.
    """

    accuracy: float
    interval: tuple[float, float]
    photos: int


def read(folder: Path) -> Row:
    """One training's folder. Raises DataError where it is none."""
    try:
        training = json.loads((folder / TRAINING).read_text())
        return Row(folder.name, training, from_json((folder / EVALUATION).read_text()))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not what scripts/train.py leaves in --out: {error}") from error


def difference(folder: Path, other: Path, seed: int = 0) -> Difference:
    """How much more accurate the model of ``folder`` is than that of ``other``. Raises DataError for other photos."""
    mine, others = (_answers(each) for each in (folder, other))
    if mine.keys() != others.keys():
        raise DataError(f"{folder} and {other} were tested on different photos; train both on the same data")
    better = np.array([float(right) - float(others[name][0]) for name, (right, _) in mine.items()])
    interval = bootstrap_interval(better, [where for _, where in mine.values()], seed)
    return Difference(float(better.mean()), interval, len(better))


def _answers(folder: Path) -> dict[str, tuple[bool, str]]:
    """By the test photo's id: whether it was counted right, and its bin."""
    found = json.loads((folder / PREDICTIONS).read_text())
    rows = zip(found["id"], found["recorded"], found["count"], found["bin"], strict=True)
    return {photo: (recorded == count, where) for photo, recorded, count, where in rows}


def table(rows: Sequence[Row]) -> str:
    """The trainings as a Markdown table, shares in per cent."""
    lines = [
        "| training | accuracy (95 %) | RMSE | of each count | report's mix, told it | epochs | time | photos/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, rows),
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    found, about, (low, high) = row.evaluation, row.training, row.evaluation.accuracy_interval
    each = " ".join(f"{100 * value:.0f}" for value in found.per_class_accuracy.values())
    mix = found.report_mix
    told = f"{mix['accuracy_told']:.1%}, {mix['rmse_told']:.3f}" if mix else ""
    epochs = f"{about['best_epoch']} of {about['epochs']}" + (f", {about['stopped_by']}" if about["stopped_by"] else "")
    cells = [
        row.name,
        f"{found.accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})",
        f"{found.rmse:.3f}",
        each,
        told,
        epochs,
        f"{about['seconds'] / 60:.0f} min",
        f"{about['photos_per_second']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
