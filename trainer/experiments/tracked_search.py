"""The MLflow run of a hyperparameter search: the parent of its trials, with their table and the plots."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from trainer.experiments.search_plots import importances, parallel_coordinates, search_history
from trainer.experiments.tune import Search, Trial
from trainer.registry.mlflow_registry import Registry
from trainer.registry.tracked_run import TrackedRun


@contextmanager
def parent_run(registry: Registry, out: Path) -> Iterator[TrackedRun]:
    """The run of the search in ``out``: that of an earlier start goes on, and its orphaned trials end."""
    path = out / "mlflow_run"
    earlier = (path.read_text().strip() or None) if path.is_file() else None
    if earlier:
        registry.end_orphans(earlier)
    with registry.run("tune", resume_run_id=earlier) as run:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(run.id)
        yield run


def log(run: TrackedRun, search: Search, trials: Sequence[Trial]) -> Trial:
    """Log the trials of a search, and return the best one: at least one must have a loss."""
    best = min((trial for trial in trials if trial.loss is not None), key=lambda trial: trial.loss or 0.0)
    run.log_json([asdict(trial) for trial in trials], "trials.json")
    run.log_metrics({"best_validation_loss": best.loss or 0.0})
    run.log_picture(search_history(trials), "history.png")
    run.log_picture(parallel_coordinates(trials), "parallel_coordinates.png")
    run.log_picture(importances(search.importance()), "importance.png")
    return best
