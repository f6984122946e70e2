"""An MLflow that is lost in the middle: with the process that talks to it, or only for a while."""

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException

from trainer.promotion.promoter import PromotionOutcome
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import Status

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


def mortal(url: str, write: int, late: bool = False) -> tuple[Registry, Cut]:
    """A connection whose process is killed at a write; with ``late`` just after it."""
    made = Registry(url)
    made._client = cut = Cut(made._client, Killed(), write, float("inf"), late)  # type: ignore[assignment]
    return made, cut


def flaky(url: str, write: int, times: int = 1) -> Registry:
    """A connection that fails at a write, and for ``times`` in all."""
    made = Registry(url)
    error = MlflowException("the connection was reset")
    made._client = Cut(made._client, error, write, write + times - 1)  # type: ignore[assignment]
    return made


def promoting(registry: Registry) -> Callable[[str], PromotionOutcome]:
    """What a promoter does to the registry, without a server."""

    def promote(number: str) -> PromotionOutcome:
        version = registry.version(number)
        if version.status == Status.APPROVED:
            registry.set_champion(number)
            registry.mark(number, Status.PROMOTED, version.reason)
        return PromotionOutcome(registry.version(number).status, number, version.reason)

    return promote
