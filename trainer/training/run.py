"""A training job: photos in, a run in MLflow, an archive and ``evaluation.json`` out.

``scripts/train.py``, the SageMaker contract and the pipeline all train through ``run_training``.
"""

import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.artifacts import DATASET, EVALUATION, PREDICTIONS, REFERENCE, TRAINING
from trainer.data.dataset import Dataset, DataSpec, Part
from trainer.data.prepared import AUDIT, REPORT, load_any
from trainer.evaluation.alarms import CURVE
from trainer.evaluation.evaluate import Evaluated, Prediction, evaluate, judged
from trainer.evaluation.evaluation_plots import alarm_curves, confusion_matrix, reliability_diagram
from trainer.registry import signing
from trainer.registry.runs import TrackedRun
from trainer.training import checkpoint, distributed, training_plots
from trainer.training.export import write_archive
from trainer.training.progress import Epoch, TrainingResult
from trainer.training.recipes import Recipe
from trainer.training.rules import Fired
from trainer.training.train import fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training job gives: the archive, the data it saw, and the run that recorded it."""

    archive: Path
    data: Dataset
    run: TrackedRun | None


@dataclass(frozen=True)
class Learned:
    """What ``learn`` gives: the best weights, the data they saw, and the halves of the validation photos."""

    fitted: TrainingResult
    data: Dataset
    selection: Part
    calibration: Part


def learn(
    spec: DataSpec,
    recipe: Recipe,
    out: Path,
    run: TrackedRun | None,
    *,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    data: Dataset | None = None,
) -> Learned:
    """Load and train. One half of the validation photos, by bin, selects the epoch, the other is kept.

    ``stop_on``: rules that end the training; ``checkpoints``: where an interrupted one is resumed from; ``data``:
    what ``spec`` names, where it was loaded already.
    """
    data = data or load_any(spec, recipe.size_px, recipe.extra)
    if distributed.rank() == 0:
        _report_data(data, out)
    if run:
        _log_inputs(run, spec, recipe, data)
    selection, calibration = data.validation.halves(spec.seed)

    def tell(epoch: Epoch) -> None:
        on_epoch(epoch)
        if run:
            run.buffer_metrics(epoch.metrics(), epoch.number)

    fitted = fit(
        replace(data, validation=selection),
        recipe,
        tell,
        on_rule=lambda fired: _log_rule(run, fired),
        stop_on=stop_on,
        checkpoints=checkpoints,
    )
    if run:
        _log_training(run, fitted)
    return Learned(fitted, data, selection, calibration)


def run_training(
    spec: DataSpec,
    recipe: Recipe,
    out: Path,
    run: TrackedRun | None,
    *,
    stop_on: frozenset[str] = frozenset(),
    checkpoints: Path | None = None,
    on_epoch: Callable[[Epoch], object] = lambda _: None,
    data: Dataset | None = None,
) -> Trained:
    """Load, train, calibrate, export, sign. Everything goes to ``run`` where there is one; the archive to ``out``."""
    start, key = time.monotonic(), signing.signer_from(os.environ)
    learned = learn(spec, recipe, out, run, stop_on=stop_on, checkpoints=checkpoints, on_epoch=on_epoch, data=data)
    fitted, data = learned.fitted, learned.data
    best = fitted.epochs[fitted.best_epoch - 1]
    chosen = {"validation_loss": best.validation_loss, "validation_accuracy": best.validation_accuracy}
    exported = write_archive(
        fitted.model,
        data,
        recipe,
        out,
        run_id=run.id if run else "",
        metrics=chosen,
        selection=learned.selection,
        calibration=learned.calibration,
    )
    signature = signing.sign(exported.archive, key) if key else None
    if not exported.choice.accepted:
        log.warning("CPUs get the fp32 form, which is slower than int8: %s", exported.choice.reason)
    _write_training(out, recipe, fitted, len(data.train), time.monotonic() - start)
    if run:
        run.log_metrics({name: value for name, value in exported.metrics.items() if name not in chosen})
        run.set_tags({"cpu_model": exported.cpu_model, "cpu_model.reason": exported.choice.reason})
        run.log_json(exported.reference, REFERENCE)
        for path in (signature, exported.archive) if signature else (exported.archive,):  # an archive is never without
            run.log_file(path, "archive")
    if checkpoints:
        checkpoint.remove(checkpoints)
    return Trained(exported.archive, data, run)


def _write_training(out: Path, recipe: Recipe, fitted: TrainingResult, photos: int, seconds: float) -> None:
    """Leave ``training.json`` in ``out``. ``seconds``: of this process, from reading the data to the archive;
    to them come the steps of those that were interrupted."""
    about = {
        "recipe": asdict(recipe),
        "train_photos": photos,
        "epochs": len(fitted.epochs),
        "best_epoch": fitted.best_epoch,
        "seconds": round(seconds + fitted.earlier_s, 1),
        "resumed_at_epoch": fitted.resumed_at or None,
        "photos_per_second": round(statistics.median(each.photos_per_second for each in fitted.epochs), 1),
        "stopped_by": fitted.stopped_by,
        "rules": [asdict(each) for each in fitted.fired],
    }
    (out / TRAINING).write_text(json.dumps(about, indent=1))


def run_evaluation(trained: Trained) -> Evaluated:
    """Evaluate the job's archive on its test split; the result and every answer land beside the archive."""
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
        run.log_picture(confusion_matrix(evaluation), "confusion_matrix.png")
        run.log_picture(reliability_diagram(predictions), "reliability.png")
        found = judged(predictions, trained.data.counts, CURVE)
        if found:
            run.log_picture(alarm_curves(found), "alarms.png")
        run.log_table(columns, PREDICTIONS)
    return evaluated


def _report_data(data: Dataset, out: Path) -> None:
    """Write ``dataset.json``: what was used, and every photo that was left out, with the reason."""
    out.mkdir(parents=True, exist_ok=True)
    (out / DATASET).write_text(json.dumps(data.summary(), indent=1))
    if data.skipped:
        first = data.skipped[0]
        log.warning(
            "left out %d photos, all named in %s; the first is %s: %s",
            len(data.skipped),
            DATASET,
            first.id,
            first.reason,
        )


def _log_inputs(run: TrackedRun, spec: DataSpec, recipe: Recipe, data: Dataset) -> None:
    settings = {f"data_{key}": value for key, value in {**asdict(spec), "counts": spec.counts}.items()}
    run.log_params({**asdict(recipe), **settings, "device": str(distributed.pick_device())})
    run.log_dataset("bins", data.fingerprint, str(spec.source), data.summary()["photos"])
    run.log_json(data.summary(), DATASET)
    for page in (REPORT, AUDIT):
        if (spec.source / page).is_file():
            run.log_file(spec.source / page)


def _log_rule(run: TrackedRun | None, fired: Fired) -> None:
    place = f"epoch {fired.epoch}, step {fired.step}"
    log.warning("rule %s fired in %s: %s", fired.rule, place, fired.reason)
    if run:
        run.buffer_metrics({f"rule_{fired.rule}": 1.0}, fired.step)
        run.buffer_tags({f"rule.{fired.rule}": f"{place}: {fired.reason}"})


def _log_training(run: TrackedRun, fitted: TrainingResult) -> None:
    run.flush()
    run.log_metrics({"best_epoch": fitted.best_epoch})
    run.log_json([asdict(each) for each in fitted.fired], "rules.json")
    run.set_tags({"stopped_by": fitted.stopped_by, "resumed_at_epoch": str(fitted.resumed_at or "")})
    run.log_picture(training_plots.loss_curves(fitted.epochs, fitted.best_epoch), "loss_curves.png")


def columns_of(predictions: Sequence[Prediction]) -> dict[str, list[object]]:
    """The predictions as the columns of a table."""
    rows = [asdict(each) for each in predictions]
    return {key: [row[key] for row in rows] for key in rows[0]}
