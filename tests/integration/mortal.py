"""An MLflow that fails in the middle: because the process that talks to it is killed, or for a while."""

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException

from trainer.promotion.outcome import PromotionOutcome
from trainer.registry.entities import Status
from trainer.registry.mlflow_registry import Registry

WRITES = ("create_", "log_", "set_", "update_", "delete_")


class Killed(BaseException):
    """The process is dead: nothing that it does from now on has an effect."""


class Cut:
    """MLflow's client, which raises ``error`` at its writes ``first`` to ``last`` (from 1), and counts them.

    ``late``: the first of these writes is done, and only its answer is lost.
    """

    def __init__(self, client: Any, error: BaseException, first: int, last: float, late: bool = False) -> None:
        self._client, self._error, self._first, self._last, self._late = client, error, first, last, late
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            self.writes += name.startswith(WRITES)
            cut = self._first <= self.writes <= self._last
            if cut and self._late and self.writes == self._first and name.startswith(WRITES):
                attribute(*args, **kwargs)
            if cut:
                raise self._error
            return attribute(*args, **kwargs)

        return call


def mortal(url: str, write: int, late: bool = False) -> tuple[Registry, Cut]:
    """A registry whose process is killed at a write; with ``late`` just after it."""
    registry = Registry(url)
    return registry, _cut(registry, Killed(), write, float("inf"), late)


def flaky(url: str, write: int, times: int = 1) -> Registry:
    """A registry whose connection fails at a write, ``times`` in a row."""
    registry = Registry(url)
    _cut(registry, MlflowException("the connection was reset"), write, write + times - 1)
    return registry


def _cut(registry: Registry, error: BaseException, first: int, last: float, late: bool = False) -> Cut:
    """Cut the client below the one that translates MLflow's errors."""
    readable: Any = registry._client
    readable._client = cut = Cut(readable._client, error, first, last, late)
    return cut


def promoting(registry: Registry) -> Callable[[str], PromotionOutcome]:
    """A promoter's changes to the registry, without a server."""

    def promote(number: str) -> PromotionOutcome:
        version = registry.version(number)
        if version.status == Status.APPROVED:
            registry.set_champion(number)
            registry.mark(number, Status.PROMOTED, version.reason)
        return PromotionOutcome(registry.version(number).status, number, version.reason)

    return promote
