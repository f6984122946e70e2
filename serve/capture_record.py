"""A prediction as a record in the format of SageMaker's data capture. No side effects.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture.html
"""

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
"""One line of a capture file: nested JSON with SageMaker's keys, see ``record``."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One photo of a request, and its answer.

    ``data``: the photo's bytes, or the body that could not be parsed; ``link``: the photo's address in S3, where it
    was sent as a link; ``brightness``, ``sharpness``: of the squashed photo (``serve/photo.py``); ``latency_ms``: of
    the whole batch of requests that it was answered in; ``station``: where the photo was taken, empty if unknown.
    """

    answer: Mapping[str, object]
    status: int
    model_version: str
    latency_ms: float
    content_type: str = "application/octet-stream"
    data: bytes = b""
    link: str = ""
    attributes: str = ""
    brightness: float | None = None
    sharpness: float | None = None
    station: str = ""
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        """Roughly how many bytes of memory it takes."""
        return len(self.data) + 2048


def record(event: Event, photos: bool = True) -> Record:
    """The record of an event, without the photo's bytes unless ``photos``. The input comes last, since it is long."""
    measurements: Record = {
        "latency_ms": round(event.latency_ms, 3),
        "model_version": event.model_version,
        "status": event.status,
        "brightness": event.brightness,
        "sharpness": event.sharpness,
        **({"station": event.station} if event.station else {}),
    }
    data = base64.b64encode(event.data).decode() if photos else ""
    endpoint_input = _part("INPUT", event.content_type, data, "BASE64")
    if event.link:
        endpoint_input = _part("INPUT", "application/json", json.dumps({"uri": event.link}), "JSON")
    return {
        "eventVersion": "0",
        "eventMetadata": {
            "eventId": event.event_id,
            "inferenceTime": event.moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "customAttributes": [event.attributes] if event.attributes else [],
            "binwatch": measurements,
        },
        "captureData": {
            "endpointOutput": _part("OUTPUT", "application/json", json.dumps(event.answer), "JSON"),
            "endpointInput": endpoint_input,
        },
    }


def _part(mode: str, content_type: str, data: str, encoding: str) -> dict[str, str]:
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}


def is_sampled(event_id: str, share: float) -> bool:
    """Whether an event is in the captured ``share`` (0-1). Deterministic: the same id always gives the same answer."""
    return uuid.uuid5(uuid.NAMESPACE_OID, event_id).int < share * 2**128
