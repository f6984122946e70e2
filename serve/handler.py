"""What runs inside a TorchServe worker: requests in, JSON answers out.

TorchServe puts the unpacked archive first on the worker's path, so this imports the archive's own copy of ``serve``. It
expects exactly one class in this module. The formats of a request are in ``serve/payload.py``, the settings in
``initialize``.

TorchServe's port has no page and no keys. Whoever reaches it may ask, but web pages may not: any page that somebody on
this machine has open could send photos, which would be captured, and drift.
"""

import atexit
import hashlib
import ipaddress
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serve import answers, capture, capture_record, counter, payload, photo
from serve.errors import AdmissionError, HostError, ModelError, OriginError

PHOTOS, MODEL_SECONDS = "binwatch_photos_total", "binwatch_model_seconds_total"
"""Counters in serve/torchserve/metrics.yaml, which the promoter's probation reads."""
DESCRIBE = "describe"
"""The header of TorchServe's ``GET /models/bin-counter/VERSION?customized=true``, which is never in a batch."""
PRIVATE_NAMES = (".internal", ".lan", ".local", ".localhost", ".svc")
"""Ends of names that cannot be registered, so that no stranger's page has one."""
GATEWAY_PHOTO = "b810b9c6aec77ae1a21b8dbd24e9bc8bc2e2af7296295e41576f3e341c83bc0e"
"""SHA-256 of the photo that the gateway checks a model's health with (``serve/gateway/health.py``)."""


class BinCounterHandler:
    """Answers a batch of requests; each photo of each request gets its answer, or a status and a reason."""

    def initialize(self, context: Any) -> None:
        """Load the model of the archive that TorchServe unpacked. ``context``: a ``ts.context.Context``.

        The settings are environment variables: see ``predictor_from`` in ``serve/answers.py`` and ``settings_from`` in
        ``serve/capture.py``.
        """
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # TorchServe's own JSON decoding would hide duplicate names
        version = str(context.manifest["model"]["modelVersion"])
        self.version = version.removesuffix(".0")  # the suffix of a stand-in, see serve/rollout/rollout.py
        device = counter.device_of(context.system_properties.get("gpu_id"))
        model = counter.Counter(Path(context.system_properties["model_dir"]), device=device, shared=True)
        self.predictor, self.description = answers.predictor_from(model, os.environ), model.describe()
        self.test_photos = {GATEWAY_PHOTO, *(model.manifest.files.get(golden.file) for golden in model.manifest.golden)}
        self.model_name, self.counters = context.model_name, _counters(context.metrics)
        self.capture = capture.start(capture.settings_from(os.environ))
        if self.capture:
            atexit.register(self.capture.close)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, partial(_close_and_exit, self.capture))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[answers.Content]:
        """One JSON response per request of the batch; a list for a request with a list of photos."""
        start = time.monotonic()
        all_headers = [context.get_all_request_header(index) for index in range(len(data))]
        if len(data) == 1 and payload.header(all_headers[0], DESCRIBE) == "True":
            return [self.description]
        requests = [self._parse(parts, headers) for parts, headers in zip(data, all_headers, strict=True)]
        photos = self.predictor.decode([photo for request in requests for photo in request.photos])
        model_start = time.monotonic()
        try:
            all_outcomes = iter(self.predictor.answer(photos))
            batch = [(request, [next(all_outcomes) for _ in request.photos]) for request in requests]
            responses = []
            for index, (request, outcomes) in enumerate(batch):
                form = str(self.description["form"]) if request.probe else ""
                entries = [answers.response_entry(outcome, self.version, form) for outcome in outcomes]
                responses.append(_respond(context, index, entries, request.listed))
                if self.capture and self._is_captured(request):
                    latency_ms = 1000 * (time.monotonic() - start)
                    record = partial(self._capture, self.capture, request, outcomes, entries, latency_ms)
                    answers.catch_errors(record)  # a failed capture must not cost the answer
        except Exception:
            self._count(failed=len(photos))
            raise
        self._count_batch(batch, time.monotonic() - model_start)
        return responses

    def _parse(self, parts: Mapping[str, bytes], headers: Mapping[str, object]) -> payload.PredictionRequest:
        try:
            _admit(headers)
        except AdmissionError as error:
            return payload.PredictionRequest((error,))
        return answers.parse_request(parts, headers)

    def _is_captured(self, request: payload.PredictionRequest) -> bool:
        return not self._is_test(request) and not any(isinstance(item, AdmissionError) for item in request.photos)

    def _is_test(self, request: payload.PredictionRequest) -> bool:
        """Whether it is a health check. Anybody can claim that, so its photos must be those that checks have."""
        inputs = [item.photo if isinstance(item, payload.PhotoInput) else None for item in request.photos]
        return request.probe and all(
            isinstance(data, bytes) and hashlib.sha256(data).hexdigest() in self.test_photos for data in inputs
        )

    def _count_batch(
        self, batch: Sequence[tuple[payload.PredictionRequest, Sequence[answers.PhotoOutcome]]], seconds: float
    ) -> None:
        """Count what the model did with the photos that could be read, but for those of health checks."""
        live = [outcome for request, outcomes in batch if not self._is_test(request) for outcome in outcomes]
        results = [outcome.result for outcome in live if outcome.pixels is not None]
        read = sum(outcome.pixels is not None for _, outcomes in batch for outcome in outcomes)
        failed = sum(isinstance(result, ModelError) for result in results)
        self._count(len(results) - failed, failed, seconds * len(results) / max(1, read))

    def _count(self, answered: int = 0, failed: int = 0, seconds: float = 0.0) -> None:
        if not self.counters:
            return
        self.counters[PHOTOS].add_or_update(answered, [self.model_name, self.version, "answered"])
        self.counters[PHOTOS].add_or_update(failed, [self.model_name, self.version, "failed"])
        self.counters[MODEL_SECONDS].add_or_update(round(seconds, 6), [self.model_name, self.version])

    def _capture(
        self,
        sink: capture.Capture,
        request: payload.PredictionRequest,
        outcomes: Sequence[answers.PhotoOutcome],
        entries: Sequence[counter.Answer],
        latency_ms: float,
    ) -> None:
        for item, outcome, entry in zip(request.photos, outcomes, entries, strict=True):
            data = outcome.data or (b"" if request.listed else request.body)
            brightness, sharpness = (None, None) if outcome.pixels is None else photo.statistics(outcome.pixels)
            sink.put(
                capture_record.Event(
                    answer={name: value for name, value in entry.items() if name != "attention"},
                    status=entry.get("code", 200),
                    model_version=self.version,
                    latency_ms=latency_ms,
                    content_type=payload.media_type(data) or request.content_type or "application/octet-stream",
                    data=data,
                    link=outcome.link,
                    attributes=request.attributes,
                    brightness=brightness,
                    sharpness=sharpness,
                    station=item.fields.station if isinstance(item, payload.PhotoInput) else "",
                    event_id=entry.get("event_id") or str(uuid.uuid4()),
                )
            )


def _counters(metrics: Any) -> dict[str, Any]:
    """TorchServe's counters of these names; none where its settings, from another version of ours, lack them."""
    metrics_by_type = getattr(metrics, "cache", {})
    counters = {name: metric for by_name in metrics_by_type.values() for name, metric in by_name.items()}
    return {name: counters[name] for name in (PHOTOS, MODEL_SECONDS)} if PHOTOS in counters else {}


def _admit(headers: Mapping[str, object]) -> None:
    """Raises AdmissionError for what a web page can send, also under a name of its own that it points here."""
    origin, site = payload.header(headers, "origin"), payload.header(headers, "sec-fetch-site")
    if origin or site not in ("", "none"):
        source = repr(origin[:100]) if origin else f"a {site[:20]} site"
        raise OriginError(f"the page of {source} may not send requests to this port; let its server send them")
    name = _hostname(payload.header(headers, "host"))
    if "." in name and not name.endswith(PRIVATE_NAMES) and not _is_address(name):
        raise HostError(
            f"the request is for host {name[:100]!r}, a name that anybody could point here; use an address, "
            f"a name without a dot or one that ends in {', '.join(PRIVATE_NAMES)}"
        )


def _hostname(host: str) -> str:
    """The name or address in a Host header, in lower case and without the port; the header where it cannot be read."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
    except ValueError:
        return host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _close_and_exit(sink: capture.Capture, *_: object) -> None:
    sink.close()  # before the process ends: TorchServe kills a worker as soon as its connection is gone
    sys.exit(0)


def _respond(context: Any, index: int, entries: list[counter.Answer], listed: bool) -> answers.Content:
    """Set status and content type of a response; returns its JSON."""
    status, content = answers.http_response(entries, listed)
    context.set_response_content_type(index, "application/json")
    if status != HTTPStatus.OK:
        context.set_response_status(int(status), status.phrase, index)
    return content
