"""One answer with what was asked, as a record in the format of SageMaker's data capture. Pure.

It travels in every archive.
https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture.html
"""

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Event:
    """One photo, asked about and answered.

    ``data``: its bytes, or the body that could not be used; ``link``: where it lies instead; ``brightness`` and
    ``sharpness`` of the squashed photo (``serve/photo.py``); ``latency_ms``: of all requests answered with it.
    """

    answer: Mapping[str, Any]
    status: int
    model_version: str
    latency_ms: float
    content_type: str = "application/octet-stream"
    data: bytes = b""
    link: str = ""
    attributes: str = ""
    brightness: float | None = None
    sharpness: float | None = None
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return len(self.data) + 2048


def record(event: Event, photos: bool = True) -> dict[str, Any]:
    """The record of an event; input last, since it is long."""
    measured = {
        "latency_ms": round(event.latency_ms, 3),
        "model_version": event.model_version,
        "status": event.status,
        "brightness": event.brightness,
        "sharpness": event.sharpness,
    }
    data = base64.b64encode(event.data).decode() if photos else ""
    sent = _part("INPUT", event.content_type, data, "BASE64")
    if event.link:
        sent = _part("INPUT", "application/json", json.dumps({"uri": event.link}), "JSON")
    return {
        "eventVersion": "0",
        "eventMetadata": {
            "eventId": event.event_id,
            "inferenceTime": event.moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "customAttributes": [event.attributes] if event.attributes else [],
            "binwatch": measured,
        },
        "captureData": {
            "endpointOutput": _part("OUTPUT", "application/json", json.dumps(event.answer), "JSON"),
            "endpointInput": sent,
        },
    }


def _part(mode: str, content_type: str, data: str, encoding: str) -> dict[str, str]:
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}


def sampled(event_id: str, share: float) -> bool:
    """Whether an event is among the ``share`` (0-1) that is captured: always the same answer for the same id."""
    return uuid.uuid5(uuid.NAMESPACE_OID, event_id).int < share * 2**128
