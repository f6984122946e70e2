"""A training job: reads photos, writes an archive and ``evaluation.json``, and logs to a run in MLflow.

``scripts/train.py``, the SageMaker container and the pipeline all train with ``run_training``.
"""

import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serve.evidence.record_model import Columns, RecordModel
from trainer.artifacts import (
    ARCHIVE_FOLDER,
    DATASET,
    EVALUATION,
    LEARNED_RECOUNTS,
    PREDICTIONS,
    REFERENCE,
    TRAINING,
)
from trainer.data.bin_records.records import right_records
from trainer.data.dataset import Dataset, DataSpec, Part
from trainer.data.prepared import AUDIT, REPORT, load_any
from trainer.data.recounts import PREFIX, is_recount
from trainer.evaluation.alarms import CURVE
from trainer.evaluation.evaluate import Evaluated, Prediction, evaluate, verdict_alarms
from trainer.registry import signing
from trainer.training import checkpoint, distributed
from trainer.training.loop.batches import learned_counts
from trainer.training.loop.folds import Fold, HeldOut, joined
from trainer.training.loop.progress import Epoch, TrainingResult
from trainer.training.loop.teachers import Lesson, teach
from trainer.training.recipes import Recipe
from trainer.training.record_training import are_enough, fit_record_model, helps
from trainer.training.rules import FiredRule
from trainer.training.scoring import predict_outputs
from trainer.training.train import fit

if TYPE_CHECKING:
    from trainer.registry.tracked_run import TrackedRun  # MLflow takes seconds to import, and some jobs do without

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of a training job: the archive, its data, and the MLflow run, if any."""

    archive: Path
    data: Dataset
    run: "TrackedRun | None"


@dataclass(frozen=True)
class FittedModel:
    """The result of ``load_and_fit``: the best weights, the data, and the halves of the validation photos.

    ``held_out``: the training photos, answered by networks that had not learned from them, for the record model.
    """

    result: TrainingResult
    data: Dataset
    selection: Part
    calibration: Part
    held_out: HeldOut | None


def load_and_fit(
    spec: DataSpec,
    recipe: Recipe,
    out: Path,
    run: "TrackedRun | None",
    *,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    data: Dataset | None = None,
    folds: bool = False,
) -> FittedModel:
    """Load the data and train. Half of the validation photos, by bin, selects the epoch; the other half calibrates.

    ``out``: the folder of ``dataset.json``. ``stop_on``: rules that stop the training. ``checkpoints``: the folder that
    an interrupted training resumes from. ``data``: the data of ``spec``, if loaded already. ``folds``: whether to train
    the recipe's teachers before it, and the networks of its folds after it, too.
    """
    data = data or load_any(spec, recipe.size_px, recipe.extra)
    if distributed.rank() == 0:
        _write_dataset(data, out)
    if run:
        _log_inputs(run, spec, recipe, data)
    selection, calibration = data.validation.halves(spec.seed)

    def log_epoch(epoch: Epoch) -> None:
        on_epoch(epoch)
        if run:
            run.buffer_metrics(epoch.metrics(), epoch.number)

    selecting = replace(data, validation=selection)
    lesson = _learn_from_teachers(selecting, recipe, checkpoints) if folds else None
    result = fit(
        selecting,
        recipe,
        log_epoch,
        on_rule=lambda rule: _log_rule(run, rule),
        stop_on=stop_on,
        checkpoints=checkpoints,
        lesson=lesson,
    )
    if run:
        _log_training(run, result)
    held_out = _fit_folds(selecting, recipe, checkpoints, lesson) if folds else None
    return FittedModel(result, data, selection, calibration, held_out)


def _learn_from_teachers(data: Dataset, recipe: Recipe, checkpoints: Path | None) -> Lesson | None:
    def fit_fold(teacher: Recipe, fold: Fold, folder: Path | None) -> HeldOut:
        named = replace(teacher, name=f"{teacher.name}, fold {fold.number + 1} of {fold.folds}")
        held_out = fit(data, named, checkpoints=folder, fold=fold).held_out
        assert held_out
        return held_out

    return teach(recipe, len(learned_counts(data.counts, recipe).values), checkpoints, fit_fold)


def _fit_folds(data: Dataset, recipe: Recipe, checkpoints: Path | None, lesson: Lesson | None) -> HeldOut | None:
    """The training photos, each answered by a network of the recipe that has learned from the other folds alone.

    None where too few of them have a record to train the record model on.
    """
    photos = (*data.train.photos, *(data.extra.photos if recipe.extra and data.extra else ()))
    if recipe.record_folds == 0 or not are_enough(right_records(photos, learned_counts(data.counts, recipe))):
        return None
    parts = []
    for number in range(recipe.record_folds):
        name = f"{recipe.name}, fold {number + 1} of {recipe.record_folds}"
        folder = checkpoints / f"fold-{number}" if checkpoints else None
        fold = Fold(number, recipe.record_folds, recipe.seed)
        parts.append(fit(data, replace(recipe, name=name), checkpoints=folder, fold=fold, lesson=lesson).held_out)
    return joined([part for part in parts if part])


def run_training(
    spec: DataSpec,
    recipe: Recipe,
    out: Path,
    run: "TrackedRun | None",
    *,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    data: Dataset | None = None,
) -> Trained:
    """Load, train, calibrate, export and sign. Writes to ``out``, and logs to ``run`` if there is one.

    For the arguments see ``load_and_fit``.
    """
    from trainer.training.export import write_archive  # and what runs its forms: trials export nothing

    start, key = time.monotonic(), signing.signing_key(os.environ)
    fitted = load_and_fit(
        spec, recipe, out, run, stop_on=stop_on, checkpoints=checkpoints, on_epoch=on_epoch, data=data, folds=True
    )
    result, data = fitted.result, fitted.data
    records = record_model_of(fitted, recipe)
    best = result.epochs[result.best_epoch - 1]
    best_metrics = {"validation_loss": best.validation_loss, "validation_accuracy": best.validation_accuracy}
    exported = write_archive(
        result.model,
        data,
        recipe,
        out,
        run_id=run.id if run else "",
        metrics=best_metrics,
        selection=fitted.selection,
        calibration=fitted.calibration,
        records=records,
    )
    signature = signing.sign(exported.archive, key) if key else None
    log.info("%s", exported.reason)
    _write_training(out, recipe, result, len(data.train), time.monotonic() - start)
    if run:
        run.log_metrics({name: value for name, value in exported.metrics.items() if name not in best_metrics})
        run.set_tags({"cpu_form": exported.forms[0].form, "cpu_form.reason": exported.reason})
        run.log_json(exported.reference, REFERENCE)
        # the signature first, so that an archive is never without one
        for path in (signature, exported.archive) if signature else (exported.archive,):
            run.log_file(path, ARCHIVE_FOLDER)
    if checkpoints:
        checkpoint.remove(checkpoints)
        for folder in (*checkpoints.glob("fold-*"), *checkpoints.glob("teacher-*")):
            checkpoint.remove(folder)
            with suppress(OSError):  # what else is in it stays
                folder.rmdir()
    return Trained(exported.archive, data, run)


def record_model_of(fitted: FittedModel, recipe: Recipe) -> RecordModel | None:
    """The record model; None where the recipe has no folds, where records are too few, or where it does not help."""
    if not fitted.held_out:
        return None
    model, counts = fitted.result.model, fitted.data.counts
    learned = learned_counts(counts, recipe)
    columns = Columns(learned=learned.values, classes=counts.values)
    weight, bias = (tensor.detach().cpu().double().numpy() for tensor in (model.head.weight.T, model.head.bias))
    records = fit_record_model(fitted.held_out, columns, learned, (weight, bias), recipe.seed)
    if records is None:
        return None
    outputs = predict_outputs(model, fitted.selection).double().numpy()
    return records if helps(records, HeldOut(fitted.selection.photos, outputs), learned, recipe.seed) else None


def _write_training(out: Path, recipe: Recipe, result: TrainingResult, photos: int, seconds: float) -> None:
    """Write ``training.json`` to ``out``.

    ``seconds``: of this process, from reading the data to the archive; the steps of interrupted processes are added.
    """
    summary = {
        "recipe": asdict(recipe),
        "train_photos": photos,
        "epochs": len(result.epochs),
        "best_epoch": result.best_epoch,
        "seconds": round(seconds + result.earlier_s, 1),
        "resumed_at_epoch": result.resumed_at or None,
        "photos_per_second": round(statistics.median(epoch.photos_per_second for epoch in result.epochs), 1),
        "stopped_by": result.stopped_by,
        "precision": asdict(result.precision),
        "rules": [asdict(rule) for rule in result.fired],
    }
    (out / TRAINING).write_text(json.dumps(summary, indent=1))


def run_evaluation(trained: Trained) -> Evaluated:
    """Evaluate the job's archive on its test split; write the result and all predictions beside the archive."""
    run = trained.run
    evaluated = evaluate(trained.archive, trained.data.test)
    evaluation, predictions = evaluated.evaluation, evaluated.predictions
    path = trained.archive.with_name(EVALUATION)
    path.write_text(json.dumps(evaluation.to_sagemaker(), indent=1))
    columns = columns_of(predictions)
    trained.archive.with_name(PREDICTIONS).write_text(json.dumps(columns))
    if run:
        run.log_metrics({**evaluation.metrics(), **evaluated.costs()})
        run.log_file(path)
        from trainer.evaluation.evaluation_plots import (
            alarm_curves,
            confusion_matrix,
            record_alarm_curves,
            reliability_diagram,
        )

        run.log_picture(confusion_matrix(evaluation), "confusion_matrix.png")
        run.log_picture(reliability_diagram(predictions), "reliability.png")
        alarms = verdict_alarms(predictions, trained.data.counts, CURVE)
        if alarms:
            run.log_picture(alarm_curves(alarms), "alarms.png")
        if evaluation.records and evaluation.records.curves:
            run.log_picture(record_alarm_curves(evaluation.records.curves), "record_alarms.png")
        run.log_table(columns, PREDICTIONS)
    return evaluated


def _write_dataset(data: Dataset, out: Path) -> None:
    """Write ``dataset.json``: the photos per split, and every photo that was left out, with the reason."""
    out.mkdir(parents=True, exist_ok=True)
    (out / DATASET).write_text(json.dumps(data.summary(), indent=1))
    if data.skipped:
        first = data.skipped[0]
        log.warning(
            "left out %d photos, listed in %s; the first is %s: %s",
            len(data.skipped),
            DATASET,
            first.id,
            first.reason,
        )


def _log_inputs(run: "TrackedRun", spec: DataSpec, recipe: Recipe, data: Dataset) -> None:
    settings = {f"data_{key}": value for key, value in {**asdict(spec), "counts": spec.counts}.items()}
    run.log_params({**asdict(recipe), **settings, "device": str(distributed.pick_device())})
    run.log_dataset("bins", data.fingerprint, str(spec.source), data.summary()["photos"])
    run.log_json(data.summary(), DATASET)
    learned = [part for part in (data.train, data.validation, data.extra) if part]
    recounts = sorted(
        photo.id.removeprefix(PREFIX) for part in learned for photo in part.photos if is_recount(photo.id)
    )
    if recounts:  # they cannot calibrate this model again
        run.log_json(recounts, LEARNED_RECOUNTS)
    for page in (REPORT, AUDIT):
        if (spec.source / page).is_file():
            run.log_file(spec.source / page)


def _log_rule(run: "TrackedRun | None", fired: FiredRule) -> None:
    place = f"epoch {fired.epoch}, step {fired.step}"
    log.warning("rule %s fired in %s: %s", fired.rule, place, fired.reason)
    if run:
        run.buffer_metrics({f"rule_{fired.rule}": 1.0}, fired.step)
        run.buffer_tags({f"rule.{fired.rule}": f"{place}: {fired.reason}"})


def _log_training(run: "TrackedRun", result: TrainingResult) -> None:
    from trainer.training.loop import (
        training_plots,  # matplotlib takes a second to import: not for trainings without MLflow
    )

    run.flush()
    run.log_metrics({"best_epoch": result.best_epoch})
    run.log_json([asdict(rule) for rule in result.fired], "rules.json")
    run.set_tags(
        {
            "stopped_by": result.stopped_by,
            "resumed_at_epoch": str(result.resumed_at or ""),
            "precision.chosen": result.precision.name,
            "precision.reason": result.precision.reason,
        }
    )
    run.log_picture(training_plots.loss_curves(result.epochs, result.best_epoch), "loss_curves.png")


def columns_of(predictions: Sequence[Prediction]) -> dict[str, list[object]]:
    """The predictions as the columns of a table."""
    rows = [asdict(prediction) for prediction in predictions]
    return {key: [row[key] for row in rows] for key in rows[0]}
