"""What an execution of the pipeline is asked for and what came of it, as values; and when a step is tried again."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from serve.errors import AbsentError, AwayError, CanaryError, DataError, RefusedError, ServerError, TrackingError
from trainer.data import counts
from trainer.data.dataset import DataSpec
from trainer.training.recipes import Recipe

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass
class Step:
    """One step: ``Executing``, ``Succeeded``, ``Failed`` or ``Skipped``, as SageMaker calls it.

    ``cached``: its inputs were those of an earlier run, whose result it is; ``attempts``: how often it was tried in a
    row; ``run_id``: its run in MLflow.
    """

    name: str
    status: str = "Executing"
    seconds: float = 0.0
    cached: bool = False
    attempts: int = 0
    run_id: str = ""


@dataclass(frozen=True)
class Model:
    """One side of the comparison."""

    version: str
    accuracy: float
    accuracy_interval: tuple[float, float]
    rmse: float


@dataclass
class Execution:
    """One run of the pipeline. ``decision``: ``promoted`` or ``refused``, with its reasons.

    Where the promoter could not be reached it stays ``approved``: the version waits for it. ``why``: what started
    it; ``resumed``: how often it went on after an interruption.
    """

    id: str
    decision: str = ""
    reasons: tuple[str, ...] = ()
    challenger: Model | None = None
    champion: Model | None = None
    steps: list[Step] = field(default_factory=list)
    why: tuple[str, ...] = ()
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        """For ``--json``, ``var/demo.json`` and MLflow."""
        return asdict(self)


@dataclass(frozen=True)
class ExecutionRequest:
    """What an execution is asked to do.

    ``uri``: a bucket that is fetched into ``spec.source`` first; ``why``: what asks for it; ``token``: names the
    request, so that one that was interrupted is found again whatever it had come to.
    """

    spec: DataSpec
    recipe: Recipe
    uri: str = ""
    why: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_json(self) -> str:
        """As one line of JSON, which ``request_from`` reads."""
        spec = {**asdict(self.spec), "counts": str(self.spec.counts), "source": str(self.spec.source)}
        spec["relabel_file"] = str(self.spec.relabel_file) if self.spec.relabel_file else None
        return json.dumps({**asdict(self), "spec": spec})


def request_from(text: str) -> ExecutionRequest:
    """Read a request back. Raises DataError."""
    try:
        content = json.loads(text)
        spec = content["spec"]
        spec |= {"source": Path(spec["source"]), "counts": counts.parse(spec["counts"])}
        spec["relabel_file"] = Path(spec["relabel_file"]) if spec["relabel_file"] else None
        made = ExecutionRequest(DataSpec(**spec), Recipe(**content["recipe"]), content["uri"], tuple(content["why"]))
        return replace(made, token=content["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"this is no request for an execution: {error!r}; start a new execution") from error


@dataclass(frozen=True)
class Retry:
    """How often a step is tried, and the seconds before the second try, which double up to ``longest_s``."""

    attempts: int = 5
    first_s: float = 5.0
    longest_s: float = 120.0

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after so many attempts, from 1."""
        return min(self.first_s * 2.0 ** (attempt - 1), self.longest_s)


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: a server or a store is away, and what was asked for is not wrong.

    A promoter that does not come was waited for already.
    """
    wrong = isinstance(error, RefusedError | CanaryError | AbsentError)
    return isinstance(error, TrackingError | ServerError | AwayError) and not wrong


def with_retry(attempt: Callable[[], Result], retry: Retry, step: Step) -> Result:
    """The result of ``attempt``, tried again after errors that can pass; counts in ``step``."""
    for number in range(1, retry.attempts + 1):
        step.attempts += 1
        try:
            return attempt()
        except (TrackingError, ServerError, AwayError) as error:
            if not is_transient(error) or number == retry.attempts:
                raise
            log.warning("step %s: %s; trying again in %.0f s", step.name, error, retry.wait_s(number))
            time.sleep(retry.wait_s(number))
    raise AssertionError("unreachable")
