"""What runs inside a TorchServe worker: requests in, JSON answers out.

It travels in the archive and imports the archive's own copy of ``serve``: TorchServe puts the
unpacked archive first on the worker's path. TorchServe wants exactly one class in this module.
The forms of a request are in ``serve/payload.py``, its settings in ``initialize``.
"""

import atexit
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from serve import answers, capture, capture_record, counter, payload, photo


class BinCounterHandler:
    """Answers a batch of requests; each photo of each request gets its answer, or a status and a reason."""

    def initialize(self, context: Any) -> None:
        """Load the model of the archive that TorchServe unpacked.

        Its settings are environment variables: see ``configured`` in ``serve/answers.py``, and ``serve/capture.py``.
        """
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # else TorchServe decodes JSON, and hides what is there twice
        version = str(context.manifest["model"]["modelVersion"])
        self.version = version.removesuffix(".0")  # a stand-in's, see serve/rollout.py
        device = counter.device_of(context.system_properties.get("gpu_id"))
        model = counter.Counter(Path(context.system_properties["model_dir"]), device=device)
        self.answers = answers.configured(model, os.environ)
        self.capture = capture.start(capture.settings(os.environ))
        if self.capture:
            atexit.register(self.capture.close)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, partial(_end, self.capture))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """One answer for each request of the batch; a list for one with a list of photos."""
        begun = time.monotonic()
        requests = [answers.parsed(parts, context.get_all_request_header(index)) for index, parts in enumerate(data)]
        outcomes = iter(self.answers.of([photo for request in requests for photo in request.photos]))
        replies = []
        for index, request in enumerate(requests):
            own = [next(outcomes) for _ in request.photos]
            entries = [answers.entry(each, self.version) for each in own]
            replies.append(_reply(context, index, entries, request.listed))
            if self.capture and not request.probe:
                keep = partial(self._keep, self.capture, request, own, entries, 1000 * (time.monotonic() - begun))
                answers.catch_errors(keep)  # a record that cannot be made costs no answer
        return replies

    def _keep(
        self,
        kept: capture.Capture,
        request: payload.PredictionRequest,
        outcomes: Sequence[answers.PhotoOutcome],
        entries: Sequence[dict[str, Any]],
        latency_ms: float,
    ) -> None:
        for outcome, entry in zip(outcomes, entries, strict=True):
            data = outcome.data or (b"" if request.listed else request.body)
            brightness, sharpness = (None, None) if outcome.pixels is None else photo.statistics(outcome.pixels)
            kept.put(
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


def _end(kept: capture.Capture, *_: Any) -> None:
    kept.close()  # before the end: TorchServe kills a worker at once whose connection is gone
    sys.exit(0)


def _reply(context: Any, index: int, entries: list[dict[str, Any]], listed: bool) -> Any:
    status, content = answers.reply(entries, listed)
    context.set_response_content_type(index, "application/json")
    if status != HTTPStatus.OK:
        context.set_response_status(int(status), status.phrase, index)
    return content
