"""The JSON of answers and errors, for the OpenAPI document and the web page.

Every error is ``{"code", "type", "message"}``; ``Refusal`` (``serve/gateway/refusal.py``) is the exception for it.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve.gateway.refusal import Refusal as Refusal
from serve.gateway.refusal import retry_later as retry_later

MAX_QUANTITY = 99_999


def error_response(refusal: Refusal) -> Response:
    """A Refusal as an HTTP response."""
    return json_response(refusal.body, refusal.status, refusal.headers)


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response in ASCII: a lone surrogate from a client cannot be encoded in UTF-8, but it can be escaped."""
    return Response(json.dumps(body).encode("ascii"), status, dict(headers or {}), "application/json")


class Error(BaseModel):
    """What went wrong, and what to do about it."""

    code: int = Field(description="the HTTP status")
    kind: str = Field(alias="type", description="the kind of error, for programs", examples=["BadPhoto"])
    message: str = Field(description="what happened, the value seen, what to do")


class Answer(BaseModel):
    """What the model sees in a photo."""

    model_config = ConfigDict(extra="allow")
    count: int = Field(description="the most probable count")
    expected_count: float = Field(description="the mean of the counts, weighted by their probabilities")
    probabilities: dict[str, float] = Field(description="calibrated probability of each count, 0-1; the sum is 1")
    fit: dict[str, float] = Field(description="of right records with each count, the share that fits as badly or worse")
    model_version: str = Field(description="the version's number in MLflow")
    event_id: str | None = Field(default=None, description="identifies this answer in POST /feedback")


class Verified(Answer):
    """What the model sees in a photo, and whether that agrees with the record."""

    expected_quantity: int = Field(description="the recorded quantity")
    alpha: float = Field(description="at most this share of right records is called a mismatch")
    verdict: Literal["match", "mismatch", "unsure"]
    reason: str
    probability: float | None = Field(description="that the record is right; null if the model does not know the count")
    counts_that_fit: list[str] = Field(description="the conformal prediction set")
    calibrated: bool = Field(
        default=True, description="whether there were enough calibration photos with that quantity for a mismatch"
    )


class Feedback(BaseModel):
    """The real count in a bin."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"additionalProperties": False})
    event_id: str = Field(
        pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="event_id of the answer, a UUID",
    )
    count: int = Field(ge=0, le=MAX_QUANTITY, description="counted by hand")


class Healthy(BaseModel):
    """The champion answers."""

    status: Literal["ok"]
    model_version: str


class Alive(BaseModel):
    """The gateway runs; TorchServe was not checked."""

    status: Literal["ok"]


_DESCRIPTIONS = {
    400: "the photo or the body cannot be read",
    401: "the API key is missing or not valid",
    403: "sent by a page of another site, or a link to a bucket that is not allowed",
    404: "not found",
    408: "the body arrived too slowly",
    409: "feedback is not stored here",
    413: "larger than the limit",
    415: "unsupported type of body",
    421: "the Host header names another machine",
    422: "a field is not valid, or something is sent twice",
    429: "too many requests of one client",
    502: "TorchServe, or the store behind a link, failed",
    503: "overloaded, down, or without a model; see Retry-After",
    504: "the store behind a link did not answer in time",
}
COMMON_ERRORS = (401, 403, 413, 421, 422, 429, 503)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route for the OpenAPI document, including those that every route can return."""
    retry = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*COMMON_ERRORS, *statuses}):
        responses[status] = {"model": Error, "description": _DESCRIPTIONS[status]}
        if status in (429, 503):
            responses[status]["headers"] = retry
    return responses
