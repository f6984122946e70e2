"""An error as an HTTP answer, and which error a model server's answer stands for. Pure, standard library only.

Every error is ``{"code", "type", "message"}``. The gateway and the Lambda function return the same ones.
"""

import json
from collections.abc import Mapping

from serve.errors import BinwatchError

RETRY_AFTER_S = 2
PASS_THROUGH = (400, 403, 404, 413, 415, 422, 502, 504)
"""Errors of the worker about a client's photo, field or link, or the store behind it: passed on with their message."""


class Refusal(BinwatchError):
    """An HTTP answer that is an error. ``kind``: its ``type``; ``headers``: further ones, such as Retry-After."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, dict(headers or {})

    @property
    def body(self) -> dict[str, object]:
        """The JSON body."""
        return {"code": self.status, "type": self.kind, "message": self.message}


def retry_later(kind: str, message: str, retry_after_s: int = RETRY_AFTER_S, status: int = 503) -> Refusal:
    """A Refusal with Retry-After."""
    return Refusal(status, kind, message, {"Retry-After": str(retry_after_s)})


def parse_object(content: bytes | str) -> dict[str, object] | None:
    """The JSON object in ``content``, None if it is anything else."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def to_refusal(status: int, body: Mapping[str, object] | None, server: str = "TorchServe") -> Refusal | None:
    """The error that an answer of ``server`` stands for, None for a successful one."""
    if status == 200 and body is not None:
        return None
    kind, message = str((body or {}).get("type", "")), str((body or {}).get("message", ""))
    if kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
        text = "no model is deployed yet; the first one is deployed automatically once it is trained and promoted"
        return retry_later("NoModel", text, 10)
    if status in (503, 507, 429):
        return retry_later("Overloaded", f"every worker of {server} is busy and its queue is full; try again")
    if status in PASS_THROUGH and message:
        return Refusal(status, kind, message)
    return Refusal(502, "Failed", f"{server} answered with status {status} and no count; see its log")
