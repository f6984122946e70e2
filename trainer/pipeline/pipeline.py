"""The pipeline: the steps prepare, train, evaluate, gate and promote, recorded as one execution in MLflow.

It has the structure of a SageMaker pipeline: ProcessingStep, TrainingStep, ProcessingStep (evaluation.json),
ConditionStep, and a step that updates the endpoint. An execution is a run in MLflow, and each step is a run nested in
it, with its status, duration, inputs and outputs.

Each step stores its outputs as JSON in the MLflow tag ``binwatch.done`` of its run (``step_outputs.py``). To resume an
execution whose process died, it is run again with the same request: steps that have the tag are skipped. A training or
an evaluation with the same inputs and code as an earlier one is taken from the cache (``step_cache.py``).
"""

import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from serve.errors import PromoterTimeoutError, TrackingError, UnavailableError
from serve.manifest import sha256
from trainer.artifacts import (
    ARCHIVE_FILE,
    ARCHIVE_SHA,
    CACHED_FROM_TAG,
    DONE_TAG,
    EXECUTION,
    EXECUTION_KIND,
    KIND_TAG,
    OUTCOME,
    REQUEST_TAG,
    TOKEN_TAG,
    TRAINING_KEY_TAG,
)
from trainer.data import layouts, prepared, transfer
from trainer.data.dataset import Dataset, DataSpec, digest
from trainer.data.prepare import prepare
from trainer.data.recounts import number_of_recounts
from trainer.evaluation import gate
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.policy import DEFAULT, GatePolicy
from trainer.pipeline import evaluate_step, step_cache
from trainer.pipeline.execution import (
    ComparedModel,
    Execution,
    ExecutionDecision,
    ExecutionRequest,
    Retry,
    Step,
    StepStatus,
    parse_request,
    with_retry,
)
from trainer.pipeline.new_photos import is_settled
from trainer.pipeline.step_outputs import (
    CompletedStep,
    EvaluateOutput,
    GateOutput,
    Output,
    PrepareOutput,
    PromoteOutput,
    StepResult,
    TrainOutput,
    from_tag,
    to_tag,
)
from trainer.promotion.outcome import PromotionOutcome
from trainer.registry.entities import CHAMPION, RunInfo, Status
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.registry.tracked_run import TrackedRun
from trainer.training.recipes import Recipe

POLL_S = 1.0

Promote = Callable[[str], PromotionOutcome]
"""Deploys an approved version, by its number, or says why not."""


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """How executions run.

    ``state``: the folder for prepared datasets, mirrors of buckets and checkpoints; without it photos are used in
    place and an interrupted training starts again. ``cache``: reuse the results of earlier steps with the same inputs.
    ``policy``: the gate's. ``settled_s``: a table of photos must have been unchanged for that long. ``trusted``: the
    keys that archives must be signed with (trainer/registry/signed_archive.py). ``recovery_s``: how long to wait until
    the promoter has given MLflow back a champion's archive that was lost.
    """

    state: Path | None = None
    cache: bool = True
    retry: Retry = field(default_factory=Retry)
    policy: GatePolicy = DEFAULT
    settled_s: float = 0.0
    trusted: Path | None = None
    recovery_s: float = 0.0


def execute(
    registry: Registry, spec: DataSpec, recipe: Recipe, promote: Promote, options: ExecutionOptions = ExecutionOptions()
) -> Execution:
    """Run the pipeline once. Raises BinwatchError where a step fails; the champion then goes on serving."""
    return run_or_resume(registry, ExecutionRequest(spec, recipe), promote, options)


def run_or_resume(
    registry: Registry, request: ExecutionRequest, promote: Promote, options: ExecutionOptions = ExecutionOptions()
) -> Execution:
    """Run the steps of a request that are not done yet. Raises BinwatchError where a step fails."""
    previous = next(iter(runs_of(registry, request.token)), None)
    tags = {
        KIND_TAG: EXECUTION_KIND,
        TOKEN_TAG: request.token,
        REQUEST_TAG: request.to_json(),
        "why": "; ".join(request.why),
    }
    resume_run_id = previous.id if previous else None
    with (
        registry.run(f"execution {request.recipe.name}", resume_run_id=resume_run_id, tags=tags) as run,
        ExitStack() as stack,
    ):
        resumed = _number(previous.tags.get("resumed", "")) + 1 if previous else 0
        execution = Execution(run.id, why=request.why, resumed=resumed)
        if previous:
            end_orphans(registry, run.id)
            run.set_tags({"resumed": str(resumed)})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="binwatch-execution-")))
        try:
            _Steps(registry, run, execution, request, options, folder).run(promote)
        except BaseException:
            with suppress(TrackingError):  # the reason for the failure counts, whether MLflow answers or not
                _record(run, execution)
            raise
        with_retry(partial(_record, run, execution), options.retry, Step("record"))
        return execution


def _number(text: str) -> int:
    """A number in a tag, which anybody can change in MLflow; 0 for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def _record(run: TrackedRun, execution: Execution) -> None:
    run.log_json(execution.to_json(), EXECUTION)
    run.set_tags({"decision": execution.decision, "reasons": "; ".join(execution.reasons)})


def runs_of(registry: Registry, token: str) -> list[RunInfo]:
    """The run of the execution with that token; empty where it has not started."""
    return registry.runs(f"tags.`{TOKEN_TAG}` = '{token}'")


def request_of(registry: Registry, execution_id: str) -> ExecutionRequest:
    """The request of an execution. Raises TrackingError where there is no such run, DataError for any other run."""
    return parse_request(registry.tags(execution_id).get(REQUEST_TAG, ""))


def end_orphans(registry: Registry, execution_id: str) -> None:
    """End the steps whose process died: as FINISHED where their outputs are complete, else as KILLED."""
    for run in registry.nested(execution_id):
        if run.status == "RUNNING":
            registry.end(run.id, "FINISHED" if DONE_TAG in run.tags else "KILLED")


class _Steps:
    """The steps of one execution. ``done``: step name -> its tag, of the steps that were completed earlier."""

    def __init__(
        self,
        registry: Registry,
        execution_run: TrackedRun,
        execution: Execution,
        request: ExecutionRequest,
        options: ExecutionOptions,
        folder: Path,
    ) -> None:
        self.registry, self.execution_run, self.execution = registry, execution_run, execution
        self.request, self.options, self.folder = request, options, folder
        self.spec, self.recipe = request.spec, request.recipe
        self.done: dict[str, str] = {}
        for run in registry.nested(execution_run.id) if execution.resumed else ():
            if DONE_TAG in run.tags:
                self.done.setdefault(run.name, run.tags[DONE_TAG])

    def run(self, promote: Promote) -> None:
        """Run all steps, and record the decision in the execution."""
        if self.options.state and not (layouts.is_prepared(self.spec.source) and not self.request.uri):
            self.spec = replace(self.spec, source=self._step("prepare", PrepareOutput, self._prepare).source)
        train = self._step("train", TrainOutput, self._train)
        if train.fingerprint != self.data.fingerprint:  # the dataset was prepared again after that training
            self.done.clear()
            self.execution.steps = [step for step in self.execution.steps if step.name == "prepare"]
            train = self._step("train", TrainOutput, self._train)
        evaluations = self._step("evaluate", EvaluateOutput, partial(self._evaluate, train), self._is_current)
        gated = self._step("gate", GateOutput, partial(self._gate, evaluations))
        self._record_decision(gated)
        if not gated.promote:
            self.execution.steps.append(Step("promote", status=StepStatus.SKIPPED))
            return
        promoted = self._step("promote", PromoteOutput, partial(self._promote, promote, gated.version))
        if promoted.status == Status.PROMOTED:
            self.execution.decision = ExecutionDecision.PROMOTED
        else:
            self.execution.decision = ExecutionDecision.REFUSED
            self.execution.reasons = (*self.execution.reasons, promoted.reason)

    def _record_decision(self, gated: GateOutput) -> None:
        self.execution.challenger, self.execution.champion = gated.challenger, gated.champion
        self.execution.decision = ExecutionDecision.APPROVED if gated.promote else ExecutionDecision.REFUSED
        self.execution.reasons = gated.reasons

    def _step(
        self,
        name: str,
        output_type: type[Output],
        body: Callable[[TrackedRun], StepResult[Output]],
        is_valid: Callable[[Output], bool] = lambda _: True,
    ) -> Output:
        """The outputs of a step: its earlier ones while they are valid, else those of ``body``, which is retried."""
        if name in self.done:
            completed = from_tag(self.done[name], output_type)
            if is_valid(completed.outputs):
                self.execution.steps.append(completed.step)
                return completed.outputs
        step, start = Step(name), time.monotonic()
        self.execution.steps.append(step)

        def attempt() -> Output:
            with self.registry.run(name, self.execution_run.id, resume_run_id=step.run_id or None) as run:
                step.run_id = run.id
                result = body(run)
                step.cached = result.cached
                seconds = round(time.monotonic() - start, 2)
                finished = replace(step, status=StepStatus.SUCCEEDED, seconds=seconds)
                run.set_tags({DONE_TAG: to_tag(CompletedStep(finished, result.outputs))})
                return result.outputs

        try:
            outputs = with_retry(attempt, self.options.retry, step)
            step.status = StepStatus.SUCCEEDED
        except BaseException:
            step.status = StepStatus.FAILED
            raise
        finally:
            step.seconds = round(time.monotonic() - start, 2)
        with_retry(partial(_record, self.execution_run, self.execution), self.options.retry, Step("record"))
        return outputs

    def _prepare(self, run: TrackedRun) -> StepResult[PrepareOutput]:
        """Mirror the bucket, if it is one, and update the prepared dataset: photos keep the split they are in."""
        assert self.options.state
        source = self.spec.source
        if self.request.uri:
            source = transfer.mirror(self.request.uri, self.options.state / "s3", self.spec)
        if layouts.is_prepared(source):
            return StepResult(PrepareOutput(source=source))
        if source.is_file() and not is_settled(source, self.options.settled_s):
            raise UnavailableError(
                f"{source} was modified within the last {self.options.settled_s:.0f} s and may be incomplete"
            )
        spec, folder = self.spec, prepared_folder(self.options.state, self.spec)
        dataset = prepare(source, folder, spec.counts, spec.seed, self.recipe.extra, spec.recounts)
        run.log_params(
            {
                "source": self.request.uri or source,
                "photos": len(dataset.rows),
                "recounts": number_of_recounts(dataset.photos()),
                "left_out": len(dataset.skipped),
                "fingerprint": dataset.fingerprint,
            }
        )
        return StepResult(PrepareOutput(source=dataset.folder))

    @cached_property
    def data(self) -> Dataset:
        """The photos, loaded when a step first needs them."""
        return prepared.load_any(self.spec, self.recipe.size_px, self.recipe.extra)

    def _train(self, run: TrackedRun) -> StepResult[TrainOutput]:
        key = step_cache.training_key(self.data, self.recipe, self.spec.seed)
        cached_run = step_cache.find_training(self.registry, key) if self.options.cache else None
        if cached_run:
            run.set_tags({CACHED_FROM_TAG: cached_run.id})
            return StepResult(self._train_output(cached_run.id, cached_run.tags[ARCHIVE_SHA]), cached=True)
        from trainer.training.run import run_training  # torch takes seconds to import: not for what is cached

        out = self.folder / run.id
        checkpoints = self.options.state / "checkpoints" / key if self.options.state else None
        trained = run_training(self.spec, self.recipe, out, run, checkpoints=checkpoints, data=self.data)
        sha = sha256(trained.archive)
        run.set_tags({TRAINING_KEY_TAG: key, ARCHIVE_SHA: sha})
        return StepResult(self._train_output(run.id, sha))

    def _train_output(self, run_id: str, archive_sha256: str) -> TrainOutput:
        return TrainOutput(
            fingerprint=self.data.fingerprint,
            test_fingerprint=self.data.test.fingerprint,
            run_id=run_id,
            archive_sha256=archive_sha256,
        )

    def _archive(self, run_id: str) -> Path:
        """The archive of a run: the local one where it was trained here, else MLflow's."""
        local = self.folder / run_id / ARCHIVE_FILE
        return local if local.is_file() else fetch(self.registry, run_id, self.folder / run_id, self.options.trusted)

    def _evaluate(self, train: TrainOutput, run: TrackedRun) -> StepResult[EvaluateOutput]:
        options = self.options
        return evaluate_step.evaluate_both(
            self.registry, train, self.data, self._archive, run, options.cache, options.recovery_s
        )

    def _is_current(self, evaluations: EvaluateOutput) -> bool:
        """Whether the champion is still the one that was evaluated, or is the challenger of this very execution."""
        champion = self.registry.alias(CHAMPION)
        if "gate" in self.done or (champion.number if champion else "") == evaluations.champion:
            return True
        return champion is not None and champion.run_id == evaluations.challenger

    def _gate(self, evaluations: EvaluateOutput, run: TrackedRun) -> StepResult[GateOutput]:
        challenger, champion = evaluate_step.read_both(self.registry, evaluations)
        decision = gate.decide(challenger, champion, self.options.policy)
        if evaluations.champion and champion is None:
            lost = f"archive and answers of version {evaluations.champion}, the champion, are lost"
            decision = replace(decision, reasons=(*decision.reasons, lost))
        version, reasons = evaluate_step.register_challenger(self.registry, evaluations, decision, run)
        outputs = GateOutput(
            version=version,
            promote=decision.promote,
            reasons=reasons,
            challenger=_compared_model(version, challenger),
            champion=_compared_model(evaluations.champion, champion) if champion else None,
        )
        return StepResult(outputs)

    def _promote(self, promote: Promote, version: str, run: TrackedRun) -> StepResult[PromoteOutput]:
        run.log_params({"version": version})
        outcome = promote(version)
        run.log_json(asdict(outcome), OUTCOME)
        # The version's status is decisive: it may have been promoted before this process started.
        status = self.registry.version(version).status
        outputs = PromoteOutput(did=outcome.did, version=outcome.version, reason=outcome.reason, status=status)
        return StepResult(outputs)


def prepared_folder(state: Path, spec: DataSpec) -> Path:
    """The folder of the prepared dataset of ``spec``: one for each source, counts and seed."""
    name = digest([f"source {spec.source.resolve()}", f"counts {spec.counts}", f"seed {spec.seed}"])[:12]
    return state / "prepared" / name


def _compared_model(version: str, evaluated: Evaluated) -> ComparedModel:
    evaluation = evaluated.evaluation
    return ComparedModel(version, evaluation.accuracy, evaluation.accuracy_interval, evaluation.rmse)


def wait_for_promoter(registry: Registry, version_number: str, timeout_s: float = 600.0) -> PromotionOutcome:
    """Wait until the promoter, a process that can reach the server, has dealt with a version.

    Raises PromoterTimeoutError.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        version = registry.version(version_number)
        if version.status != Status.APPROVED:
            return PromotionOutcome(version.status, version_number, version.reason)
        time.sleep(POLL_S)
    raise PromoterTimeoutError(
        f"the promoter has not dealt with version {version_number} within {timeout_s:.0f} s; is it running? "
        "The version stays approved and is promoted when the promoter is back"
    )
