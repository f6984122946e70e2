"""A training job: photos in, a run in MLflow, an archive and ``evaluation.json`` out.

``scripts/train.py``, the SageMaker contract and the pipeline all train through ``run_training``.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer import plots
from trainer.dataset import Dataset, DataSpec
from trainer.evaluate import Evaluation, Prediction, evaluate
from trainer.export import MODEL_NAME, write_archive
from trainer.prepared import AUDIT, REPORT, load_any
from trainer.recipes import Recipe
from trainer.tracking import TrackedRun
from trainer.train import Epoch, Fitted, fit, pick_device

EVALUATION = "evaluation.json"
DATASET = "dataset.json"
ARCHIVE = f"archive/{MODEL_NAME}.mar"
"""Where the artifacts of a run lie."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training job gives: the archive, the data it saw, and the run that recorded it."""

    archive: Path
    data: Dataset
    run: TrackedRun | None


def run_training(spec: DataSpec, recipe: Recipe, out: Path, run: TrackedRun | None) -> Trained:
    """Load, train, export. Everything goes to ``run`` where there is one; the archive to ``out``."""
    data = load_any(spec, recipe.size_px)
    _report_data(data, out)
    if run:
        _log_inputs(run, spec, recipe, data)
    fitted = fit(data, recipe, on_epoch=lambda epoch: _log_epoch(run, epoch))
    best = fitted.epochs[fitted.best_epoch - 1]
    metrics = {"validation_loss": best.validation_loss, "validation_accuracy": best.validation_accuracy}
    run_id = run.id if run else ""
    archive = write_archive(fitted.model, data, recipe, out, run_id=run_id, metrics=metrics)
    if run:
        _log_outputs(run, fitted, archive)
    return Trained(archive, data, run)


def run_evaluation(trained: Trained) -> Evaluation:
    """Evaluate the job's archive on its test split; ``evaluation.json`` lands beside the archive."""
    run = trained.run
    evaluation, predictions = evaluate(trained.archive, trained.data.test)
    path = trained.archive.with_name(EVALUATION)
    path.write_text(json.dumps(evaluation.to_sagemaker(), indent=1))
    if run:
        run.log_metrics(evaluation.metrics())
        run.log_file(path)
        run.log_picture(plots.confusion_matrix(evaluation), "confusion_matrix.png")
        run.log_table(_columns(predictions), "predictions.json")
    return evaluation


def _report_data(data: Dataset, out: Path) -> None:
    """Write ``dataset.json``: what was used, and every photo that was left out, with the reason."""
    out.mkdir(parents=True, exist_ok=True)
    (out / DATASET).write_text(json.dumps(data.summary(), indent=1))
    if data.skipped:
        first = data.skipped[0]
        log.warning("left out %d photos, all named in %s; the first is %s: %s",
                    len(data.skipped), DATASET, first.id, first.reason)  # fmt: skip


def _log_inputs(run: TrackedRun, spec: DataSpec, recipe: Recipe, data: Dataset) -> None:
    settings = {f"data_{key}": value for key, value in {**asdict(spec), "counts": spec.counts}.items()}
    run.log_params({**asdict(recipe), **settings, "device": str(pick_device())})
    run.log_dataset("bins", data.fingerprint, str(spec.source), data.summary()["photos"])
    run.log_json(data.summary(), DATASET)
    for page in (REPORT, AUDIT):
        if (spec.source / page).is_file():
            run.log_file(spec.source / page)


def _log_epoch(run: TrackedRun | None, epoch: Epoch) -> None:
    if run:
        run.log_metrics({key: value for key, value in asdict(epoch).items() if key != "number"}, epoch.number)


def _log_outputs(run: TrackedRun, fitted: Fitted, archive: Path) -> None:
    run.log_metrics({"best_epoch": fitted.best_epoch})
    run.log_picture(plots.loss_curves(fitted.epochs, fitted.best_epoch), "loss_curves.png")
    run.log_file(archive, "archive")


def _columns(predictions: list[Prediction]) -> dict[str, list[object]]:
    rows = [asdict(each) for each in predictions]
    return {key: [row[key] for row in rows] for key in rows[0]}
