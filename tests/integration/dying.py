"""A promoter that is killed (SIGKILL) before one of its calls that change MLflow, TorchServe or the store.

    python -m tests.integration.dying ADDRESSES STEP ACTION    STEP: how many such calls are allowed

ADDRESSES: of MLflow, TorchServe's inference and management API, and the model store; ACTION: ``reconcile`` or
``roll_back``. If it survives, it prints the number of these calls.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from serve.rollout import model_store
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management
from trainer.promotion.promoter import Promoter
from trainer.registry.mlflow_registry import Registry

CHANGES = {
    "set_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "create_run",
    "set_terminated",
    "register",
    "set_default",
    "unregister",
    "scale",
}

P = ParamSpec("P")
R = TypeVar("R")


class Countdown:
    """Kills this process instead of a call after ``allowed`` ones. ``calls``: how many there were so far."""

    def __init__(self, allowed: int) -> None:
        self.allowed, self.calls = allowed, 0

    def counting(self, call: Callable[P, R]) -> Callable[P, R]:
        @wraps(call)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.calls == self.allowed:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return call(*args, **kwargs)

        return counted


class Dying:
    """A client whose changing calls are counted."""

    def __init__(self, real: object, countdown: Countdown) -> None:
        self._real, self._countdown = real, countdown

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._real, name)
        return self._countdown.counting(method) if name in CHANGES else method


def main(mlflow: str, inference: str, management: str, store: str, step: str, action: str) -> None:
    countdown = Countdown(int(step))
    registry: Any = Registry(mlflow)
    registry._client = Dying(registry._client, countdown)
    model_store.stamp = countdown.counting(model_store.stamp)  # type: ignore[attr-defined]
    Path.replace = countdown.counting(Path.replace)  # type: ignore[method-assign]
    served: Any = Dying(Management(management), countdown)
    promoter = Promoter(registry, Rollout(Inference(inference), served, Path(store)), Path(store) / "accuracy.json")
    print(promoter.reconcile() if action == "reconcile" else promoter.roll_back("by hand"), file=sys.stderr)
    print(countdown.calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
