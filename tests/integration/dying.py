"""A promoter that is killed (SIGKILL) before one of the calls that change something: MLflow, TorchServe or the store.

    python -m tests.integration.dying ADDRESSES STEP ACTION    STEP: how many such calls it may make

ADDRESSES: of MLflow, TorchServe's inference and management, and the model store; ACTION: ``reconcile`` or
``roll_back``. It prints how many calls it made where it comes to an end.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

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


class Countdown:
    """Lets so many calls through, then kills this process. ``calls``: those that were made."""

    def __init__(self, allowed: int) -> None:
        self.allowed, self.calls = allowed, 0

    def before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.calls == self.allowed:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return call(*args, **kwargs)

        return counted


class Dying:
    """A client whose changing calls are counted."""

    def __init__(self, real: Any, countdown: Countdown) -> None:
        self._real, self._countdown = real, countdown

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._countdown.before(found) if name in CHANGES else found


def main(mlflow: str, inference: str, management: str, store: str, step: str, action: str) -> None:
    countdown = Countdown(int(step))
    registry: Any = Registry(mlflow)
    registry._client = Dying(registry._client, countdown)
    model_store.stamp = countdown.before(model_store.stamp)  # type: ignore[attr-defined]
    Path.replace = countdown.before(Path.replace)  # type: ignore[method-assign]
    served: Any = Dying(Management(management), countdown)
    promoter = Promoter(registry, Rollout(Inference(inference), served, Path(store)), Path(store) / "accuracy.json")
    print(promoter.reconcile() if action == "reconcile" else promoter.roll_back("by hand"), file=sys.stderr)
    print(countdown.calls)


if __name__ == "__main__":
    main(*sys.argv[1:])
