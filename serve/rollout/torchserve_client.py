"""A small client of TorchServe's management, inference and metrics APIs.

https://pytorch.org/serve/management_api.html, https://pytorch.org/serve/inference_api.html and
https://pytorch.org/serve/metrics_api.html
"""

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from serve.errors import FieldError, OverloadedError, PhotoError, RefusedError, ServerError, TooLargeError
from serve.payload import ATTRIBUTES, PROBE
from serve.rollout.probation import Traffic

if TYPE_CHECKING:
    from serve.counter import Answer

MODEL = "bin-counter"
READY = "READY"
SOCKET = "unix:"
"""Start of an address that is a socket on this machine."""
POLL_S = 0.2
CONNECT_S = 5.0
"""A host that does not take a connection within this time is down, or cut off."""
BATCHING = {"batch_size": 4, "max_batch_delay": 2}
"""A worker takes up to four waiting requests at once, and waits up to 2 ms for the second: passing them on one by one
costs a tenth of the CPU time."""

_REQUEST_US = "ts_inference_latency_microseconds"
_QUEUE_US = "ts_queue_latency_microseconds"
_BATCH_MS = "PredictionTime"
_PHOTOS, _MODEL_SECONDS = "binwatch_photos_total", "binwatch_model_seconds_total"
"""What serve/handler.py counts."""
_EXISTS = "Model file already exists"
_BUSY = ("ServiceUnavailableException", "Overloaded", "TooManyRequests")
"""The types of errors that a full queue makes: TorchServe's own, and the gateway's."""


@dataclass(frozen=True)
class LoadedVersion:
    """One loaded version: whether it is the default, its workers, and the requests waiting in its queue."""

    version: str
    default: bool
    workers: int
    ready: int
    pending: int
    archive: str


@dataclass(frozen=True)
class Work:
    """What the workers did since TorchServe started.

    ``answered``: requests; ``batches``: in which they were answered; ``held_s``: seconds from leaving the queue to the
    answer, summed over requests.
    """

    answered: float
    batches: float
    held_s: float


class Inference:
    """The inference API, or the gateway in front of it. ``timeout_s``: of one request; ``key``: of the gateway."""

    def __init__(self, url: str, timeout_s: float = 60.0, key: str = "") -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session = requests.Session()
        self._session.headers.update({"X-API-Key": key} if key else {})

    def predict(self, photo: bytes, version: str | None = None, probe: bool = False) -> "Answer":
        """Ask about one photo. Raises PhotoError for a bad photo, ServerError for everything else.

        ``version``: None for the default version; ``probe``: a health check, whose answer is not captured.
        """
        path = f"/predictions/{MODEL}" + (f"/{version}" if version else "")
        headers = {ATTRIBUTES: PROBE} if probe else {}
        return self._answer(_call(self._session, "POST", self.url + path, self.timeout_s, data=photo, headers=headers))

    def verify(self, photo: bytes, record: object) -> "Answer":
        """Ask about one photo and its record, JSON in either format that ``serve/evidence/record.py`` reads.

        Raises PhotoError for a bad photo, TooLargeError for a large one, FieldError for a bad record, OverloadedError
        where the server is busy, ServerError for everything else.
        """
        name = "products" if isinstance(record, list) else "record"
        body = json.dumps({"image": base64.b64encode(photo).decode(), name: record}).encode()
        url, headers = f"{self.url}/predictions/{MODEL}", {"Content-Type": "application/json"}
        response = _call(self._session, "POST", url, self.timeout_s, data=body, headers=headers)
        if response.status_code == 422:
            raise FieldError(_message(response))
        if response.status_code == 413:
            raise TooLargeError(_message(response))
        answer = self._answer(response)
        if "verdict" not in answer:
            raise ServerError(f"the model at {self.url} reads no records; deploy a newer one, or ask without records")
        return answer

    def _answer(self, response: requests.Response) -> "Answer":
        if response.status_code == 400:
            raise PhotoError(_message(response))
        with _torchserves_shape(self.url):
            return dict(_raise_for_status(response).json())


class Management:
    """The management API. ``timeout_s``: of one request, and of starting workers.

    No call is synchronous: while TorchServe works on a synchronous request, the thread that read it serves no other
    connection, and that is one in sixteen of the new ones.
    """

    def __init__(self, url: str, timeout_s: float = 180.0) -> None:
        self.url, self._session = _session_to(url)
        self.timeout_s = timeout_s

    def loaded(self) -> list[LoadedVersion]:
        """All loaded versions of the model."""
        response = _call(self._session, "GET", f"{self.url}/models/{MODEL}/all", self.timeout_s)
        if response.status_code == 404:
            return []
        described = _call(self._session, "GET", f"{self.url}/models/{MODEL}", self.timeout_s)
        with _torchserves_shape(self.url):
            versions = _raise_for_status(response).json()
            default = str(_raise_for_status(described).json()[0]["modelVersion"])
            return [_loaded_version(content, default) for content in versions]

    def register(self, archive: str) -> None:
        """Register an archive of the model store, or from an address, as a version without workers; see ``scale``.

        Raises RefusedError where TorchServe cannot use the archive, ServerError where it cannot get it.
        """
        query: dict[str, str | int] = {"url": archive, "model_name": MODEL, "initial_workers": 0, **BATCHING}
        response = _call(self._session, "POST", f"{self.url}/models", self.timeout_s, params=query)
        if _content(response).get("type") == "DownloadArchiveException" or _EXISTS in _message(response):
            raise ServerError(
                f"TorchServe at {self.url} cannot fetch {archive}: {_message(response)}; does it reach the promoter? "
                "What it has fetched in part is removed when it is restarted"
            )
        _raise_for_status(response)

    def set_default(self, version: str) -> None:
        """Let ``version`` answer the requests that name none."""
        url = f"{self.url}/models/{MODEL}/{version}/set-default"
        _raise_for_status(_call(self._session, "PUT", url, self.timeout_s))

    def scale(self, version: str, workers: int) -> None:
        """Set the number of workers of a version and wait until they run. A removed worker is killed with its requests.

        Raises RefusedError where a worker dies before it is ready, ServerError where it takes longer than the timeout.
        """
        url, query = f"{self.url}/models/{MODEL}/{version}", {"min_worker": workers, "max_worker": workers}
        _raise_for_status(_call(self._session, "PUT", url, self.timeout_s, params=query))
        first_pids: dict[str, int] = {}
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            with _torchserves_shape(self.url):
                running = _raise_for_status(_call(self._session, "GET", url, self.timeout_s)).json()[0]["workers"]
                starting = [worker for worker in running if worker["status"] != READY]
                pids = [(worker["id"], worker["pid"]) for worker in starting if worker["pid"] > 0]
                died = any(first_pids.setdefault(name, pid) != pid for name, pid in pids)
                if len(running) == workers and not starting:
                    return
            if died:
                raise RefusedError(f"a worker of version {version} dies before it is ready; TorchServe's log says why")
            time.sleep(POLL_S)
        raise ServerError(f"version {version} does not have {workers} workers after {self.timeout_s:.0f} s: {running}")

    def unregister(self, version: str) -> None:
        """Unload a version. TorchServe refuses to unload the default version while there are others.

        If a worker's thread ends while TorchServe waits for its process, TorchServe answers 500 and restores the
        version; a second request then unloads it.
        """
        url = f"{self.url}/models/{MODEL}/{version}"
        response = _call(self._session, "DELETE", url, self.timeout_s)
        if response.status_code == 500:
            response = _call(self._session, "DELETE", url, self.timeout_s)
        _raise_for_status(response)


class Metrics:
    """The metrics API, in Prometheus' text format. ``timeout_s``: of one request."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url, self._session = _session_to(url)
        self.timeout_s = timeout_s

    def work(self) -> Work:
        """The work done so far. Raises ServerError where TorchServe does not count it."""
        return parse_work(self._page())

    def traffic(self, version: str) -> Traffic | None:
        """What the model of ``version`` did so far; None where the version's handler does not count it."""
        return parse_traffic(self._page(), version)

    def _page(self) -> str:
        return _raise_for_status(_call(self._session, "GET", f"{self.url}/metrics", self.timeout_s)).text


def parse_work(page: str) -> Work:
    """The work on our model, all versions together, from a metrics page. Raises ServerError where it is not counted."""
    families = _families(page)
    histograms = {family.name for family in families if family.type == "histogram"}
    missing = [name for name in (_REQUEST_US, _QUEUE_US, _BATCH_MS) if name not in histograms]
    if missing:
        raise ServerError(
            f"TorchServe does not count {', '.join(missing)}; start it with metrics_mode=prometheus and "
            "metrics_config=serve/torchserve/metrics.yaml, as serve/torchserve/config.properties does"
        )
    held_us = _total(families, f"{_REQUEST_US}_sum") - _total(families, f"{_QUEUE_US}_sum")
    return Work(_total(families, f"{_REQUEST_US}_count"), _total(families, f"{_BATCH_MS}_count"), held_us / 1e6)


def parse_traffic(page: str, version: str) -> Traffic | None:
    """What the model of ``version`` did, from a metrics page; None for archives made before handlers counted it."""
    families, labels = _families(page), {"ModelVersion": version}
    if not any(labels.items() <= sample.labels.items() for family in families for sample in family.samples):
        return None
    answered, failed = (_total(families, _PHOTOS, **labels, Outcome=outcome) for outcome in ("answered", "failed"))
    return Traffic(answered, failed, _total(families, _MODEL_SECONDS, **labels))


def _families(page: str) -> list[Metric]:
    try:
        return list(text_string_to_metric_families(page))
    except ValueError as error:
        raise ServerError(f"TorchServe's metrics cannot be read: {error}; is this its metrics address?") from error


def _total(families: Iterable[Metric], name: str, **labels: str) -> float:
    """One metric of our model, summed over all samples that have ``labels``; 0 before its first value."""
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
        and MODEL in (sample.labels.get("model_name"), sample.labels.get("ModelName"))
        and labels.items() <= sample.labels.items()
    )


def _loaded_version(content: dict[str, Any], default: str) -> LoadedVersion:
    workers = content["workers"]
    return LoadedVersion(
        version=str(content["modelVersion"]),
        default=str(content["modelVersion"]) == default,
        workers=len(workers),
        ready=sum(worker["status"] == READY for worker in workers),
        pending=int(content.get("jobQueueStatus", {}).get("pendingRequests", 0)),
        archive=content["modelUrl"],
    )


def _session_to(url: str) -> tuple[str, requests.Session]:
    """The address that paths are appended to, and a session that reaches it; ``unix:/PATH`` is a socket."""
    session = requests.Session()
    if not url.startswith(SOCKET):
        return url.rstrip("/"), session
    from docker.transport import UnixHTTPAdapter

    session.mount("http+unix://", UnixHTTPAdapter(f"http+unix://{url.removeprefix(SOCKET)}"))
    return "http+unix://torchserve", session


def _call(
    session: requests.Session,
    method: str,
    url: str,
    timeout_s: float,
    params: Mapping[str, str | int] | None = None,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> requests.Response:
    try:
        return session.request(
            method, url, timeout=(min(CONNECT_S, timeout_s), timeout_s), params=params, data=data, headers=headers
        )
    except requests.RequestException as error:
        raise ServerError(f"TorchServe at {url} does not answer: {error}; is it running?") from error


@contextmanager
def _torchserves_shape(url: str) -> Iterator[None]:
    """Raise ServerError where an answer has another shape than TorchServe's."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ServerError(
            f"{url} answers, but not as TorchServe does: {type(error).__name__}: {str(error)[:200]}; is it its address?"
        ) from error


def _raise_for_status(response: requests.Response) -> requests.Response:
    if not response.ok:
        full = response.status_code in (429, 503) and _content(response).get("type") in _BUSY
        raise (OverloadedError if full else RefusedError)(
            f"TorchServe answered {response.status_code} to {response.request.method} {response.url}: "
            f"{_message(response)}"
        )
    return response


def _message(response: requests.Response) -> str:
    return str(_content(response).get("message", response.text))[:500]


def _content(response: requests.Response) -> dict[str, object]:
    """The JSON object in a response, empty where there is none."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
