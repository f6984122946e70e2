"""Keeping the champion fresh: look, start an execution when one is due, and resume one that was cut off.

    python scripts/pipeline.py --watch

A look without news costs a question to MLflow and a few to the file system. Executions hold a lock on the state
folder; the request of the one under way lies beside it, so that the next start goes on with it after a kill.
"""

import argparse
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from serve.errors import BinwatchError, DataError, HeldError, TrainingError
from trainer.pipeline import execution_lock, triggers
from trainer.pipeline.execution import Execution, ExecutionRequest
from trainer.pipeline.new_photos import Arrived, NewPhotos, Seen
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
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import CHAMPION

MOST_STARTS = 5
"""An execution whose process died so often is given up."""
DAY_S, HOUR_S = 86_400.0, 3600.0
log = logging.getLogger(__name__)

Tell = Callable[[bool, str], None]
"""Told that executions fail (True) and why, or that they go well again (False)."""


def add_options(to: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """What scripts/pipeline.py may be told beside photos, recipe and gate."""
    get = environ.get
    to.add_argument("--state", type=Path, default=Path(get("BINWATCH_STATE", "var")), help="what is kept, and a lock")
    to.add_argument("--no-cache", dest="cache", action="store_false", help="do again what was done before")
    to.add_argument("--resume", metavar="EXECUTION", help="go on with the execution whose run has this id")
    to.add_argument("--watch", action="store_true", help="go on until SIGTERM")
    to.add_argument("--interval", type=float, default=5.0, help="seconds between two looks")
    to.add_argument("--heartbeat", type=Path, default=Path(tempfile.gettempdir(), "binwatch-trainer"))
    to.add_argument("--monitoring", type=Path, default=Path(get("BINWATCH_MONITORING") or "var/monitoring"))
    to.add_argument("--capture", default=get("BINWATCH_CAPTURE") or "var/capture", help="what --watch prunes")


class PipelineWatcher:
    """Executions of one request below one state folder, never two at once."""

    def __init__(
        self,
        registry: Registry,
        request: ExecutionRequest,
        promote: Promote,
        how: ExecutionOptions,
        *,
        limits: Limits = DEFAULT,
        monitoring: Path | None = None,
        tell: Tell = lambda *_: None,
        prune: Callable[[], object] = lambda: None,
        arrivals: NewPhotos | None = None,
    ) -> None:
        """``how.state`` must be given; ``monitoring``: where monitoring.json is; ``prune`` is called once a day."""
        assert how.state
        self._registry, self._request, self._promote, self._how = registry, request, promote, how
        self._state, self._limits, self._monitoring = how.state, limits, monitoring
        self._tell, self._prune = tell, prune
        self._arrivals = arrivals or NewPhotos(request.spec, request.uri)
        self._seen = Seen(prepared_folder(self._state, request.spec).with_suffix(".seen.json"))

    def once(self) -> Execution:
        """One execution, now. Raises HeldError where one is under way."""
        with execution_lock.exclusive_lock(self._state, "an execution"):
            left = execution_lock.read(self._state)
            if left:
                self._abandon(left.request, "KILLED")
            arrived, view = self._view()
            return self._carry_out(self._request, arrived, view)

    def resume(self, execution_id: str) -> Execution:
        """Go on with an execution from its first unfinished step. Raises HeldError, DataError."""
        request = request_of(self._registry, execution_id)
        with execution_lock.exclusive_lock(self._state, f"execution {execution_id}"):
            return self._carry_out(request, None, self._view()[1])

    def look(self) -> Execution | None:
        """Resume what was cut off, or start what is due, or prune once a day."""
        if execution_lock.read(self._state):
            with execution_lock.exclusive_lock(self._state, "the execution that was cut off"):
                left = execution_lock.read(self._state)
                return self._go_on(left) if left else None
        arrived, view = self._view()
        before = triggers.read_past(self._state)
        past = triggers.looked(before, view)
        if past != before:
            triggers.write_past(self._state, past)
        found = triggers.due(view, past, self._limits, time.time())
        if found.start:
            with execution_lock.exclusive_lock(self._state, "an execution"):
                if triggers.read_past(self._state).ended_s != past.ended_s:
                    return None  # another process has just done it
                log.info("an execution starts: %s", "; ".join(found.reasons))
                request = replace(self._request, token=uuid.uuid4().hex, why=found.reasons)
                return self._carry_out(request, arrived, view)
        if time.time() - past.pruned_s > DAY_S:
            self._prune_now(past)
        return None

    def _prune_now(self, past: WatcherState) -> None:
        """Prune; where that fails, again in an hour."""
        with execution_lock.exclusive_lock(self._state, "the pruning"):
            triggers.write_past(self._state, replace(past, pruned_s=time.time() - DAY_S + HOUR_S))
            self._prune()
            triggers.write_past(self._state, replace(past, pruned_s=time.time()))

    def watch(self, heartbeat: Path, interval_s: float) -> NoReturn:
        """Look every ``interval_s`` seconds, for ever; touch ``heartbeat`` at each look."""
        held = ""
        while True:
            heartbeat.touch()
            try:
                execution, held = self.look(), ""
                if execution:
                    log.info("execution %s: %s: %s", execution.id, execution.decision, "; ".join(execution.reasons))
            except HeldError as error:
                if str(error) != held:  # it may be held for hours
                    log.info("%s", error)
                held = str(error)
            except BinwatchError as error:
                log.warning("%s; looking again in %.0f s", error, interval_s)
            time.sleep(interval_s)

    def _view(self) -> tuple[Arrived, TriggerInputs]:
        """What is there now. A source that cannot be read has nothing new; the execution that needs it will say so."""
        champion, seen = self._registry.alias(CHAMPION) is not None, self._seen.ids()
        try:
            arrived = self._arrivals.look(seen)
        except DataError as error:
            log.warning("new photos are not looked for: %s", error)
            arrived = Arrived()
        drift = triggers.drift_of(self._monitoring / triggers.MONITORING, time.time()) if self._monitoring else None
        return arrived, TriggerInputs(champion, len(arrived.ids - seen), len(seen), drift)

    def _go_on(self, left: execution_lock.Underway) -> Execution:
        if left.starts < MOST_STARTS:
            log.info("going on with the execution that was cut off")
            return self._carry_out(left.request, None, self._view()[1])
        self._abandon(left.request, "FAILED")
        error = TrainingError(
            f"an execution's process died {left.starts} times; it is given up: is there memory enough?"
        )
        self._end(self._view()[1], None, str(error))
        raise error

    def _abandon(self, request: ExecutionRequest, status: str) -> None:
        for run in runs_of(self._registry, request):
            end_orphans(self._registry, run.id)
            if run.status == "RUNNING":
                self._registry.end(run.id, status)

    def _carry_out(self, request: ExecutionRequest, arrived: Arrived | None, view: TriggerInputs) -> Execution:
        """``arrived``: what the execution will have seen; None for one that goes on, which has noted it."""
        execution_lock.mark_started(self._state, request)
        if arrived:
            self._seen.propose(arrived.ids)
        try:
            execution = run_or_resume(self._registry, request, self._promote, self._how)
        except BinwatchError as error:
            self._end(view, None, str(error))
            raise
        except (SystemExit, KeyboardInterrupt):
            execution_lock.mark_interrupted(self._state)
            raise
        self._end(view, execution, "; ".join(execution.reasons))
        return execution

    def _end(self, view: TriggerInputs, execution: Execution | None, reason: str) -> None:
        """Remember how it ended, and only then forget that it was under way: a kill in between ends it once more."""
        promoted = execution is not None and execution.decision == "promoted"
        before = triggers.read_past(self._state)
        past = triggers.ended(before, view, decided=execution is not None, promoted=promoted, now_s=time.time())
        if execution:
            self._seen.accept()
        triggers.write_past(self._state, past)
        execution_lock.clear(self._state)
        if bool(past.failures) != bool(before.failures):
            self._tell(bool(past.failures), reason)
