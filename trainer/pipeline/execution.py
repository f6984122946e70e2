"""The values of a pipeline execution (its request, its steps, its result), and how transient errors are retried."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, field
from enum import StrEnum
from typing import TypeVar

from pydantic import TypeAdapter

from serve.errors import (
    CanaryError,
    DataError,
    PromoterTimeoutError,
    RefusedError,
    ServerError,
    TrackingError,
    UnavailableError,
)
from trainer.data import counts
from trainer.data.dataset import DataSpec
from trainer.training.recipes import Recipe

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class StepStatus(StrEnum):
    """The status of a step, in the words of SageMaker Pipelines."""

    EXECUTING = "Executing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class ExecutionDecision(StrEnum):
    """The result of an execution.

    ``APPROVED``: the gate let the challenger through, but the promoter has not dealt with it yet; the version waits.
    """

    PENDING = ""
    APPROVED = "approved"
    REFUSED = "refused"
    PROMOTED = "promoted"


@dataclass
class Step:
    """One step of an execution.

    ``cached``: the result is that of an earlier run with the same inputs; ``attempts``: how often this process tried
    it; ``run_id``: its run in MLflow.
    """

    name: str
    _: KW_ONLY
    status: StepStatus = StepStatus.EXECUTING
    seconds: float = 0.0
    cached: bool = False
    attempts: int = 0
    run_id: str = ""


@dataclass(frozen=True)
class ComparedModel:
    """Challenger or champion, with its results on the test photos; ``accuracy`` and its 95 % interval are 0-1."""

    version: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    rmse: float


@dataclass
class Execution:
    """One run of the pipeline, updated while it goes on.

    ``reasons``: of the decision; ``why``: what triggered it; ``resumed``: how often it was resumed after an
    interruption.
    """

    id: str
    _: KW_ONLY
    decision: ExecutionDecision = ExecutionDecision.PENDING
    reasons: tuple[str, ...] = ()
    challenger: ComparedModel | None = None
    champion: ComparedModel | None = None
    steps: list[Step] = field(default_factory=list)
    why: tuple[str, ...] = ()
    resumed: int = 0

    def to_json(self) -> dict[str, object]:
        """For ``--json``, ``var/demo.json`` and MLflow."""
        return asdict(self)

    def in_words(self) -> str:
        """The decision, how long it took, and its reasons."""
        return f"{self.decision} in {sum(step.seconds for step in self.steps):.0f} s: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class ExecutionRequest:
    """What an execution is asked to do.

    ``uri``: a bucket that is mirrored into ``spec.source`` first; ``why``: what triggered it; ``token``: identifies
    the request, so that an interrupted execution is found again.
    """

    spec: DataSpec
    recipe: Recipe
    _: KW_ONLY
    uri: str = ""
    why: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> str:
        """One line of JSON, which ``parse_request`` reads."""
        spec = {**asdict(self.spec), "counts": str(self.spec.counts), "source": str(self.spec.source)}
        for name in ("relabel_file", "recounts"):
            spec[name] = str(spec[name]) if spec[name] else None
        return json.dumps({**asdict(self), "spec": spec})


_REQUEST = TypeAdapter(ExecutionRequest)


def parse_request(text: str) -> ExecutionRequest:
    """Read what ``ExecutionRequest.to_json`` wrote. Raises DataError."""
    try:
        content = json.loads(text)
        content["spec"]["counts"] = counts.parse(content["spec"]["counts"])
        return _REQUEST.validate_python(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{text[:80]!r} is no request for an execution: {error!r}; start a new execution") from error


@dataclass(frozen=True)
class Retry:
    """How transient errors are retried: exponential backoff from ``first_wait_s``, at most ``max_wait_s`` a time."""

    attempts: int = 5
    first_wait_s: float = 5.0
    max_wait_s: float = 120.0

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after that many attempts, counted from 1."""
        return min(self.first_wait_s * 2.0 ** (attempt - 1), self.max_wait_s)


def is_transient(error: BaseException) -> bool:
    """Whether a retry can help: a server or a store is unreachable, and the request itself is valid.

    PromoterTimeoutError (the promoter does not answer) is not retried: the step has waited for the promoter already.
    """
    permanent = isinstance(error, RefusedError | CanaryError | PromoterTimeoutError)
    return isinstance(error, TrackingError | ServerError | UnavailableError) and not permanent


def with_retry(attempt: Callable[[], Result], retry: Retry, step: Step) -> Result:
    """Call ``attempt``, retry it after transient errors, and count the attempts in ``step``."""
    for number in range(1, retry.attempts + 1):
        step.attempts += 1
        try:
            return attempt()
        except (TrackingError, ServerError, UnavailableError) as error:
            if not is_transient(error) or number == retry.attempts:
                raise
            log.warning("step %s: %s; retrying in %.0f s", step.name, error, retry.wait_s(number))
            time.sleep(retry.wait_s(number))
    raise AssertionError("unreachable")
