"""A small client of TorchServe's management, inference and metrics APIs.

https://pytorch.org/serve/management_api.html, https://pytorch.org/serve/inference_api.html and
https://pytorch.org/serve/metrics_api.html
"""

import re
import time
from dataclasses import dataclass
from typing import Any

import requests

from serve.errors import PhotoError, RefusedError, ServerError
from serve.payload import ATTRIBUTES, PROBE
from serve.rollout.probation import Traffic

MODEL = "bin-counter"
READY = "READY"
POLL_S = 0.05
BATCHING = {"batch_size": 4, "max_batch_delay": 2}
"""A worker takes up to four requests that wait, and waits up to 2 ms for the second: handing over one by one costs a
tenth of the processor's time."""


@dataclass(frozen=True)
class Loaded:
    """One loaded version: whether it is the default, its workers, and requests waiting for them."""

    version: str
    default: bool
    workers: int
    ready: int
    pending: int
    archive: str


@dataclass(frozen=True)
class Work:
    """What the workers did since TorchServe started: requests answered, the batches that they came in, and the
    seconds from taking a request out of the queue to its answer, summed over requests."""

    answered: float
    batches: float
    held_s: float


class Inference:
    """The prediction side. ``timeout_s``: of one request."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()

    def predict(self, photo: bytes, version: str | None = None, probe: bool = False) -> dict[str, Any]:
        """Ask about one photo. Raises PhotoError for a bad photo, ServerError for everything else.

        ``probe``: only to see whether the model answers; it is not recorded.
        """
        path = f"/predictions/{MODEL}" + (f"/{version}" if version else "")
        headers = {ATTRIBUTES: PROBE} if probe else {}
        response = _call(self._session, "POST", self.url + path, self.timeout_s, data=photo, headers=headers)
        if response.status_code == 400:
            raise PhotoError(_message(response))
        return dict(_checked(response).json())


class Management:
    """The model side: load, default, unload. ``timeout_s``: of one request, and of starting workers.

    Nothing is asked for synchronously: until TorchServe can answer such a request, the thread that reads it answers
    nobody, and one in sixteen new connections is that thread's.
    """

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

    def register(self, archive: str) -> None:
        """Make an archive of the model store a version, as yet without workers; see ``scale``."""
        query: dict[str, str | int] = {"url": archive, "model_name": MODEL, "initial_workers": 0, **BATCHING}
        _checked(_call(self._session, "POST", f"{self.url}/models", self.timeout_s, params=query))

    def set_default(self, version: str) -> None:
        """Let requests without a version go to ``version``."""
        url = f"{self.url}/models/{MODEL}/{version}/set-default"
        _checked(_call(self._session, "PUT", url, self.timeout_s))

    def scale(self, version: str, workers: int) -> None:
        """Give a version so many workers and wait until they run; one that goes is killed with what it holds.

        Raises RefusedError where one ends before it is ready, and ServerError where that takes longer than the timeout.
        """
        url, query = f"{self.url}/models/{MODEL}/{version}", {"min_worker": workers, "max_worker": workers}
        _checked(_call(self._session, "PUT", url, self.timeout_s, params=query))
        first: dict[str, int] = {}
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            found = _checked(_call(self._session, "GET", url, self.timeout_s)).json()[0]["workers"]
            if len(found) == workers and all(each["status"] == READY for each in found):
                return
            started = [each for each in found if each["status"] != READY and each["pid"] > 0]
            if any(first.setdefault(each["id"], each["pid"]) != each["pid"] for each in started):
                raise RefusedError(f"a worker of version {version} ends before it is ready; TorchServe's log says why")
            time.sleep(POLL_S)
        raise ServerError(f"version {version} has not {workers} workers after {self.timeout_s:.0f} s: {found}")

    def unregister(self, version: str) -> None:
        """Unload a version. TorchServe refuses to unload the default.

        Where a worker's thread ends while TorchServe waits for its process, it answers 500 and puts the version back;
        asked again, it unloads it.
        """
        url = f"{self.url}/models/{MODEL}/{version}"
        response = _call(self._session, "DELETE", url, self.timeout_s)
        if response.status_code == 500:
            response = _call(self._session, "DELETE", url, self.timeout_s)
        _checked(response)


class Metrics:
    """The counting side, in Prometheus' text format. ``timeout_s``: of one request."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()

    def work(self) -> Work:
        """What was done so far. Raises ServerError where TorchServe does not count it."""
        return work(self._text())

    def traffic(self) -> Traffic:
        """Requests without a version so far, whichever version answered them."""
        return traffic(self._text())

    def _text(self) -> str:
        return _checked(_call(self._session, "GET", f"{self.url}/metrics", self.timeout_s)).text


def work(text: str) -> Work:
    """What the metrics page says of our model, all versions together. Raises ServerError where it does not count."""
    names = ("ts_inference_latency_microseconds", "ts_queue_latency_microseconds", "PredictionTime")
    missing = [name for name in names if f"# TYPE {name} histogram" not in text]
    if missing:
        raise ServerError(
            f"TorchServe does not count {', '.join(missing)}; start it with metrics_mode=prometheus and "
            "metrics_config=serve/metrics.yaml, as serve/config.properties does"
        )
    held_us = _summed(text, f"{names[0]}_sum") - _summed(text, f"{names[1]}_sum")
    return Work(_summed(text, f"{names[0]}_count"), _summed(text, f"{names[2]}_count"), held_us / 1e6)


def traffic(text: str) -> Traffic:
    """What the metrics page says of requests without a version; of failed ones there is only the number of all."""
    latency = "ts_inference_latency_microseconds"
    requests_, answered, us = (
        _summed(text, name, 'model_version="default"')
        for name in ("ts_inference_requests_total", f"{latency}_count", f"{latency}_sum")
    )
    failed = sum(float(value) for value in re.findall(r"^Requests5XX(?:_total)?\{.*\} (\S+)$", text, re.MULTILINE))
    return Traffic(requests_, failed, answered, us / 1e6)


def _summed(text: str, name: str, label: str = "") -> float:
    """One metric over all its labels that name our model, and ``label``; 0 before its first value."""
    pattern = rf'^{name}\{{(?=[^}}]*{label})[^}}]*(?:model_name|ModelName)="{MODEL}"[^}}]*\}} (\S+)$'
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


def _loaded(found: dict[str, Any], default: str) -> Loaded:
    workers = found["workers"]
    return Loaded(
        version=str(found["modelVersion"]),
        default=str(found["modelVersion"]) == default,
        workers=len(workers),
        ready=sum(worker["status"] == READY for worker in workers),
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
