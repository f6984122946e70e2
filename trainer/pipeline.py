"""The pipeline: train, evaluate, gate, promote, as steps of one recorded execution.

It has the semantics of a SageMaker pipeline: TrainingStep, ProcessingStep (evaluation.json),
ConditionStep (GreaterThan), and a step that updates the endpoint. Each step is a nested run of the
execution's run in MLflow, with its state, its seconds, its inputs and its outputs.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from serve.errors import BinwatchError, ServerError
from trainer import gate, tracking
from trainer.dataset import DataSpec
from trainer.evaluate import Evaluation, evaluate
from trainer.job import ARCHIVE, Trained, run_evaluation, run_training
from trainer.promoter import Outcome, verdict
from trainer.recipes import Recipe
from trainer.tracking import TrackedRun, Tracking, Version

POLL_S = 1.0
log = logging.getLogger(__name__)

Promote = Callable[[str], Outcome]
"""Brings an approved version to the server, or says why not."""


@dataclass
class Step:
    """One step: ``Executing``, ``Succeeded``, ``Failed`` or ``Skipped``, as SageMaker calls it."""

    name: str
    status: str = "Executing"
    seconds: float = 0.0


@dataclass(frozen=True)
class Model:
    """One side of the comparison."""

    version: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    rmse: float


@dataclass
class Execution:
    """One run of the pipeline. ``decision``: ``promoted`` or ``refused``, with its reasons.

    Where the promoter could not be reached it stays ``approved``: the version waits for it.
    """

    id: str
    decision: str = ""
    reasons: tuple[str, ...] = ()
    challenger: Model | None = None
    champion: Model | None = None
    steps: list[Step] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``, ``var/demo.json`` and MLflow."""
        return asdict(self)


def execute(registry: Tracking, spec: DataSpec, recipe: Recipe, promote: Promote) -> Execution:
    """Run the pipeline once. Raises BinwatchError where a step fails; the champion then serves on."""
    with registry.run(f"execution {recipe.name}") as run:
        execution = Execution(run.id)
        run.set_tags({"binwatch.kind": "execution"})
        try:
            _run_steps(registry, run, execution, spec, recipe, promote)
        finally:
            run.log_json(execution.to_json(), "execution.json")
            run.set_tags({"decision": execution.decision, "reasons": "; ".join(execution.reasons)})
        return execution


def _run_steps(
    registry: Tracking, run: TrackedRun, execution: Execution, spec: DataSpec, recipe: Recipe, promote: Promote
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="binwatch-execution-") as folder:
        with _step(registry, run, execution, "train") as step:
            trained = run_training(spec, recipe, Path(folder), step)
        train_run_id = step.id
        with _step(registry, run, execution, "evaluate") as step:
            champion = registry.alias(tracking.CHAMPION)
            step.log_params({"train_run": train_run_id, "champion": champion.number if champion else "none",
                             "test_fingerprint": trained.data.test.fingerprint})  # fmt: skip
            challenger_evaluation = run_evaluation(trained)
            champion_evaluation = _evaluate_champion(registry, champion, trained, step)
    with _step(registry, run, execution, "gate") as step:
        decision = gate.decide(challenger_evaluation, champion_evaluation)
        version = registry.register(train_run_id, *verdict(decision), champion.number if champion else "")
        step.log_params({"challenger": version.number, "condition": "challenger accuracy > champion accuracy"})
        step.log_metrics({"challenger_accuracy": decision.challenger_accuracy,
                          "champion_accuracy": decision.champion_accuracy})  # fmt: skip
        step.log_json(decision.to_json(), "decision.json")
    execution.challenger = _model(version.number, challenger_evaluation)
    execution.champion = _model(champion.number, champion_evaluation) if champion and champion_evaluation else None
    execution.decision, execution.reasons = version.status, decision.reasons
    if decision.promote:
        with _step(registry, run, execution, "promote") as step:
            step.log_params({"version": version.number})
            outcome = promote(version.number)
            step.log_json(asdict(outcome), "outcome.json")
        execution.decision = "promoted" if outcome.did == tracking.PROMOTED else "refused"
        if execution.decision == "refused":
            execution.reasons = (*decision.reasons, outcome.reason)
    else:
        execution.steps.append(Step("promote", "Skipped"))


@contextmanager
def _step(registry: Tracking, parent: TrackedRun, execution: Execution, name: str) -> Iterator[TrackedRun]:
    step, start = Step(name), time.monotonic()
    execution.steps.append(step)
    try:
        with registry.run(name, parent.id) as run:
            yield run
        step.status = "Succeeded"
    except BaseException:
        step.status = "Failed"
        raise
    finally:
        step.seconds = round(time.monotonic() - start, 2)


def _evaluate_champion(
    registry: Tracking, champion: Version | None, trained: Trained, step: TrackedRun
) -> Evaluation | None:
    """The champion on the challenger's test photos: an old number is never compared with a new one."""
    if champion is None:
        return None
    with tempfile.TemporaryDirectory(prefix="binwatch-champion-") as folder:
        archive = registry.download(champion.run_id, ARCHIVE, Path(folder))
        evaluation, _ = evaluate(archive, trained.data.test)
    step.log_metrics({f"champion_{key}": value for key, value in evaluation.metrics().items()})
    step.log_json(evaluation.to_sagemaker(), "champion_evaluation.json")
    return evaluation


def _model(version: str, evaluation: Evaluation) -> Model:
    return Model(version, evaluation.accuracy, evaluation.accuracy_interval, evaluation.rmse)


def wait_for_promoter(registry: Tracking, version: str, timeout_s: float = 600.0) -> Outcome:
    """Wait until another process, which alone reaches the server, has dealt with ``version``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = registry.version(version)
        if found.status != tracking.APPROVED:
            return Outcome(found.status, version, found.reason)
        time.sleep(POLL_S)
    raise ServerError(
        f"the promoter has not dealt with version {version} within {timeout_s:.0f} s; is it running? "
        "The version stays approved and is promoted when the promoter comes back"
    )


def watch(
    registry: Tracking, run: Callable[[], Execution], heartbeat: Path, interval_s: float
) -> NoReturn:  # fmt: skip
    """Run an execution whenever there is no champion; touch ``heartbeat`` at each look.

    After a failure the wait doubles, up to ten minutes; nothing is retried in a hurry.
    """
    wait_s = interval_s
    while True:
        try:
            heartbeat.touch()
            if registry.alias(tracking.CHAMPION) is None:
                execution = run()
                log.info("execution %s: %s: %s", execution.id, execution.decision, "; ".join(execution.reasons))
                wait_s = interval_s if execution.decision == "promoted" else min(2 * wait_s, 600)
        except BinwatchError as error:
            wait_s = min(2 * wait_s, 600)
            log.warning("%s; trying again in %.0f s", error, wait_s)
        time.sleep(wait_s)
