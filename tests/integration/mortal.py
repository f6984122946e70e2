"""An MLflow that is lost in the middle: with the process that talks to it, or only for a while."""

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException

from trainer.promotion.promoter import Outcome
from trainer.registry import runs
from trainer.registry.runs import Tracking

WRITES = ("create_", "log_", "set_", "update_", "delete_")


class Killed(BaseException):
    """The process is gone: nothing that it does from now on reaches anybody."""


class Cut:
    """MLflow's client, which raises ``error`` at its writes ``first`` to ``last`` (from 1), and counts them.

    ``late``: what was written is there, and only the answer is lost.
    """

    def __init__(self, client: Any, error: BaseException, first: int, last: float, late: bool = False) -> None:
        self._client, self._error, self._first, self._last, self._late = client, error, first, last, late
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.writes += name.startswith(WRITES)
            cut = self._first <= self.writes <= self._last
            if cut and self._late and self.writes == self._first and name.startswith(WRITES):
                found(*args, **kwargs)
            if cut:
                raise self._error
            return found(*args, **kwargs)

        return call


def mortal(url: str, write: int, late: bool = False) -> tuple[Tracking, Cut]:
    """A connection whose process is killed at a write; with ``late`` just after it."""
    made = Tracking(url)
    made._client = cut = Cut(made._client, Killed(), write, float("inf"), late)  # type: ignore[assignment]
    return made, cut


def flaky(url: str, write: int, times: int = 1) -> Tracking:
    """A connection that fails at a write, and for ``times`` in all."""
    made = Tracking(url)
    error = MlflowException("the connection was reset")
    made._client = Cut(made._client, error, write, write + times - 1)  # type: ignore[assignment]
    return made


def promoting(registry: Tracking) -> Callable[[str], Outcome]:
    """What a promoter does to the registry, without a server."""

    def promote(number: str) -> Outcome:
        version = registry.version(number)
        if version.status == runs.APPROVED:
            registry.crown(number)
            registry.mark(number, runs.PROMOTED, version.reason)
        return Outcome(registry.version(number).status, number, version.reason)

    return promote
