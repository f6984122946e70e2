"""A network that learns from teachers: whose answers these are, what becomes of them, and what resuming costs."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import TINY
from trainer.data.dataset import Dataset, DataSpec, load
from trainer.training import checkpoint
from trainer.training.loop.batches import batches
from trainer.training.loop.epochs import Training
from trainer.training.loop.folds import Fold, HeldOut
from trainer.training.loop.step import TrainingStep
from trainer.training.loop.teachers import Lesson, mean_answers, teach, teacher_recipes
from trainer.training.run import FittedModel, load_and_fit
from trainer.training.train import fit

STUDENT = replace(TINY, name="student", epochs=2, teachers=("small", "tiny"), teacher_share=0.7)


@pytest.fixture(scope="module")
def spec(drawn: Path) -> DataSpec:
    return DataSpec(drawn, limit=160)


@pytest.fixture(scope="module")
def data(spec: DataSpec) -> Dataset:
    return load(spec, STUDENT.size_px)


@pytest.fixture(scope="module")
def uninterrupted(spec: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> FittedModel:
    return load_and_fit(spec, STUDENT, tmp_path_factory.mktemp("whole"), None, folds=True)


def weights(fitted: FittedModel) -> list[torch.Tensor]:
    return list(fitted.result.model.state_dict().values())


def test_a_teacher_answers_no_photo_that_it_has_learned_from(data: Dataset) -> None:
    learned_and_answered: list[tuple[set[str], set[str]]] = []

    def fit_fold(teacher: Any, fold: Fold, _: Path | None) -> HeldOut:
        learned, answered = fold.divide(data.train)
        learned_and_answered.append(({photo.bin for photo in learned.photos}, {photo.bin for photo in answered.photos}))
        outputs = np.full((len(answered), 7), float(teacher.seed), np.float32)
        outputs[:, 0] += fold.number
        return HeldOut(answered.photos, outputs)

    lesson = teach(replace(STUDENT, teacher_folds=3), 5, None, fit_fold)
    assert lesson is not None
    assert len(learned_and_answered) == 6
    assert all(not learned & answered for learned, answered in learned_and_answered)
    assert lesson.answers.keys() == {photo.id for photo in data.train.photos}
    assert lesson.of(data.train).shape == (len(data.train), 5)
    assert lesson.of(data.train).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_answers_of_teachers_count_alike_in_any_order(data: Dataset) -> None:
    photos = data.train.photos[:3]
    sure = np.array([[9, 0, 0, 5], [0, 9, 0, 5], [0, 0, 9, 5]], np.float32)
    first, second = HeldOut(photos, sure), HeldOut(photos[::-1], np.zeros((3, 4), np.float32))
    answers = mean_answers([first, second], 3).of(data.train.rows(np.arange(3)))
    assert answers == pytest.approx(np.eye(3) / 2 + 1 / 6, abs=1e-3)


def test_teachers_differ_by_architecture_and_seed_and_have_no_teachers() -> None:
    teachers = teacher_recipes(replace(STUDENT, architecture="efficientnet-lite0", frozen_blocks=5, record_folds=2))
    assert [(teacher.architecture, teacher.seed) for teacher in teachers] == [("small", 1), ("tiny", 2)]
    assert {(teacher.teachers, teacher.record_folds, teacher.frozen_blocks) for teacher in teachers} == {((), 0, 0)}


def test_the_targets_are_labels_and_answers_in_the_recipe_s_shares(data: Dataset) -> None:
    answers = np.random.default_rng(0).dirichlet(np.ones(5), len(data.train)).astype(np.float32)
    lesson = Lesson({photo.id: row for photo, row in zip(data.train.photos, answers, strict=True)})
    train = replace(data.train, taught=lesson.of(data.train))
    step = TrainingStep(torch.nn.Linear(1, 1), STUDENT, torch.eye(5), 1, torch.device("cpu"))
    batch = next(batches(train, STUDENT, 1))
    expected = 0.3 * torch.eye(5)[batch.labels] + 0.7 * batch.taught
    assert torch.allclose(step._targets(batch), expected)
    plain = next(batches(data.train, STUDENT, 1))
    assert torch.equal(step._targets(plain), torch.eye(5)[plain.labels])


def test_a_lesson_changes_what_is_learned(data: Dataset, uninterrupted: FittedModel, spec: DataSpec) -> None:
    selection, _ = data.validation.halves(spec.seed)
    alone = fit(replace(data, validation=selection), replace(STUDENT, teachers=()))
    pairs = zip(weights(uninterrupted), alone.model.state_dict().values(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)


def test_an_interrupted_training_resumes_with_the_teacher_that_it_was_at(
    spec: DataSpec, uninterrupted: FittedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train_batch, last = Training._train_batch, "student, teacher 2 of 2, fold 1 of 2"

    def terminate(self: Any, *arguments: Any) -> None:
        train_batch(self, *arguments)
        trained.append(self.recipe.name)
        if trained.count(last) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "checkpoints"
    with monkeypatch.context() as patched:
        patched.setattr(Training, "_train_batch", terminate)
        with pytest.raises(SystemExit):
            load_and_fit(spec, STUDENT, tmp_path / "out", None, checkpoints=folder, folds=True)
        interrupted = len(trained)
        resumed = load_and_fit(spec, STUDENT, tmp_path / "out", None, checkpoints=folder, folds=True)
    assert list(dict.fromkeys(trained[interrupted:])) == [last, "student, teacher 2 of 2, fold 2 of 2", "student"]
    assert all(torch.equal(*pair) for pair in zip(weights(uninterrupted), weights(resumed), strict=True))
    names = {path.parent.name for path in folder.rglob(checkpoint.NAME)}
    assert names == {"checkpoints", *(f"teacher-{teacher}-fold-{fold}" for teacher in (1, 2) for fold in (0, 1))}


def test_a_rectangle_of_some_photos_is_erased(data: Dataset) -> None:
    still = replace(STUDENT, augment=False)
    whole = next(batches(data.train, still, 1)).inputs
    erased = next(batches(data.train, replace(still, erasing=0.5), 1)).inputs
    assert torch.equal(erased, next(batches(data.train, replace(still, erasing=0.5), 1)).inputs)
    changed = (whole != erased).any(3)
    shares = changed.float().mean((1, 2))
    assert 0.2 < (shares > 0).float().mean() < 0.8
    assert shares.max() <= 0.25
    for photo, mask in zip(erased, changed, strict=True):
        if mask.any():
            assert photo[mask].unique(dim=0).shape[0] == 1
