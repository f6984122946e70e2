"""Teachers: networks whose answers the network that serves learns from, beside the labels.

The mean of several networks counts better than one of them, and takes as many times as long to answer. So their mean
becomes part of the targets of a single network. Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

A teacher's answers to photos that it has learned from only repeat their labels. So the bins are divided into folds,
and a teacher is one network for each fold, trained on all others (``trainer/training/loop/folds.py``): its answer to a
photo comes from the network that had not learned from any photo of that bin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from trainer.data.dataset import Part
from trainer.training.loop.folds import Fold, HeldOut, joined
from trainer.training.recipes import Recipe

FitFold = Callable[[Recipe, Fold, Path | None], HeldOut]
"""Trains a recipe on all but a fold, resumes from the folder of its checkpoint, and answers the photos of the fold."""
FOLDER = "teacher-{teacher}-fold-{fold}"
"""The folder of a checkpoint, below that of the student."""


@dataclass(frozen=True)
class Lesson:
    """What teachers say of photos: by the photo's id, the probabilities float32 ``(C,)`` of the learned counts."""

    answers: dict[str, NDArray[np.float32]]

    def of(self, part: Part) -> NDArray[np.float32]:
        """The probabilities for each photo of ``part``, ``(N, C)``."""
        return np.stack([self.answers[photo.id] for photo in part.photos])


def teacher_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipes of the teachers of ``recipe``: each with its own architecture and seed, and all layers learning."""
    return [
        replace(
            recipe,
            name=f"{recipe.name}, teacher {number} of {len(recipe.teachers)}",
            architecture=architecture,
            seed=recipe.seed + number,
            frozen_blocks=0,
            mirrored=True,
            teachers=(),
            record_folds=0,
        )
        for number, architecture in enumerate(recipe.teachers, 1)
    ]


def teach(recipe: Recipe, classes: int, checkpoints: Path | None, fit_fold: FitFold) -> Lesson | None:
    """Train the teachers of ``recipe``, one fold after another; None where it has none.

    ``classes``: the number of learned counts, which are a teacher's first outputs. An interrupted call resumes from
    ``checkpoints``, where it also finds the teachers that are done.
    """
    parts = [
        _answers(teacher, number, recipe, checkpoints, fit_fold)
        for number, teacher in enumerate(teacher_recipes(recipe), 1)
    ]
    return mean_answers(parts, classes) if parts else None


def _answers(teacher: Recipe, number: int, recipe: Recipe, checkpoints: Path | None, fit_fold: FitFold) -> HeldOut:
    folds = [Fold(fold, recipe.teacher_folds, recipe.seed) for fold in range(recipe.teacher_folds)]
    folders = [checkpoints / FOLDER.format(teacher=number, fold=fold.number) if checkpoints else None for fold in folds]
    return joined([fit_fold(teacher, fold, folder) for fold, folder in zip(folds, folders, strict=True)])


def mean_answers(teachers: Sequence[HeldOut], classes: int) -> Lesson:
    """The mean probabilities of ``teachers``, which answered the same photos in any order."""
    total: dict[str, NDArray[np.float32]] = {}
    for teacher in teachers:
        probabilities = softmax(teacher.outputs[:, :classes].astype(np.float64), axis=1) / len(teachers)
        for photo, row in zip(teacher.photos, probabilities.astype(np.float32), strict=True):
            total[photo.id] = total.get(photo.id, np.zeros(classes, np.float32)) + row
    return Lesson(total)
