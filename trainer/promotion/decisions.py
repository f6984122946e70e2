"""Decisions of the gate in MLflow: logged to the run of the step that decided, and found by the version's number."""

from dataclasses import replace

from serve.errors import DataError
from trainer.artifacts import (
    ARCHIVE,
    ARCHIVE_FOLDER,
    DECIDES_RUN_TAG,
    DECIDES_TAG,
    DECISION,
    DECISION_PLOT,
    EVALUATION,
    PREDICTIONS,
)
from trainer.evaluation import gate
from trainer.evaluation.evaluate import Evaluated, evaluation_from_json, predictions_from_json
from trainer.evaluation.explain import explain
from trainer.evaluation.gate import Decision, decision_from_json
from trainer.evaluation.policy import GatePolicy
from trainer.promotion.trial_status import status_from_text
from trainer.registry.entities import UNWANTED, Status, Version
from trainer.registry.mlflow_registry import Registry
from trainer.registry.tracked_run import TrackedRun

NEWEST = "newest"


def decide(registry: Registry, version: Version, champion: Version | None, policy: GatePolicy) -> Version:
    """Let the gate decide about a version, from the answers that both training runs recorded, and mark the version.

    A version that cannot be compared, such as one that was registered by hand, is refused. Raises TrackingError, and
    DataError where it is the champion's answers that are lost: they may come back.
    """
    compared_with = champion.number if champion else ""
    try:
        challenger = read_evaluated(registry, version.run_id)
    except DataError as error:
        status, reason = Status.REFUSED, f"its run has no usable answers: {error}"
    else:
        deployed = read_evaluated(registry, champion.run_id) if champion else None
        decision = gate.decide(challenger, deployed, policy)
        with registry.run(f"gate of version {version.number}") as run:
            record(run, decision, replace(version, compared_with=compared_with))
        status, reason = status_and_reason(decision)
    registry.mark(version.number, status, reason, compared_with)
    return registry.version(version.number)


def status_and_reason(decision: Decision) -> tuple[Status, str]:
    """The status and reason with which to mark a version."""
    return Status.APPROVED if decision.promote else Status.REFUSED, "; ".join(decision.reasons)


def record(run: TrackedRun, decision: Decision, version: Version) -> None:
    """Log the decision about ``version`` to ``run``, with its numbers and its figure."""
    run.log_params(
        {"challenger": version.number, "champion": version.compared_with or "none", "policy": decision.policy.rule}
    )
    run.log_metrics(decision.metrics())
    run.log_json(decision.to_json(), DECISION)
    from trainer.evaluation import decision_plot  # matplotlib takes a second, and most processes only read decisions

    run.log_picture(decision_plot.draw(decision), DECISION_PLOT)
    run.set_tags({DECIDES_TAG: version.number, DECIDES_RUN_TAG: version.run_id})


def find(registry: Registry, version: Version) -> Decision:
    """The recorded decision about a version. Raises DataError where there is none."""
    query = f"tags.`{DECIDES_TAG}` = '{version.number}' AND tags.`{DECIDES_RUN_TAG}` = '{version.run_id}'"
    for run in registry.runs(query):
        text = registry.read_text(run.id, DECISION)
        if text is not None:
            return decision_from_json(text)
    raise DataError(
        f"there is no {DECISION} about version {version.number}; the registry only says: "
        f"{version.status or 'undecided'}, {version.reason or 'no reason'}"
    )


def find_and_explain(registry: Registry, number: str) -> tuple[Decision, str]:
    """The decision about a version, NEWEST or its number, and its explanation. Raises DataError, TrackingError."""
    versions = registry.versions() if number == NEWEST else [registry.version(number)]
    if not versions:
        raise DataError("no version is registered yet; scripts/pipeline.py creates one")
    version = versions[0]
    decision = find(registry, version)
    text = explain(decision, version.number, version.compared_with, version.status, version.reason)
    trial = status_from_text(version.trial)
    return decision, f"{text}\n\n{trial.explain()}" if trial else text


def is_newest_unwanted(registry: Registry) -> bool:
    """Whether the newest version was refused, rejected or rolled back. Raises TrackingError."""
    return bool(UNWANTED & {version.status for version in registry.versions()[:1]})


def read_evaluated(registry: Registry, run_id: str) -> Evaluated:
    """The evaluation that a training run recorded of its archive. Raises DataError where it is missing or unusable.

    The latency is left out: those of two runs were not measured at the same time.
    """
    evaluation, predictions = (registry.read_text(run_id, name) for name in (EVALUATION, PREDICTIONS))
    if evaluation is None or predictions is None:
        raise DataError(f"run {run_id} has no {EVALUATION if evaluation is None else PREDICTIONS}; run the pipeline")
    size = registry.artifacts(run_id, ARCHIVE_FOLDER).get(ARCHIVE)
    return Evaluated(evaluation_from_json(evaluation), predictions_from_json(predictions), None, size)
