"""All servers of the demo together: MLflow, TorchServe and the gateway, with their files in one folder."""

import base64
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import requests

from serve.local.servers import free_port, gateway_server, mlflow_server, torchserve_server
from serve.rollout.probation import ProbationPolicy
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management

if TYPE_CHECKING:
    from serve.counter import Answer

TIMEOUT_S = 60.0
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class LocalStack:
    """The addresses of the servers, and TorchServe's model store."""

    mlflow_url: str
    inference_url: str
    management_url: str
    gateway_url: str
    store: Path

    def addresses(self) -> dict[str, str]:
        """What a person opens or calls, by its name."""
        return {
            "page": self.gateway_url,
            "MLflow UI": self.mlflow_url,
            "predictions": f"curl -T PHOTO.jpg {self.inference_url}/predictions/bin-counter",
        }

    @property
    def inference(self) -> Inference:
        """The inference API."""
        return Inference(self.inference_url)

    def predict(self, photo: bytes) -> "Answer":
        """TorchServe's answer about a photo. Raises PhotoError, ServerError."""
        return self.inference.predict(photo)

    def verify(self, photo: bytes, fields: Mapping[str, object]) -> dict[str, object]:
        """The gateway's answer to ``POST /verify`` about a photo and its record; an error is an answer, too.

        Raises requests.RequestException where there is none.
        """
        body = {"image": base64.b64encode(photo).decode(), **fields}
        return dict(requests.post(f"{self.gateway_url}/verify", json=body, timeout=TIMEOUT_S).json())

    def rollout(self) -> Rollout:
        """The server side of a promotion.

        The containers watch a new champion for 30 s (BINWATCH_WATCH_S). Here it gets no requests that could be watched,
        and the demo is to be quick.
        """
        return Rollout(
            self.inference, Management(self.management_url), self.store, policy=ProbationPolicy(duration_s=0)
        )


@contextmanager
def local_stack(home: Path) -> Iterator[LocalStack]:
    """Run the servers on their usual ports, or on others where those are in use.

    Their files are in ``home``, which is emptied first; those of the run before are kept as <name>.previous.
    """
    _make_empty(home)
    environ = {f"BINWATCH_{name.upper()}": str(home.resolve() / name) for name in ("capture", "monitoring", "recounts")}
    mlflow = mlflow_server(home / "mlflow", free_port(5000))
    torchserve = torchserve_server(home / "torchserve", free_port(8080), environ)
    with ExitStack() as stack:
        mlflow_url, (inference_url, management_url, store) = start_together(stack, mlflow, torchserve)
        gateway_url = stack.enter_context(gateway_server(home / "gateway", inference_url, free_port(8000), environ))
        yield LocalStack(
            mlflow_url=mlflow_url,
            inference_url=inference_url,
            management_url=management_url,
            gateway_url=gateway_url,
            store=store,
        )


def start_together(
    stack: ExitStack, first: AbstractContextManager[A], second: AbstractContextManager[B]
) -> tuple[A, B]:
    """Start two servers at once, which ``stack`` then stops; if one does not start, the other is stopped, too."""
    with ThreadPoolExecutor() as pool:
        first_start, second_start = pool.submit(first.__enter__), pool.submit(second.__enter__)
        # before they have started, so that Ctrl-C leaves none behind
        stack.callback(_stop_if_started, first, first_start)
        stack.callback(_stop_if_started, second, second_start)
    return first_start.result(), second_start.result()


def _stop_if_started(server: AbstractContextManager[A], start: Future[A]) -> None:
    if start.exception() is None:
        server.__exit__(None, None, None)


def _make_empty(home: Path) -> None:
    previous = home.with_name(home.name + ".previous")
    if home.exists():
        shutil.rmtree(previous, ignore_errors=True)
        home.rename(previous)
    home.mkdir(parents=True)
