"""What runs recorded in MLflow, as far as the history shows it. Whatever else a file holds, it counts as missing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from serve.errors import DataError

if TYPE_CHECKING:
    from trainer.registry.mlflow_registry import Registry  # MLflow takes seconds to import

T = TypeVar("T")


@dataclass(frozen=True)
class StepRecord:
    """One step of an execution."""

    name: str
    status: str
    seconds: FiniteFloat | None = None
    cached: bool = False


@dataclass(frozen=True)
class ChallengerRecord:
    """The challenger of an execution."""

    version: str | None = None


@dataclass(frozen=True)
class ExecutionRecord:
    """The content of ``execution.json``."""

    decision: str = ""
    reasons: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    challenger: ChallengerRecord | None = None
    steps: tuple[StepRecord, ...] = ()


@dataclass(frozen=True)
class EvaluationRecord:
    """The accuracy of a model, 0-1, and its interval."""

    accuracy: FiniteFloat | None = None
    accuracy_interval: tuple[FiniteFloat, FiniteFloat] | None = None


@dataclass(frozen=True)
class EvaluationFile:
    """The content of ``evaluation.json``."""

    binwatch: EvaluationRecord = EvaluationRecord()


@dataclass(frozen=True)
class DatasetFile:
    """The content of ``dataset.json``."""

    fingerprint: str | None = None


EXECUTION_RECORD, EVALUATION_FILE, DATASET_FILE = (
    TypeAdapter(ExecutionRecord),
    TypeAdapter(EvaluationFile),
    TypeAdapter(DatasetFile),
)


def read_text(registry: "Registry", run_id: str, name: str) -> str | None:
    """The text of an artifact; None where it is missing or unusable. Raises TrackingError."""
    try:
        return registry.read_text(run_id, name)
    except DataError:
        return None


def parse(adapter: TypeAdapter[T], text: str | None) -> T | None:
    """What a JSON text holds; None where it is missing, damaged or something else."""
    try:
        return adapter.validate_json(text or "null")
    except ValidationError:
        return None
