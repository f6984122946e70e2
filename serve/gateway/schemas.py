"""The forms of answers and errors: what the OpenAPI document says and the page reads.

Every error is ``{"code", "type", "message"}``; ``Refusal`` (``serve/refusal.py``) is such an error on its way out.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve.gateway.refusal import Refusal as Refusal
from serve.gateway.refusal import later as later

MAX_QUANTITY = 99_999


def response(refusal: Refusal) -> Response:
    """An error as JSON."""
    return as_json(refusal.body, refusal.status, refusal.headers)


def as_json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: a lone surrogate that a client sent has no UTF-8, but it has an escape."""
    return Response(json.dumps(body).encode("ascii"), status, dict(headers or {}), "application/json")


class Error(BaseModel):
    """What went wrong, and what to do."""

    code: int = Field(description="the HTTP status again")
    type: str = Field(description="a word for programs", examples=["BadPhoto"])
    message: str = Field(description="what happened, the value seen, what to do")


class Answer(BaseModel):
    """What the model sees in a photo."""

    model_config = ConfigDict(extra="allow")
    count: int = Field(description="the most probable count")
    expected_count: float = Field(description="the mean of the counts")
    probabilities: dict[str, float] = Field(description="calibrated, 0-1, one a count; they sum to 1")
    fit: dict[str, float] = Field(description="of right records with each count, the share that fits as badly or worse")
    model_version: str = Field(description="MLflow's number")
    event_id: str | None = Field(default=None, description="names this answer in POST /feedback")


class Verified(Answer):
    """What the model sees in a photo, and whether that agrees with the record."""

    expected_quantity: int = Field(description="the recorded quantity")
    alpha: float = Field(description="at most this share of right records raises the alarm")
    verdict: Literal["match", "mismatch", "unsure"]
    reason: str
    probability: float | None = Field(description="that the record is right; null where the model does not know it")
    counts_that_fit: list[str] = Field(description="the conformal set")


class Feedback(BaseModel):
    """What was really in a bin."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"additionalProperties": False})
    event_id: str = Field(
        pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", description="of the answer, a UUID"
    )
    count: int = Field(ge=0, le=MAX_QUANTITY, description="counted by hand")


class Healthy(BaseModel):
    """The champion answers."""

    status: Literal["ok"]
    model_version: str


class Alive(BaseModel):
    """The gateway runs; this says nothing of TorchServe."""

    status: Literal["ok"]


_MEANING = {
    400: "the photo or the body cannot be read",
    401: "a key is needed and none, or an unknown one, was sent",
    403: "sent by another site's page, or a link that may not be read",
    404: "there is no such thing",
    408: "the body came too slowly",
    409: "feedback is not kept here",
    413: "larger than the limit",
    415: "not a kind of body that is taken",
    421: "the Host header names another machine",
    422: "a field cannot be used",
    429: "too many requests of one client",
    502: "TorchServe, or the store behind a link, failed",
    503: "full, down, or without a model; see Retry-After",
    504: "the store behind a link did not answer in time",
}
EVERYWHERE = (401, 403, 413, 421, 429, 503)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for the OpenAPI document; those that every route can give included."""
    retry = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*EVERYWHERE, *statuses}):
        found[status] = {"model": Error, "description": _MEANING[status]}
        if status in (429, 503):
            found[status]["headers"] = retry
    return found
