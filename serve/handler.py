"""What runs inside a TorchServe worker: requests in, JSON answers out.

TorchServe puts the unpacked archive first on the worker's path, so this imports the archive's own copy of ``serve``. It
expects exactly one class in this module. The formats of a request are in ``serve/payload.py``, the settings in
``initialize``.
"""

import atexit
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

from serve import answers, capture, capture_record, counter, payload, photo


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
        model = counter.Counter(Path(context.system_properties["model_dir"]), device=device)
        self.predictor = answers.predictor_from(model, os.environ)
        self.capture = capture.start(capture.settings_from(os.environ))
        if self.capture:
            atexit.register(self.capture.close)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, partial(_close_and_exit, self.capture))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[answers.Content]:
        """One JSON response per request of the batch; a list for a request with a list of photos."""
        start = time.monotonic()
        requests = [
            answers.parse_request(parts, context.get_all_request_header(index)) for index, parts in enumerate(data)
        ]
        all_outcomes = iter(self.predictor.predict([photo for request in requests for photo in request.photos]))
        responses = []
        for index, request in enumerate(requests):
            outcomes = [next(all_outcomes) for _ in request.photos]
            entries = [answers.response_entry(outcome, self.version) for outcome in outcomes]
            responses.append(_respond(context, index, entries, request.listed))
            if self.capture and not request.probe:
                latency_ms = 1000 * (time.monotonic() - start)
                record = partial(self._capture, self.capture, request, outcomes, entries, latency_ms)
                answers.catch_errors(record)  # a failed capture must not cost the answer
        return responses

    def _capture(
        self,
        sink: capture.Capture,
        request: payload.PredictionRequest,
        outcomes: Sequence[answers.PhotoOutcome],
        entries: Sequence[counter.Answer],
        latency_ms: float,
    ) -> None:
        for outcome, entry in zip(outcomes, entries, strict=True):
            data = outcome.data or (b"" if request.listed else request.body)
            brightness, sharpness = (None, None) if outcome.pixels is None else photo.statistics(outcome.pixels)
            sink.put(
                capture_record.Event(
                    answer=entry,
                    status=entry.get("code", 200),
                    model_version=self.version,
                    latency_ms=latency_ms,
                    content_type=payload.media_type(data) or request.content_type or "application/octet-stream",
                    data=data,
                    link=outcome.link,
                    attributes=request.attributes,
                    brightness=brightness,
                    sharpness=sharpness,
                    event_id=entry.get("event_id") or str(uuid.uuid4()),
                )
            )


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
