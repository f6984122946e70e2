"""The history of deployments and executions: ``history.json``, which the monitoring tab of the page draws.

    python scripts/promote.py --history [--json]    the same as a table
    python scripts/monitor.py --watch               writes it with each report, beside monitoring.json

    {"made_at": ..., "served": [{"version", "from", "to", "did", "reason", "accuracy", "accuracy_interval",
     "dataset_fingerprint", "revision", "run_id", "execution"}], "executions": [{"id", "started", "seconds", "status",
     "decision", "reasons", "why", "version", "steps": [{"name", "status", "seconds", "cached"}]}]}

Both lists are sorted newest first. Times are ISO 8601, UTC; ``to`` is null for the version that serves now, and so is
everything that MLflow no longer has.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

from serve.errors import DataError
from serve.objects.object_store import ObjectStore
from trainer.artifacts import DATASET, EVALUATION, EXECUTION, EXECUTION_KIND, KIND_TAG
from trainer.registry.deployments import Deployment
from trainer.registry.entities import RunInfo, Status
from trainer.reporting.run_records import (
    DATASET_FILE,
    EVALUATION_FILE,
    EXECUTION_RECORD,
    DatasetFile,
    EvaluationFile,
    ExecutionRecord,
    parse,
    read_text,
)

if TYPE_CHECKING:
    from trainer.registry.mlflow_registry import Registry  # MLflow takes seconds to import

FILE = "history.json"
MAX_SERVED, MAX_EXECUTIONS = 200, 50
EXECUTIONS_QUERY = f"tags.`{KIND_TAG}` = '{EXECUTION_KIND}'"
REVISION = "mlflow.source.git.commit"
_STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished"}

ServingPeriod = TypedDict(
    "ServingPeriod",
    {
        "version": str,
        "from": str,
        "to": str | None,
        "did": str,
        "reason": str,
        "accuracy": float | None,
        "accuracy_interval": tuple[float, float] | None,
        "dataset_fingerprint": str | None,
        "revision": str | None,
        "run_id": str | None,
        "execution": str | None,
    },
)
"""A stretch of time in which one version served."""


class StepSummary(TypedDict):
    """One step of an execution."""

    name: str
    status: str
    seconds: float | None
    cached: bool


class ExecutionSummary(TypedDict):
    """One execution of the pipeline. ``version``: of the challenger, where it was registered."""

    id: str
    started: str
    status: str
    seconds: float
    decision: str
    reasons: list[str]
    why: list[str]
    version: str | None
    steps: list[StepSummary]


class History(TypedDict):
    """The content of ``history.json``."""

    made_at: str
    served: list[ServingPeriod]
    executions: list[ExecutionSummary]


@dataclass(frozen=True)
class Facts:
    """What a training run recorded about its model; None where it did not."""

    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    dataset_fingerprint: str | None = None
    revision: str | None = None


def serving_periods(
    deployments: Sequence[Deployment], facts_of: Callable[[str], Facts], executions: Mapping[str, str]
) -> list[ServingPeriod]:
    """The periods in which versions served, newest first.

    ``deployments``: newest first; ``facts_of``: by the id of a training run; ``executions``: by version, the execution
    that it is from.
    """
    ends = [None, *(iso(deployment.at_s) for deployment in deployments)]
    periods: list[ServingPeriod] = []
    for deployment, end in zip(deployments, ends, strict=False):
        facts, promoted = facts_of(deployment.train_run), deployment.did == Status.PROMOTED
        periods.append(
            {
                "version": deployment.version,
                "from": iso(deployment.at_s),
                "to": end,
                "did": deployment.did,
                "reason": deployment.reason,
                "accuracy": facts.accuracy,
                "accuracy_interval": facts.accuracy_interval,
                "dataset_fingerprint": facts.dataset_fingerprint,
                "revision": facts.revision,
                "run_id": deployment.train_run or None,
                "execution": executions.get(deployment.version) if promoted else None,
            }
        )
    return periods


def execution_summary(run: RunInfo, text: str | None, now_s: float) -> ExecutionSummary:
    """One execution from its run and the text of its ``execution.json``, which may be missing or anything."""
    record = parse(EXECUTION_RECORD, text) or ExecutionRecord()
    return {
        "id": run.id,
        "started": iso(run.started_s),
        "status": _STATUS.get(run.status, "failed"),
        "seconds": round((run.ended_s or now_s) - run.started_s, 1),
        "decision": record.decision or run.tags.get("decision") or "",
        "reasons": list(record.reasons),
        "why": list(record.why),
        "version": record.challenger.version if record.challenger else None,
        "steps": [
            {"name": step.name, "status": step.status, "seconds": step.seconds, "cached": step.cached}
            for step in record.steps
        ],
    }


def iso(at_s: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def serving_table(periods: Sequence[ServingPeriod]) -> str:
    """A table for people: a line per period, newest first."""
    if not periods:
        return "nothing has served yet; scripts/pipeline.py makes a first version"
    rows = [("from", "to", "version", "accuracy", "data", "code", "what")]
    rows += [
        (
            period["from"],
            period["to"] or "now",
            period["version"],
            "-" if period["accuracy"] is None else f"{period['accuracy']:.1%}",
            (period["dataset_fingerprint"] or "-")[:12],
            (period["revision"] or "-")[:12],
            f"{period['did']}: {period['reason']}",
        )
        for period in periods
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])) for row in rows
    )


class HistoryExporter:
    """Reads the history from MLflow repeatedly; runs that can no longer change are cached."""

    def __init__(self, uri: str, out: ObjectStore | None = None) -> None:
        """``out``: the folder that ``write`` writes to."""
        self._uri, self._out = uri, out
        self._facts: dict[str, Facts] = {}
        self._ended: dict[str, ExecutionSummary] = {}

    @cached_property
    def _registry(self) -> "Registry":
        from trainer.registry.mlflow_registry import Registry

        return Registry(self._uri)

    def read(self) -> History:
        """The history as of now. Raises TrackingError."""
        now_s = time.time()
        runs = self._registry.runs(EXECUTIONS_QUERY)[:MAX_EXECUTIONS]
        executions = [self._summary_of(run, now_s) for run in runs]
        by_version = {execution["version"]: execution["id"] for execution in executions[::-1] if execution["version"]}
        deployments = self._registry.deployments()[:MAX_SERVED]
        return {
            "made_at": iso(now_s),
            "served": serving_periods(deployments, self._facts_of, by_version),
            "executions": executions,
        }

    def write(self) -> None:
        """Write ``history.json`` atomically. Raises TrackingError, DataError."""
        assert self._out
        history = self.read()
        try:
            self._out.write(FILE, json.dumps(history, allow_nan=False).encode())
        except OSError as error:
            message = f"{self._out.place}/{FILE} cannot be written: {error}; name another place with --out"
            raise DataError(message) from error

    def _summary_of(self, run: RunInfo, now_s: float) -> ExecutionSummary:
        if run.id in self._ended and run.ended_s:  # the run of a resumed execution is running again
            return self._ended[run.id]
        summary = execution_summary(run, read_text(self._registry, run.id, EXECUTION), now_s)
        if run.ended_s:
            self._ended[run.id] = summary
        else:
            self._ended.pop(run.id, None)
        return summary

    def _facts_of(self, run_id: str) -> Facts:
        if run_id not in self._facts:
            runs = self._registry.runs(f"attributes.run_id = '{run_id}'") if run_id else []
            self._facts[run_id] = read_facts(self._registry, runs[0]) if runs else Facts()
        return self._facts[run_id]


def read_facts(registry: "Registry", run: RunInfo) -> Facts:
    """What a training run recorded about its model, as far as it can be read. Raises TrackingError."""
    evaluation = (parse(EVALUATION_FILE, read_text(registry, run.id, EVALUATION)) or EvaluationFile()).binwatch
    dataset = parse(DATASET_FILE, read_text(registry, run.id, DATASET)) or DatasetFile()
    return Facts(evaluation.accuracy, evaluation.accuracy_interval, dataset.fingerprint, run.tags.get(REVISION))
