"""Decisions of the gate in MLflow: on the run of the step that decided, found again by the version's number."""

import json
from pathlib import Path

from serve.errors import DataError
from trainer.artifacts import ARCHIVE, EVALUATION, PREDICTIONS
from trainer.evaluation.evaluate import Evaluated, from_json, predictions_from_json
from trainer.evaluation.explain import explain
from trainer.evaluation.gate import Decision
from trainer.evaluation.gate import from_json as decision_from_json
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import TrackedRun
from trainer.registry.versions import Version

NEWEST = "newest"
DECISION, PICTURE = "decision.json", "decision.png"
DECIDES, TRAIN_RUN = "binwatch.decides", "binwatch.decides.run"
"""Tags of the run that decided: the version, and the run that its archive is from."""


def record(run: TrackedRun, decision: Decision, version: Version) -> None:
    """Log the decision, its numbers and its picture, and whose it is."""
    run.log_params(
        {"challenger": version.number, "champion": version.compared_with or "none", "policy": decision.policy.rule}
    )
    run.log_metrics(decision.metrics())
    run.log_json(decision.to_json(), DECISION)
    from trainer.evaluation import decision_plot  # so that who only promotes needs no plots

    run.log_picture(decision_plot.decision(decision), PICTURE)
    run.set_tags({DECIDES: version.number, TRAIN_RUN: version.run_id})


def find(registry: Registry, version: Version) -> Decision:
    """What was decided of a version. Raises DataError where that is not recorded."""
    for run in registry.runs(f"tags.`{DECIDES}` = '{version.number}' AND tags.`{TRAIN_RUN}` = '{version.run_id}'"):
        text = registry.read_text(run.id, DECISION)
        if text is not None:
            return decision_from_json(json.loads(text))
    raise DataError(
        f"of version {version.number} no {DECISION} is recorded; all that is known: {version.status or 'undecided'}, "
        f"{version.reason or 'no reason'}"
    )


def tell(registry: Registry, number: str) -> tuple[Decision, str]:
    """The decision on a version, NEWEST or its number, and the same in plain words. Raises DataError, TrackingError."""
    versions = registry.versions() if number == NEWEST else [registry.version(number)]
    if not versions:
        raise DataError("no version is registered yet; scripts/pipeline.py makes one")
    version = versions[0]
    decision = find(registry, version)
    return decision, explain(decision, version.number, version.compared_with, version.status, version.reason)


def evaluated(registry: Registry, run_id: str) -> Evaluated:
    """What a training's run recorded of its archive. Raises DataError where that is missing or unusable.

    The time of an answer is left out: two runs' are not of the same moment.
    """
    evaluation, predictions = (registry.read_text(run_id, name) for name in (EVALUATION, PREDICTIONS))
    if evaluation is None or predictions is None:
        raise DataError(f"run {run_id} has no {EVALUATION if evaluation is None else PREDICTIONS}; run the pipeline")
    size = registry.artifacts(run_id, str(Path(ARCHIVE).parent)).get(ARCHIVE)
    return Evaluated(from_json(evaluation), predictions_from_json(predictions), None, size)
