"""The JSON of answers and errors, for the OpenAPI document and the web page.

Every error is ``{"code", "type", "message"}``; ``Refusal`` (``serve/gateway/refusal.py``) is the exception for it.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve.evidence import Evidence
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


class Attention(BaseModel):
    """Where in the photo the model looked."""

    count: str = Field(description="the most probable count, whose evidence is drawn")
    image: str = Field(
        description="a transparent PNG, as a data: address, to stretch over the upright photo",
        examples=["data:image/png;base64,iVBORw0KGgo..."],
    )


class Answer(BaseModel):
    """What the model sees in a photo."""

    model_config = ConfigDict(extra="allow")
    count: int = Field(description="the most probable count")
    expected_count: float = Field(description="the mean of the counts, weighted by their probabilities")
    probabilities: dict[str, float] = Field(description="calibrated probability of each count, 0-1; the sum is 1")
    fit: dict[str, float] = Field(description="of right records with each count, the share that fits as badly or worse")
    typical: float | None = Field(
        default=None,
        description="the share of bins whose photo is as unlike those learned from; null if the model has no such test",
    )
    attention: Attention | None = Field(
        default=None, description="where the model looked, if asked for; null if its network cannot say"
    )
    model_version: str = Field(description="the version's number in MLflow")
    event_id: str | None = Field(default=None, description="identifies this answer in POST /feedback")


class RecordedProduct(BaseModel):
    """One product of a record."""

    id: str
    name: str
    quantity: int = Field(description="units")
    sides_cm: list[float] | None = Field(description="of one unit, the longest first; null if they are not known")
    weight_kg: float | None = Field(description="of one unit; null if it is not known")


class RecordedContent(BaseModel):
    """What a bin should hold."""

    quantity: int = Field(description="of all products")
    products: list[RecordedProduct] = Field(description="empty if only the quantity is recorded")


class RecordOfBin(BaseModel):
    """The record of one bin."""

    bin_id: str
    record: RecordedContent


class RecordsConfigured(BaseModel):
    """Whether records are looked up."""

    configured: bool


class Weighed(BaseModel):
    """What a scale says about the record."""

    weight: float = Field(description="the measured one")
    expected_weight: float = Field(description="the recorded one, or the sum of the products' weights")
    tolerance: float | None = Field(default=None, description="of such a sum: a right record is within it")
    unit: str | None = Field(default=None, description="of these numbers; null if the request names none")
    verdict: Literal["match", "mismatch", "unsure"]
    reason: str


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
    calibration_photos: int | None = Field(
        default=None,
        description="how many the fit of the recorded quantity was ranked among; null if the archive does not say",
    )
    not_a_bin: bool = Field(default=False, description="whether the photo is taken for something else than a bin")
    evidence: Evidence = Field(default=Evidence.PHOTO, description="on what the verdict rests")
    notes: list[str] | None = Field(default=None, description="what of the record could not be used, if anything")
    weight: Weighed | None = Field(default=None, description="what the scale says, if there was a weight")
    bin_id: str | None = Field(default=None, description="of the bin whose record was looked up, if it was")
    record: RecordedContent | None = Field(default=None, description="that record")


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
    403: "sent by a page of another site, a link to a bucket that is not allowed, or the API key has not the right",
    404: "not found; there is no such bin, photo or event",
    408: "the body arrived too slowly",
    409: "feedback or recounts are not stored here, records are not looked up, or the bin has another recount",
    413: "larger than the limit",
    415: "unsupported type of body",
    421: "the Host header names another machine",
    422: "a field is not valid, or something is sent twice",
    429: "too many requests of one client",
    502: "TorchServe, the store behind a link or the database of records failed, or a record is broken",
    503: "overloaded, down, or without a model; see Retry-After",
    504: "the store behind a link, or the database of records, did not answer in time",
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
