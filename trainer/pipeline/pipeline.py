"""The pipeline: prepare, train, evaluate, gate, promote, as steps of one recorded execution.

It has the semantics of a SageMaker pipeline: ProcessingStep, TrainingStep, ProcessingStep (evaluation.json),
ConditionStep, and a step that updates the endpoint. Each step is a nested run of the execution's run in MLflow, with
its state, its seconds, its inputs and its outputs.

What a step gave is a tag of its run, ``binwatch.done``: that is all that has to be known to go on after it. An
execution whose process died is asked for again by its request, and goes on from the first step that has no such tag.
A training or an evaluation that was done before, with the same content, is not done again (``trainer/step_cache.py``).
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from serve.errors import AbsentError, AwayError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_SHA
from trainer.data import prepared, transfer
from trainer.data.dataset import Dataset, DataSpec, digest
from trainer.evaluation import gate
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.policy import DEFAULT, GatePolicy
from trainer.pipeline import evaluate_step, step_cache
from trainer.pipeline.execution import Execution, ExecutionRequest, Model, Retry, Step, request_from, with_retry
from trainer.pipeline.new_photos import is_settled
from trainer.promotion.promoter import PromotionOutcome
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import RunInfo, TrackedRun
from trainer.registry.signed_archive import fetch
from trainer.registry.versions import CHAMPION, Status
from trainer.training.recipes import Recipe
from trainer.training.run import run_training

POLL_S = 1.0
KIND, TOKEN, REQUEST, DONE = "binwatch.kind", "binwatch.token", "binwatch.request", "binwatch.done"
EXECUTION = "execution"

Promote = Callable[[str], PromotionOutcome]
"""Brings an approved version to the server, or says why not."""
Outputs = Mapping[str, Any]
"""What a step gave, small enough for a tag."""


@dataclass(frozen=True)
class ExecutionOptions:
    """How executions go.

    ``state``: where prepared datasets, buckets' mirrors and checkpoints are kept; without it photos are taken as they
    lie and a killed training begins anew. ``cache``: take steps that were done before from there; ``policy``: what
    the gate asks for; ``settled_s``: a table of photos must not have been written to for so long; ``trusted``: whose
    archives are evaluated (trainer/fetching.py).
    """

    state: Path | None = None
    cache: bool = True
    retry: Retry = field(default_factory=Retry)
    policy: GatePolicy = DEFAULT
    settled_s: float = 0.0
    trusted: Path | None = None


def execute(
    registry: Registry, spec: DataSpec, recipe: Recipe, promote: Promote, how: ExecutionOptions = ExecutionOptions()
) -> Execution:
    """Run the pipeline once. Raises BinwatchError where a step fails; the champion then serves on."""
    return run_or_resume(registry, ExecutionRequest(spec, recipe), promote, how)


def run_or_resume(
    registry: Registry, request: ExecutionRequest, promote: Promote, how: ExecutionOptions = ExecutionOptions()
) -> Execution:
    """Do what was asked for, or what is left to do of it. Raises BinwatchError where a step fails."""
    before = next(iter(runs_of(registry, request)), None)
    tags = {KIND: EXECUTION, TOKEN: request.token, REQUEST: request.to_json(), "why": "; ".join(request.why)}
    again = before.id if before else None
    with registry.run(f"execution {request.recipe.name}", resume_run_id=again, tags=tags) as run, ExitStack() as stack:
        resumed = int(before.tags.get("resumed", 0)) + 1 if before else 0
        execution = Execution(run.id, why=request.why, resumed=resumed)
        if before:
            end_orphans(registry, run.id)
            run.set_tags({"resumed": str(resumed)})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="binwatch-execution-")))
        try:
            _Steps(registry, run, execution, request, how, folder).all(promote)
        finally:
            with_retry(partial(_record, run, execution), how.retry, Step("record"))
        return execution


def _record(run: TrackedRun, execution: Execution) -> None:
    run.log_json(execution.to_json(), "execution.json")
    run.set_tags({"decision": execution.decision, "reasons": "; ".join(execution.reasons)})


def runs_of(registry: Registry, request: ExecutionRequest) -> list[RunInfo]:
    """The execution's run of a request, where it has come so far."""
    return registry.runs(f"tags.`{TOKEN}` = '{request.token}'")


def request_of(registry: Registry, execution_id: str) -> ExecutionRequest:
    """What an execution was asked for. Raises TrackingError where there is no such run, DataError for another run."""
    return request_from(registry.tags(execution_id).get(REQUEST, ""))


def end_orphans(registry: Registry, execution_id: str) -> None:
    """End the steps of a process that died: as FINISHED where all that they give is there, else as KILLED."""
    for found in registry.nested(execution_id):
        if found.status == "RUNNING":
            registry.end(found.id, "FINISHED" if DONE in found.tags else "KILLED")


class _Steps:
    """The steps of one execution. Each gives its outputs, now or, where it is done, from its run's tag."""

    def __init__(
        self,
        registry: Registry,
        run: TrackedRun,
        execution: Execution,
        request: ExecutionRequest,
        how: ExecutionOptions,
        folder: Path,
    ) -> None:
        self.registry, self.run, self.execution, self.request, self.how = registry, run, execution, request, how
        self.folder = folder
        self.spec, self.recipe = request.spec, request.recipe
        self.done: dict[str, Any] = {}
        for found in registry.nested(run.id) if execution.resumed else ():
            if DONE in found.tags:
                self.done.setdefault(found.name, json.loads(found.tags[DONE]))

    def all(self, promote: Promote) -> None:
        """Go through them."""
        if self.how.state and not (prepared.is_prepared(self.spec.source) and not self.request.uri):
            self.spec = replace(self.spec, source=Path(self._step("prepare", self._prepare)["source"]))
        train = self._step("train", self._train)
        if train["fingerprint"] != self.data.fingerprint:  # the dataset was prepared anew since
            self.done.clear()
            self.execution.steps = [each for each in self.execution.steps if each.name == "prepare"]
            train = self._step("train", self._train)
        judged = self._step("evaluate", partial(self._evaluate, train), self._still_holds)
        gated = self._step("gate", partial(self._gate, judged))
        self._tell(gated)
        if not gated["promote"]:
            self.execution.steps.append(Step("promote", "Skipped"))
            return
        outcome = self._step("promote", partial(self._promote, promote, gated["version"]))
        self.execution.decision = "promoted" if outcome["status"] == Status.PROMOTED else "refused"
        if self.execution.decision == "refused":
            self.execution.reasons = (*self.execution.reasons, outcome["reason"])

    def _tell(self, gated: Outputs) -> None:
        self.execution.challenger = Model(**gated["challenger"])
        self.execution.champion = Model(**gated["champion"]) if gated["champion"] else None
        self.execution.decision = Status.APPROVED if gated["promote"] else Status.REFUSED
        self.execution.reasons = tuple(gated["reasons"])

    def _step(
        self,
        name: str,
        body: Callable[[TrackedRun], dict[str, Any]],
        still_holds: Callable[[Outputs], bool] = lambda _: True,
    ) -> Outputs:
        """One step: what it gave before, or ``body``'s outputs, tried again after errors that can pass."""
        if name in self.done and still_holds(self.done[name]["outputs"]):
            self.execution.steps.append(Step(**self.done[name]["step"]))
            return dict(self.done[name]["outputs"])
        step, start = Step(name), time.monotonic()
        self.execution.steps.append(step)

        def attempt() -> Outputs:
            with self.registry.run(name, self.run.id, resume_run_id=step.run_id or None) as run:
                step.run_id = run.id
                outputs = body(run)
                step.cached = outputs.pop("cached", False)
                finished = replace(step, status="Succeeded", seconds=round(time.monotonic() - start, 2))
                run.set_tags({DONE: json.dumps({"step": asdict(finished), "outputs": outputs})})
                return outputs

        try:
            outputs = with_retry(attempt, self.how.retry, step)
            step.status = "Succeeded"
        except BaseException:
            step.status = "Failed"
            raise
        finally:
            step.seconds = round(time.monotonic() - start, 2)
        with_retry(partial(_record, self.run, self.execution), self.how.retry, Step("record"))
        return outputs

    def _prepare(self, run: TrackedRun) -> dict[str, Any]:
        """Fetch the bucket, if it is one, and bring the prepared dataset up to date: old photos keep their split."""
        assert self.how.state
        source = self.spec.source
        if self.request.uri:
            source = transfer.mirror(self.request.uri, self.how.state / "s3")
        if prepared.is_prepared(source):
            return {"source": str(source)}
        if source.is_file() and not is_settled(source, self.how.settled_s):
            raise AwayError(f"{source} was written to within {self.how.settled_s:.0f} s; it may not be whole yet")
        made = prepared.prepare(
            source, prepared_folder(self.how.state, self.spec), self.spec.counts, self.spec.seed, self.recipe.extra
        )
        run.log_params(
            {
                "source": self.request.uri or source,
                "photos": len(made.rows),
                "left_out": len(made.skipped),
                "fingerprint": made.fingerprint,
            }
        )
        return {"source": str(made.folder)}

    @cached_property
    def data(self) -> Dataset:
        """The photos, loaded when a step first needs them."""
        return prepared.load_any(self.spec, self.recipe.size_px, self.recipe.extra)

    def _train(self, run: TrackedRun) -> dict[str, Any]:
        key = step_cache.training_key(self.data, self.recipe, self.spec.seed)
        made = {"fingerprint": self.data.fingerprint, "test_fingerprint": self.data.test.fingerprint}
        found = step_cache.find_training(self.registry, key) if self.how.cache else None
        if found:
            run.set_tags({step_cache.CACHED_FROM: found.id})
            sha = found.tags[ARCHIVE_SHA]
            return {**made, "run_id": found.id, "archive_sha256": sha, "cached": True}
        out = self.folder / run.id
        checkpoints = self.how.state / "checkpoints" / key if self.how.state else None
        trained = run_training(self.spec, self.recipe, out, run, checkpoints=checkpoints, data=self.data)
        sha = sha256(trained.archive)
        run.set_tags({step_cache.TRAINING: key, ARCHIVE_SHA: sha})
        return {**made, "run_id": run.id, "archive_sha256": sha}

    def _archive(self, run_id: str) -> Path:
        """The archive of a run: the one that was trained here, or MLflow's."""
        here = self.folder / run_id / Path(ARCHIVE).name
        return here if here.is_file() else fetch(self.registry, run_id, self.folder / run_id, self.how.trusted)

    def _evaluate(self, train: Outputs, run: TrackedRun) -> dict[str, Any]:
        return evaluate_step.evaluate_both(self.registry, train, self.data, self._archive, run, self.how.cache)

    def _still_holds(self, judged: Outputs) -> bool:
        """Whether the champion is the one that was compared with, or by now what this execution itself made of it."""
        champion = self.registry.alias(CHAMPION)
        if "gate" in self.done or (champion.number if champion else "") == judged["champion"]:
            return True
        return champion is not None and champion.run_id == judged["challenger"]

    def _gate(self, judged: Outputs, run: TrackedRun) -> dict[str, Any]:
        challenger, champion = evaluate_step.read_both(self.registry, judged)
        decision = gate.decide(challenger, champion, self.how.policy)
        version, reasons = evaluate_step.register_challenger(self.registry, judged, decision, run)
        made = {
            "version": version,
            "promote": decision.promote,
            "reasons": reasons,
            "challenger": asdict(_model(version, challenger)),
        }
        return {**made, "champion": asdict(_model(judged["champion"], champion)) if champion else None}

    def _promote(self, promote: Promote, version: str, run: TrackedRun) -> dict[str, Any]:
        run.log_params({"version": version})
        outcome = promote(version)
        run.log_json(asdict(outcome), "outcome.json")
        # the version says what became of it, also where that was before this process began
        return {**asdict(outcome), "status": self.registry.version(version).status}


def prepared_folder(state: Path, spec: DataSpec) -> Path:
    """Where the photos of ``spec`` are prepared: one folder a source, counts and seed."""
    name = digest([f"source {spec.source.resolve()}", f"counts {spec.counts}", f"seed {spec.seed}"])[:12]
    return state / "prepared" / name


def _model(version: str, evaluated: Evaluated) -> Model:
    found = evaluated.evaluation
    return Model(version, found.accuracy, found.accuracy_interval, found.rmse)


def wait_for_promoter(registry: Registry, version: str, timeout_s: float = 600.0) -> PromotionOutcome:
    """Wait until another process, which alone reaches the server, has dealt with ``version``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = registry.version(version)
        if found.status != Status.APPROVED:
            return PromotionOutcome(found.status, version, found.reason)
        time.sleep(POLL_S)
    raise AbsentError(
        f"the promoter has not dealt with version {version} within {timeout_s:.0f} s; is it running? "
        "The version stays approved and is promoted when the promoter comes back"
    )
