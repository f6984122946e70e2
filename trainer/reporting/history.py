"""What served when, and what the pipeline did: ``history.json``, which the page's monitoring tab draws.

    python scripts/promote.py --history [--json]    the same as a table
    python scripts/monitor.py --watch               writes it at each look, beside monitoring.json

    {"made_at": ..., "served": [{"version", "from", "to", "did", "reason", "accuracy", "accuracy_interval",
     "dataset_fingerprint", "revision", "run_id", "execution"}], "executions": [{"id", "started", "seconds", "status",
     "decision", "reasons", "why", "version", "steps": [{"name", "status", "seconds", "cached"}]}]}

Both lists begin with the newest. Times are ISO 8601, UTC; ``to`` is null for what serves now, and whatever MLflow does
not know any more is null too.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from serve.errors import DataError
from trainer.registry.deployments import PROMOTED, Deployment
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import RunInfo

FILE = "history.json"
EVALUATION, DATASET = "evaluation.json", "dataset.json"
"""As trainer/job.py, which takes torch: the monitoring has no use for that."""
MOST_SERVED, MOST_EXECUTIONS = 200, 50
KIND = "tags.`binwatch.kind` = 'execution'"
REVISION = "mlflow.source.git.commit"
_STATUS = {"RUNNING": "running", "SCHEDULED": "running", "FINISHED": "finished"}


@dataclass(frozen=True)
class Facts:
    """What is known of a model from the run that made it; None where that is not recorded."""

    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    dataset_fingerprint: str | None = None
    revision: str | None = None


def served(
    deployments: Sequence[Deployment], facts: Callable[[str], Facts], made_by: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The stretches of time in which a version served, newest first.

    ``deployments``: newest first; ``facts``: of a run; ``made_by``: the execution that a version is from.
    """
    ends = [None, *(iso(each.at_s) for each in deployments)]
    return [
        {
            "version": each.version,
            "from": iso(each.at_s),
            "to": end,
            "did": each.did,
            "reason": each.reason,
            **asdict(facts(each.train_run)),
            "run_id": each.train_run or None,
            "execution": made_by.get(each.version) if each.did == PROMOTED else None,
        }
        for each, end in zip(deployments, ends, strict=False)
    ]


def execution(found: RunInfo, text: str | None, now_s: float) -> dict[str, Any]:
    """One execution from its run and its ``execution.json``, of which any part may be missing."""
    said = _object(text)
    steps = [each for each in said.get("steps") or () if isinstance(each, dict)]
    return {
        "id": found.id,
        "started": iso(found.started_s),
        "status": _STATUS.get(found.status, "failed"),
        "seconds": round((found.ended_s or now_s) - found.started_s, 1),
        "decision": str(said.get("decision") or found.tags.get("decision") or ""),
        "reasons": [str(each) for each in said.get("reasons") or ()],
        "why": [str(each) for each in said.get("why") or ()],
        "version": (said.get("challenger") or {}).get("version"),
        "steps": [
            {
                "name": str(each.get("name")),
                "status": str(each.get("status")),
                "seconds": each.get("seconds"),
                "cached": bool(each.get("cached")),
            }
            for each in steps
        ],
    }


def iso(at_s: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def table(found: Mapping[str, Any]) -> str:
    """The history for people: a line for each stretch, newest first."""
    rows = [("from", "to", "version", "accuracy", "data", "code", "what")]
    for each in found["served"]:
        accuracy = "-" if each["accuracy"] is None else f"{each['accuracy']:.1%}"
        rows.append(
            (
                each["from"],
                each["to"] or "now",
                each["version"],
                accuracy,
                (each["dataset_fingerprint"] or "-")[:12],
                (each["revision"] or "-")[:12],
                f"{each['did']}: {each['reason']}",
            )
        )
    if len(rows) == 1:
        return "nothing has served yet; scripts/pipeline.py makes a first version"
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join((*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1])) for row in rows
    )


def tell(uri: str) -> tuple[dict[str, Any], str]:
    """The history as of now, and the same for people. Raises TrackingError."""
    found = Chronicle(uri).read()
    return found, table(found)


class Chronicle:
    """Reads the history from MLflow again and again; what cannot change any more is asked for once."""

    def __init__(self, uri: str, out: Path | None = None) -> None:
        """``out``: the folder that ``write`` writes to."""
        self._uri, self._out = uri, out
        self._facts: dict[str, Facts] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self._uri)

    def read(self) -> dict[str, Any]:
        """The history as of now. Raises TrackingError."""
        now_s = time.time()
        runs = self._registry.runs(KIND)[:MOST_EXECUTIONS]
        executions = [self._execution(run, now_s) for run in runs]
        made_by = {each["version"]: each["id"] for each in reversed(executions) if each["version"]}
        deployments = self._registry.deployments()[:MOST_SERVED]
        return {"made_at": iso(now_s), "served": served(deployments, self._facts_of, made_by), "executions": executions}

    def write(self) -> None:
        """Write ``history.json``, whole or not at all. Raises TrackingError, DataError."""
        assert self._out
        found = self.read()
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            partial = self._out / f".{FILE}.partial"
            partial.write_text(json.dumps(found, allow_nan=False))
            partial.replace(self._out / FILE)
        except OSError as error:
            raise DataError(f"{self._out / FILE} cannot be written: {error}; name another folder with --out") from error

    def _execution(self, run: RunInfo, now_s: float) -> dict[str, Any]:
        if run.id in self._ended and run.ended_s:  # one that goes on after an interruption runs again
            return self._ended[run.id]
        found = execution(run, self._registry.read_text(run.id, "execution.json"), now_s)
        if run.ended_s:
            self._ended[run.id] = found
        else:
            self._ended.pop(run.id, None)
        return found

    def _facts_of(self, run_id: str) -> Facts:
        if run_id not in self._facts:
            runs = self._registry.runs(f"attributes.run_id = '{run_id}'") if run_id else []
            self._facts[run_id] = facts_of(self._registry, runs[0]) if runs else Facts()
        return self._facts[run_id]


def facts_of(registry: Registry, run: RunInfo) -> Facts:
    """What a training's run says of its model. Raises TrackingError."""
    said = _object(registry.read_text(run.id, EVALUATION)).get("binwatch") or {}
    interval = said.get("accuracy_interval")
    fingerprint = _object(registry.read_text(run.id, DATASET)).get("fingerprint")
    return Facts(said.get("accuracy"), tuple(interval) if interval else None, fingerprint, run.tags.get(REVISION))


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object; an empty one where the text is missing or something else."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
