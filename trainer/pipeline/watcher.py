"""The loop that keeps the champion fresh: it polls, starts an execution when one is due, and resumes a cut-off one.

    python scripts/pipeline.py --watch

A poll without news costs a request to MLflow and a few stat calls. Executions hold a lock on the state folder; the
request of the unfinished one is stored beside the lock, so that the next process resumes it after a crash.
"""

import argparse
import logging
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from serve.errors import OUTSIDE, BinwatchError, DataError, LockHeldError, TrackingError, TrainingError, sentence
from serve.objects.object_store import ObjectStore
from trainer.artifacts import MONITORING
from trainer.data import layouts, prepared
from trainer.data.recounts import is_recount
from trainer.pipeline import execution_lock, triggers
from trainer.pipeline.execution import Execution, ExecutionDecision, ExecutionRequest
from trainer.pipeline.new_photos import KnownPhotos, LabelledPhotos, NewPhotos
from trainer.pipeline.pipeline import (
    ExecutionOptions,
    Promote,
    end_orphans,
    prepared_folder,
    request_of,
    run_or_resume,
    runs_of,
)
from trainer.pipeline.triggers import DEFAULT, Limits, TriggerInputs, WatcherState
from trainer.registry.entities import CHAMPION
from trainer.registry.mlflow_registry import Registry

MAX_STARTS = 5
"""An execution whose process has died that often is given up."""
DAY_S, HOUR_S = 86_400.0, 3600.0
log = logging.getLogger(__name__)

Notify = Callable[[bool, str], None]
"""Called with True and the reason when executions start to fail, with False when they succeed again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of scripts/pipeline.py that are no settings."""
    add = parser.add_argument
    add("--no-cache", dest="cache", action="store_false", help="do not reuse earlier results")
    add("--resume", metavar="EXECUTION", help="resume the execution with this run id")
    add("--watch", action="store_true", help="poll until SIGTERM")
    add("--interval", type=float, default=5.0, help="seconds between polls")
    beat = Path(tempfile.gettempdir(), "binwatch-trainer")
    add("--heartbeat", type=Path, default=beat, help="file that each poll touches")


class PipelineWatcher:
    """Runs the executions of one request with one state folder, never two at a time."""

    def __init__(
        self,
        registry: Registry,
        request: ExecutionRequest,
        promote: Promote,
        options: ExecutionOptions,
        *,
        limits: Limits = DEFAULT,
        monitoring: ObjectStore | None = None,
        notify: Notify = lambda *_: None,
        prune: Callable[[], object] = lambda: None,
        check_promise: Callable[[], object] = lambda: None,
        new_photos: NewPhotos | None = None,
    ) -> None:
        """``options.state`` is required; ``monitoring``: place of monitoring.json; ``prune``: called once a day;
        ``check_promise``: called by each poll that starts no execution (``recalibration/promise.py``)."""
        assert options.state
        self._registry, self._request, self._promote, self._options = registry, request, promote, options
        self._state, self._limits, self._monitoring = options.state, limits, monitoring
        self._notify, self._prune, self._check_promise = notify, prune, check_promise
        self._new_photos = new_photos or NewPhotos(request.spec, request.uri)
        self._known_photos = KnownPhotos(prepared_folder(self._state, request.spec).with_suffix(".seen.json"))

    def run_once(self) -> Execution:
        """Run one execution now. Raises LockHeldError while another one runs."""
        with execution_lock.lock_state(self._state, "an execution"):
            self._end_unended()
            unfinished = execution_lock.read_unfinished(self._state)
            if unfinished:
                self._abandon(unfinished.request.token, "KILLED")
            return self._execute(self._request, self._read_inputs(), resumed=False)

    def resume(self, execution_id: str) -> Execution:
        """Resume an execution from its first unfinished step. Raises LockHeldError, DataError."""
        request = request_of(self._registry, execution_id)
        with execution_lock.lock_state(self._state, f"execution {execution_id}"):
            return self._execute(request, self._read_inputs(), resumed=True)

    def poll(self) -> Execution | None:
        """Resume the execution that was cut off, or start the one that is due, or prune once a day."""
        if execution_lock.read_unfinished(self._state):
            with execution_lock.lock_state(self._state, "the execution that was cut off"):
                unfinished = execution_lock.read_unfinished(self._state)
                return self._resume_unfinished(unfinished) if unfinished else None
        self._end_unended()
        inputs = self._read_inputs()
        stored = triggers.read_state(self._state)
        state = triggers.after_poll(stored, inputs)
        if state != stored:
            triggers.write_state(self._state, state)
        decision = triggers.decide(inputs, state, self._limits, time.time())
        if decision.start:
            with execution_lock.lock_state(self._state, "an execution"):
                if triggers.read_state(self._state).ended_s != state.ended_s:
                    return None  # another process has just run it
                log.info("starting an execution: %s", "; ".join(decision.reasons))
                request = replace(self._request, token=uuid.uuid4().hex, why=decision.reasons)
                return self._execute(request, inputs, resumed=False)
        if time.time() - state.pruned_s > DAY_S:
            self._prune_now(state)
        self._check_promise()
        return None

    def _prune_now(self, state: WatcherState) -> None:
        """Prune; if that fails, retry in an hour."""
        with execution_lock.lock_state(self._state, execution_lock.PRUNING):
            triggers.write_state(self._state, replace(state, pruned_s=time.time() - DAY_S + HOUR_S))
            self._prune()
            triggers.write_state(self._state, replace(state, pruned_s=time.time()))

    def watch(self, heartbeat: Path, interval_s: float) -> NoReturn:
        """Poll every ``interval_s`` seconds, for ever; touch ``heartbeat`` at each poll."""
        held = ""
        while True:
            heartbeat.touch()
            try:
                execution, held = self.poll(), ""
                if execution:
                    log.info("execution %s: %s: %s", execution.id, execution.decision, "; ".join(execution.reasons))
            except LockHeldError as error:
                if str(error) != held:  # the lock may be held for hours: log it once
                    log.info("%s", error)
                held = str(error)
            except (BinwatchError, *OUTSIDE) as error:
                log.warning("%s; polling again in %.0f s", sentence(error), interval_s)
            time.sleep(interval_s)

    def _read_inputs(self) -> TriggerInputs:
        """The trigger inputs of now. An unreadable source counts as one without photos: the execution that
        needs it reports the error."""
        has_champion, known_ids = self._registry.alias(CHAMPION) is not None, self._known_photos.ids()
        try:
            photos = self._new_photos.poll(known_ids)
        except DataError as error:
            log.warning("the source cannot be polled for new photos: %s", error)
            photos = LabelledPhotos()
        drift = triggers.read_drift(self._read_monitoring(), time.time())
        new_ids = photos.ids - known_ids
        return TriggerInputs(has_champion, len(new_ids), len(known_ids), drift, sum(map(is_recount, new_ids)))

    def _read_monitoring(self) -> bytes:
        """The monitoring's report; empty where there is none, or its place does not answer: drift is then unknown."""
        try:
            stored = self._monitoring.read(MONITORING) if self._monitoring else None
        except (DataError, OSError) as error:
            log.warning("the monitoring cannot be read for drift: %s", sentence(error))
            return b""
        return stored.content if stored else b""

    def _resume_unfinished(self, unfinished: execution_lock.UnfinishedExecution) -> Execution:
        if unfinished.starts < MAX_STARTS:
            log.info("resuming the execution that was cut off")
            return self._execute(unfinished.request, self._read_inputs(), resumed=True)
        self._abandon(unfinished.request.token, "FAILED")
        error = TrainingError(
            f"the process of an execution died {unfinished.starts} times, so it is given up; is there enough memory?"
        )
        self._finish(self._read_inputs(), None, str(error))
        raise error

    def _abandon(self, token: str, status: str) -> None:
        for run in runs_of(self._registry, token):
            end_orphans(self._registry, run.id)
            if run.status == "RUNNING":
                self._registry.end(run.id, status)

    def _end_unended(self) -> None:
        """End the runs of executions that gave up while MLflow was away. Raises TrackingError while it still is."""
        tokens = execution_lock.read_unended(self._state)
        for token in tokens:
            self._abandon(token, "FAILED")
        if tokens:
            execution_lock.write_unended(self._state, [])

    def _execute(self, request: ExecutionRequest, inputs: TriggerInputs, *, resumed: bool) -> Execution:
        """Run or resume an execution. One that starts proposes the photos that are there as those that it knows."""
        execution_lock.mark_started(self._state, request)
        unended = execution_lock.read_unended(self._state)
        execution_lock.write_unended(self._state, [token for token in unended if token != request.token])
        if not resumed:
            self._known_photos.propose(self._new_photos.present(self._known_photos.ids()))
        try:
            execution = run_or_resume(self._registry, request, self._promote, self._options)
        except (BinwatchError, *OUTSIDE) as error:
            self._finish(inputs, None, sentence(error))
            tokens = execution_lock.read_unended(self._state)
            execution_lock.write_unended(self._state, [*tokens, request.token])
            with suppress(TrackingError):  # the next poll ends them
                self._end_unended()
            raise
        except (SystemExit, KeyboardInterrupt):
            execution_lock.mark_interrupted(self._state)
            raise
        self._finish(inputs, execution, "; ".join(execution.reasons))
        return execution

    def _prepared_ids(self) -> frozenset[str]:
        """The photos of the prepared dataset, which came from a source that may not have answered a poll before."""
        folder = prepared_folder(self._state, self._request.spec)
        try:
            rows = prepared.read(folder).rows if layouts.is_prepared(folder) else ()
        except DataError:
            rows = ()
        return frozenset(row.id for row in rows)

    def _finish(self, inputs: TriggerInputs, execution: Execution | None, reason: str) -> None:
        """Store the result, and clear the unfinished execution last: after a kill in between, it finishes again."""
        promoted = execution is not None and execution.decision == ExecutionDecision.PROMOTED
        stored = triggers.read_state(self._state)
        state = triggers.after_execution(
            stored, inputs, decided=execution is not None, promoted=promoted, now_s=time.time()
        )
        if execution:
            self._known_photos.accept(self._prepared_ids())
        triggers.write_state(self._state, state)
        execution_lock.clear(self._state)
        if bool(state.failures) != bool(stored.failures):
            self._notify(bool(state.failures), reason)
