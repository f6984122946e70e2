"""What each step of the pipeline hands to the next, and the MLflow tag ``binwatch.done`` that stores it as JSON.

    {"step": {"name": "train", "status": "Succeeded", ...}, "outputs": {"run_id": ...}}

The tag is written in one request at the end of a step; to resume an execution, steps that have one are skipped. Keys
may be added to it, with a default, but not renamed: an execution may be resumed by a newer version of this code.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError
from trainer.artifacts import DONE_TAG
from trainer.pipeline.execution import ComparedModel, Step


@dataclass(frozen=True, kw_only=True)
class PrepareOutput:
    """The folder with the prepared dataset."""

    source: Path


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """The run whose archive is the challenger. ``fingerprint``: of all photos; ``test_fingerprint``: of the test's."""

    fingerprint: str
    test_fingerprint: str
    run_id: str
    archive_sha256: str


@dataclass(frozen=True, kw_only=True)
class EvaluateOutput:
    """Where the evaluations of challenger and champion are; the champion's fields are empty where there is none.

    ``challenger``: the run of its archive and evaluation; ``champion``: a version number; ``champion_from``: the run
    with its evaluation; ``champion_run``: the run with its archive; ``latency_ms``: per photo, of ``challenger`` and
    ``champion``, empty unless this step measured both; None where it could not be measured.
    """

    challenger: str
    champion: str
    latency_ms: Mapping[str, float | None]
    champion_from: str = ""
    champion_run: str = ""


@dataclass(frozen=True, kw_only=True)
class GateOutput:
    """The decision about ``version``, the registered challenger."""

    version: str
    promote: bool
    reasons: tuple[str, ...]
    challenger: ComparedModel
    champion: ComparedModel | None


@dataclass(frozen=True, kw_only=True)
class PromoteOutput:
    """The promoter's outcome (``PromotionOutcome``), and the status that the version has now."""

    did: str
    version: str
    reason: str
    status: str


Output = TypeVar("Output")


@dataclass(frozen=True)
class StepResult(Generic[Output]):
    """What the body of a step returns. ``cached``: the outputs are those of an earlier run."""

    outputs: Output
    cached: bool = False


@dataclass(frozen=True)
class CompletedStep(Generic[Output]):
    """A step that succeeded, and its outputs."""

    step: Step
    outputs: Output


def to_tag(completed: CompletedStep[Output]) -> str:
    """The text of the tag."""
    outputs = completed.outputs
    content = TypeAdapter(type(outputs)).dump_python(outputs, mode="json", exclude_defaults=True)
    return json.dumps({"step": asdict(completed.step), "outputs": content})


def from_tag(text: str, output_type: type[Output]) -> CompletedStep[Output]:
    """Read a tag; unknown keys are ignored. Raises DataError where it is damaged."""
    try:
        return TypeAdapter(CompletedStep[output_type]).validate_json(text)  # type: ignore[valid-type]
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise DataError(
            f"the tag {DONE_TAG} of a step is damaged: {place}: {problem['msg']} ({text[:80]!r}); start a new execution"
        ) from error
