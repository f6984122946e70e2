"""A small client of TorchServe's management and inference APIs.

https://pytorch.org/serve/management_api.html and https://pytorch.org/serve/inference_api.html
"""

from dataclasses import dataclass
from typing import Any

import requests

from serve.errors import PhotoError, RefusedError, ServerError

MODEL = "bin-counter"


@dataclass(frozen=True)
class Loaded:
    """One loaded version: whether it is the default, its workers, and requests waiting for them."""

    version: str
    default: bool
    workers: int
    ready: int
    pending: int
    archive: str


class Inference:
    """The prediction side. ``timeout_s``: of one request."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()

    def predict(self, photo: bytes, version: str | None = None) -> dict[str, Any]:
        """Ask about one photo. Raises PhotoError for a bad photo, ServerError for everything else."""
        path = f"/predictions/{MODEL}" + (f"/{version}" if version else "")
        response = _call(self._session, "POST", self.url + path, self.timeout_s, data=photo)
        if response.status_code == 400:
            raise PhotoError(_message(response))
        return dict(_checked(response).json())


class Management:
    """The model side: load, default, unload. ``timeout_s``: of one request; loading takes 5-8 s."""

    def __init__(self, url: str, timeout_s: float = 180.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()

    def loaded(self) -> list[Loaded]:
        """Every loaded version of the model, none where the model is unknown."""
        response = _call(self._session, "GET", f"{self.url}/models/{MODEL}/all", self.timeout_s)
        if response.status_code == 404:
            return []
        versions = _checked(response).json()
        default = _call(self._session, "GET", f"{self.url}/models/{MODEL}", self.timeout_s)
        name = str(_checked(default).json()[0]["modelVersion"])
        return [_loaded(each, name) for each in versions]

    def register(self, archive: str, workers: int) -> None:
        """Load an archive of the model store and wait until its workers run."""
        query = {"url": archive, "model_name": MODEL, "initial_workers": workers, "synchronous": "true"}
        _checked(_call(self._session, "POST", f"{self.url}/models", self.timeout_s, params=query))

    def set_default(self, version: str) -> None:
        """Let requests without a version go to ``version``."""
        url = f"{self.url}/models/{MODEL}/{version}/set-default"
        _checked(_call(self._session, "PUT", url, self.timeout_s))

    def unregister(self, version: str) -> None:
        """Unload a version. TorchServe refuses to unload the default."""
        _checked(_call(self._session, "DELETE", f"{self.url}/models/{MODEL}/{version}", self.timeout_s))


def _loaded(found: dict[str, Any], default: str) -> Loaded:
    workers = found["workers"]
    return Loaded(
        version=str(found["modelVersion"]),
        default=str(found["modelVersion"]) == default,
        workers=len(workers),
        ready=sum(worker["status"] == "READY" for worker in workers),
        pending=int(found.get("jobQueueStatus", {}).get("pendingRequests", 0)),
        archive=found["modelUrl"],
    )


def _call(session: requests.Session, method: str, url: str, timeout_s: float, **kwargs: Any) -> requests.Response:
    try:
        return session.request(method, url, timeout=timeout_s, **kwargs)
    except requests.RequestException as error:
        raise ServerError(f"TorchServe at {url} does not answer: {error}; is it running?") from error


def _checked(response: requests.Response) -> requests.Response:
    if not response.ok:
        raise RefusedError(
            f"TorchServe answered {response.status_code} to {response.request.method} {response.url}: "
            f"{_message(response)}"
        )
    return response


def _message(response: requests.Response) -> str:
    try:
        return str(response.json().get("message", response.text))[:500]
    except ValueError:
        return response.text[:500]
