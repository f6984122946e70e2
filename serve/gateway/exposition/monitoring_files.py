"""The parts of ``monitoring.json`` and ``history.json`` that Prometheus gets, as far as a file has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import Field, TypeAdapter

Shares = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Statistics of the answers in the report's window; None where nothing was measured."""

    requests: int = 0
    errors: int = 0
    confidence_mean: float | None = None
    verdicts: Shares = field(default_factory=dict)
    not_a_bin: int = 0
    feedback: int = 0
    accuracy: float | None = None
    accuracy_estimated: float | None = None


@dataclass(frozen=True, kw_only=True)
class DriftIndex:
    """The drift of one statistic (``serve.monitoring.drift.Drift``)."""

    name: str
    psi: float | None = None


@dataclass(frozen=True, kw_only=True)
class ActiveAlert:
    """An alert of the monitoring."""

    name: str


@dataclass(frozen=True, kw_only=True)
class MonitoringFile:
    """``monitoring.json``."""

    made_at: datetime
    totals: Totals = Totals()
    drift: tuple[DriftIndex, ...] = ()
    alerts: tuple[ActiveAlert, ...] = ()
    model_versions: Shares = field(default_factory=dict)
    unreadable: int = 0


@dataclass(frozen=True, kw_only=True)
class Served:
    """When a version served; ``end``: None for the one that serves now."""

    version: str
    start: Annotated[datetime, Field(validation_alias="from")]
    end: Annotated[datetime | None, Field(validation_alias="to")] = None


@dataclass(frozen=True, kw_only=True)
class LastExecution:
    """An execution of the pipeline."""

    started: datetime
    status: str
    seconds: float
    decision: str = ""


@dataclass(frozen=True, kw_only=True)
class HistoryFile:
    """``history.json``; both lists are sorted newest first."""

    served: tuple[Served, ...]
    executions: tuple[LastExecution, ...]


MONITORING_FILE, HISTORY_FILE = TypeAdapter(MonitoringFile), TypeAdapter(HistoryFile)
