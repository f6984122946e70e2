"""Turns a client's request into a request to the model.

A photo comes as the body (with fields in the query), in a form (``photo`` and fields), or in JSON as base64 or as a
link. Fields in the body take precedence over the query. Links and photos are not inspected here: the worker does that.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from serve.gateway.schemas import MAX_QUANTITY, Feedback, Refusal

PHOTO_TYPES = ("image/jpeg", "image/png", "application/octet-stream")
FORM, JSON, LINK = "multipart/form-data", "application/json", "string/url"
CURL_FORM = "application/x-www-form-urlencoded"
"""The type that ``curl --data-binary @PHOTO`` names: what it sends is the photo itself."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""The first bytes of a JPEG and of a PNG."""
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_LINK = 4096
_Model = TypeVar("_Model", bound=BaseModel)


class Strict(BaseModel):
    """A model that forbids unknown fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Fields(Strict):
    """The fields beside a photo: the recorded quantity, and both weights if the bin was weighed."""

    expected_quantity: int | None = Field(default=None, ge=0, le=MAX_QUANTITY, description="the recorded quantity")
    weight: float | None = Field(default=None, gt=0, description="measured weight of the bin's contents")
    expected_weight: float | None = Field(default=None, gt=0, description="recorded weight, in the same unit")


class Link(Strict):
    """A photo in S3: ``s3://bucket/key`` or S3's https form; the bucket must be on the allow list."""

    uri: str = Field(min_length=1, max_length=MAX_LINK)


class Inline(Strict):
    """A photo as base64."""

    image: str = Field(min_length=1, json_schema_extra={"format": "byte"})


class FieldsAndLink(Fields, Link):
    """A photo in S3 with fields."""


class FieldsAndInline(Fields, Inline):
    """A photo as base64 with fields."""


@dataclass(frozen=True)
class BodyModels:
    """The bodies a route accepts: JSON with a link, JSON with a photo, and the fields beside a photo in a form."""

    link: type[BaseModel]
    inline: type[BaseModel]
    fields: type[BaseModel]


NO_FIELDS = Fields()
VERIFY = BodyModels(FieldsAndLink, FieldsAndInline, Fields)
PREDICT = BodyModels(Link, Inline, Strict)


@dataclass(frozen=True)
class ModelRequest:
    """A request to the model: the photo, or JSON with the photo or a link to it.

    ``extra_attribute``: ``name=value``, sent beside the fields.
    """

    body: bytes
    content_type: str
    fields: Fields = NO_FIELDS
    extra_attribute: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers, with the fields as SageMaker's custom attributes; their values are numbers."""
        attributes = [f"{name}={value}" for name, value in present_fields(self.fields).items()]
        line = ",".join(attributes + [self.extra_attribute] * bool(self.extra_attribute))
        return {"Content-Type": self.content_type} | ({ATTRIBUTES: line} if line else {})


def present_fields(model: BaseModel) -> dict[str, object]:
    """The fields beside a photo that have a value."""
    return {name: value for name, value in model if name in Fields.model_fields and value is not None}


async def parse_photo(request: Request, models: BodyModels, query: Fields) -> ModelRequest:
    """Read a request with a photo. Raises Refusal."""
    kind = media_type(request)
    if kind == JSON:
        body = _validate_json(await read_json(request), models)
        photo = body.model_dump(include={"uri", "image"})
        return ModelRequest(json.dumps(photo).encode(), JSON, merge_fields(query, body))
    if kind == FORM:
        async with request.form(max_files=1, max_fields=len(Fields.model_fields) + 1) as form:
            file, fields = _validate_form(form, models)
            return ModelRequest(await file.read(), photo_type(file.content_type), merge_fields(query, fields))
    if kind and kind not in PHOTO_TYPES:
        raise _unsupported(kind, *PHOTO_TYPES, FORM, JSON)
    return ModelRequest(await request.body(), photo_type(kind), query)


async def parse_any(request: Request) -> ModelRequest:
    """Read a request in a format of TorchServe's own route (``serve/payload.py``), which the worker checks."""
    kind, body = media_type(request), await request.body()
    if kind.startswith("text/") or (kind == CURL_FORM and not body.startswith(MAGIC)):
        raise _unsupported(kind, *PHOTO_TYPES, FORM, JSON, LINK)
    attributes = request.headers.get(ATTRIBUTES, "")
    if not attributes.isascii():
        raise Refusal(422, "BadField", f"the header {ATTRIBUTES} is {_shorten(attributes)}; give it in ASCII")
    whole = request.headers.get("content-type", "")  # with the form's boundary
    content_type = whole if kind == FORM else kind if kind in (JSON, LINK) else photo_type(kind)
    return ModelRequest(body, content_type, extra_attribute=attributes)


async def parse_feedback(request: Request) -> Feedback:
    """Read a request with feedback. Raises Refusal."""
    kind = media_type(request)
    if kind != JSON:  # pages of other sites can send all types but this one without a CORS preflight
        raise _unsupported(kind, JSON)
    return validate(Feedback, await read_json(request))


def media_type(request: Request) -> str:
    """The body's media type, empty if there is no Content-Type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def photo_type(kind: str | None) -> str:
    """The content type to send to TorchServe, which parses text and JSON but passes on bytes unchanged."""
    return kind if kind in PHOTO_TYPES else PHOTO_TYPES[-1]


def merge_fields(query: Fields, body: BaseModel) -> Fields:
    """The fields of both; the body takes precedence."""
    return Fields.model_validate({**present_fields(query), **present_fields(body)})


async def read_json(request: Request) -> object:
    """The body as JSON. Raises Refusal."""
    body = await request.body()
    try:
        return json.loads(body, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "BadJson", f"the body of {len(body)} bytes is not JSON: {error}") from error


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has the same name twice")
    return content


def validate(model: type[_Model], content: object, strict: bool = True) -> _Model:
    """``content`` as an instance of ``model``. Raises Refusal with all problems at once."""
    try:
        return model.model_validate(content, strict=strict)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from error


def invalid_fields(problems: Iterable[ErrorDetails]) -> Refusal:
    """A 422 that lists what pydantic complains about."""
    texts = []
    for problem in problems:
        name = ".".join(map(str, problem["loc"])) or "the body"
        texts.append(f"{name[:60]} is {_shorten(problem.get('input'))}: {problem['msg']}")
    return Refusal(422, "BadField", "; ".join(texts)[:2000])


def body_schema(models: BodyModels) -> dict[str, Any]:
    """The body of a request with a photo, for the OpenAPI document."""
    binary = {"type": "string", "format": "binary"}
    fields = models.fields.model_json_schema()["properties"]
    form = {"type": "object", "properties": {"photo": binary, **fields}, "required": ["photo"]}
    content = {
        JSON: {"schema": {"oneOf": [models.link.model_json_schema(), models.inline.model_json_schema()]}},
        FORM: {"schema": {**form, "additionalProperties": False}},
        **{kind: {"schema": binary} for kind in PHOTO_TYPES},
    }
    return {"requestBody": {"required": True, "content": content}}


def _unsupported(kind: str, *accepted: str) -> Refusal:
    return Refusal(415, "UnsupportedMediaType", f"the body's type is {kind[:100]!r}; send {' or '.join(accepted)}")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _validate_json(content: object, models: BodyModels) -> BaseModel:
    if not isinstance(content, dict):
        raise Refusal(422, "BadField", f"the body is {_shorten(content)}; send one object with uri or image")
    if ("uri" in content) == ("image" in content):
        raise Refusal(422, "BadField", "give exactly one of uri (a link to S3) and image (a photo as base64)")
    return validate(models.link if "uri" in content else models.inline, content)


def _validate_form(form: FormData, models: BodyModels) -> tuple[UploadFile, BaseModel]:
    fields: dict[str, object] = {}
    for name, value in form.multi_items():
        if name in fields:
            raise Refusal(422, "BadField", f"the form has {name[:60]} twice; send it once")
        fields[name] = value
    photo = fields.pop("photo", None)
    if not isinstance(photo, UploadFile):
        raise Refusal(422, "BadField", "the form has no file named photo; send a JPEG or PNG")
    return photo, validate(models.fields, fields, strict=False)
