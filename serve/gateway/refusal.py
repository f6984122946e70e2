"""An answer that is an error, and what the answers of a model server mean to a client. Pure, and nothing but Python.

Every error is ``{"code", "type", "message"}``. The gateway and the Lambda give the same ones.
"""

import json
from collections.abc import Mapping
from typing import Any

from serve.errors import BinwatchError

RETRY_AFTER_S = 2
PASSED_ON = (400, 403, 404, 413, 415, 422, 502, 504)
"""What the worker says of a client's photo, field or link, and of the store behind it: its words, its status."""


class Refusal(BinwatchError):
    """An answer that is an error. ``headers``: what it carries besides, such as Retry-After."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What becomes the JSON."""
        return {"code": self.status, "type": self.kind, "message": self.message}


def later(kind: str, message: str, seconds: int = RETRY_AFTER_S, status: int = 503) -> Refusal:
    """503 with Retry-After, in seconds."""
    return Refusal(status, kind, message, {"Retry-After": str(seconds)})


def parsed(content: bytes | str) -> dict[str, Any] | None:
    """The JSON object of an answer, None where it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def meaning(status: int, body: dict[str, Any] | None, who: str = "TorchServe") -> Refusal | None:
    """What an answer of ``who`` is to a client: None is an answer, all else an error."""
    if status == 200 and body is not None:
        return None
    kind, message = str((body or {}).get("type", "")), str((body or {}).get("message", ""))
    if kind == "ModelNotFoundException":
        return later("NoModel", "no model is deployed yet; it comes by itself once one is trained and promoted", 10)
    if status in (503, 507, 429):
        return later("Overloaded", f"every worker of {who} is busy and its queue is full; try again")
    if status in PASSED_ON and message:
        return Refusal(status, kind, message)
    return Refusal(502, "Failed", f"{who} answered {status} and no count; its log says why")
