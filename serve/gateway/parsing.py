"""Turns a client's request into a request to the model.

A photo comes as the body (with fields in the query), in a form (``photo`` and fields), or in JSON as base64 or as a
link. Fields in the body take precedence over the query. Links and photos are not inspected here: the worker does that.
A record with its products, which no header can hold, goes to the worker in JSON, with the photo as base64.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from serve.evidence.fields import FIELDS, RECORDS
from serve.evidence.record import unique_names
from serve.gateway.records.record_fields import Fields, PhotoFields, Strict, present_fields, recorded_quantity
from serve.gateway.schemas import Refusal
from serve.gateway.settings import MAX_BODY
from serve.routing.route_table import SHADOW

PHOTO_TYPES = ("image/jpeg", "image/png", "application/octet-stream")
FORM, JSON, LINK = "multipart/form-data", "application/json", "string/url"
CURL_FORM = "application/x-www-form-urlencoded"
"""The type that ``curl --data-binary @PHOTO`` names: what it sends is the photo itself."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""The first bytes of a JPEG and of a PNG."""
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_LINK = 4096
_Model = TypeVar("_Model", bound=BaseModel)


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


class PhotoAndLink(PhotoFields, Link):
    """A photo in S3 without a record."""


class PhotoAndInline(PhotoFields, Inline):
    """A photo as base64 without a record."""


@dataclass(frozen=True)
class BodyModels:
    """The bodies a route accepts: JSON with a link, JSON with a photo, and the fields beside a photo in a form."""

    link: type[BaseModel]
    inline: type[BaseModel]
    fields: type[BaseModel]


NO_FIELDS = Fields()
VERIFY = BodyModels(FieldsAndLink, FieldsAndInline, Fields)
PREDICT = BodyModels(PhotoAndLink, PhotoAndInline, PhotoFields)


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
        """HTTP headers, with the fields as SageMaker's custom attributes: numbers, and the station percent-encoded.

        An archive that was exported before there were stations ignores this attribute, and captures the header.
        """
        fields = {name: value for name, value in present_fields(self.fields).items() if name in FIELDS}
        texts = {name: quote(str(value), safe="") if name == "station" else value for name, value in fields.items()}
        attributes = [f"{name}={text}" for name, text in texts.items()]
        line = ",".join(attributes + [self.extra_attribute] * bool(self.extra_attribute))
        return {"Content-Type": self.content_type} | ({ATTRIBUTES: line} if line else {})


async def parse_photo(request: Request, models: BodyModels, query: Fields) -> ModelRequest:
    """Read a request with a photo. Raises Refusal."""
    kind = media_type(request)
    if kind == JSON:
        body = _validate_json(await read_json(request), models)
        photo = body.model_dump(include={"uri", "image"})
        return ModelRequest(json.dumps(photo).encode(), JSON, merge_fields(query, body))
    if kind == FORM:
        max_files = 1 + len(RECORDS)  # a record can be sent as a file
        async with request.form(max_files=max_files, max_fields=len(Fields.model_fields) + 1) as form:
            file, fields = await _validate_form(form, models)
            return ModelRequest(await file.read(), photo_type(file.content_type), merge_fields(query, fields))
    if kind and kind not in PHOTO_TYPES:
        raise _unsupported(kind, *PHOTO_TYPES, FORM, JSON)
    return ModelRequest(await request.body(), photo_type(kind), query)


def with_station(request: ModelRequest, key: str) -> ModelRequest:
    """``request`` with the name of its API ``key`` as station, where neither its fields nor its attributes name one.

    A body in TorchServe's own formats, which the gateway does not read, can name one, too; the worker lets it win.
    """
    names = [text.partition("=")[0].strip() for text in request.extra_attribute.split(",")]
    if not key or request.fields.station is not None or "station" in names:
        return request
    return replace(request, fields=request.fields.model_copy(update={"station": key}))


def with_shadow(request: ModelRequest) -> ModelRequest:
    """``request`` marked as a copy."""
    return replace(request, extra_attribute=",".join(filter(None, (request.extra_attribute, SHADOW))))


def with_record(request: ModelRequest) -> ModelRequest:
    """``request`` with the recorded quantity, which a record with products says, and such a record in its body.

    Raises Refusal where there is neither, and for fields that do not go together.
    """
    content = present_fields(request.fields)
    fields = request.fields.model_copy(update={"expected_quantity": recorded_quantity(content)})
    record = {name: content[name] for name in RECORDS if name in content}
    return replace(request, fields=fields, **(_in_json(request, record) if record else {}))


def _in_json(request: ModelRequest, record: dict[str, object]) -> dict[str, Any]:
    """Body and content type with the photo and its record."""
    is_json = request.content_type == JSON
    photo = json.loads(request.body) if is_json else {"image": base64.b64encode(request.body).decode()}
    try:
        body = json.dumps({**photo, **record}).encode()
    except RecursionError as error:
        raise Refusal(422, "BadField", f"{' and '.join(record)} is nested too deeply; send it flat") from error
    if len(body) > MAX_BODY:
        message = f"photo and record have {len(body)} bytes in JSON, the limit is {MAX_BODY}; send a smaller photo"
        raise Refusal(413, "TooLarge", message)
    return {"body": body, "content_type": JSON}


async def parse_any(request: Request) -> ModelRequest:
    """Read a request in a format of TorchServe's own route (``serve/payload.py``), which the worker checks."""
    kind, body = media_type(request), await request.body()
    if kind.startswith("text/") or (kind == CURL_FORM and not body.startswith(MAGIC)):
        raise _unsupported(kind, *PHOTO_TYPES, FORM, JSON, LINK)
    attributes = request.headers.get(ATTRIBUTES, "")
    if not attributes.isascii():
        raise Refusal(422, "BadField", f"the header {ATTRIBUTES} is {_shorten(attributes)}; give it in ASCII")
    if any(text.partition("=")[0] == SHADOW.partition("=")[0] for text in "".join(attributes.split()).split(",")):
        raise Refusal(422, "BadField", f"the header {ATTRIBUTES} names shadow, which is the gateway's; leave it out")
    whole = request.headers.get("content-type", "")  # with the form's boundary
    content_type = whole if kind == FORM else kind if kind in (JSON, LINK) else photo_type(kind)
    return ModelRequest(body, content_type, extra_attribute=attributes)


async def parse_json(request: Request, model: type[_Model]) -> _Model:
    """Read a request whose body is the JSON of ``model``. Raises Refusal."""
    kind = media_type(request)
    if kind != JSON:  # pages of other sites can send all types but this one without a CORS preflight
        raise _unsupported(kind, JSON)
    return validate(model, await read_json(request))


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
        return json.loads(body, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "BadJson", f"the body of {len(body)} bytes is not JSON: {error}") from error


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
    try:
        text = repr(value)
    except RecursionError:  # a list in a list in a list...
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}..."


def _validate_json(content: object, models: BodyModels) -> BaseModel:
    if not isinstance(content, dict):
        raise Refusal(422, "BadField", f"the body is {_shorten(content)}; send one object with uri or image")
    if ("uri" in content) == ("image" in content):
        raise Refusal(422, "BadField", "give exactly one of uri (a link to S3) and image (a photo as base64)")
    return validate(models.link if "uri" in content else models.inline, content)


async def _validate_form(form: FormData, models: BodyModels) -> tuple[UploadFile, BaseModel]:
    fields: dict[str, object] = {}
    for name, value in form.multi_items():
        if name in fields:
            raise Refusal(422, "BadField", f"the form has {name[:60]} twice; send it once")
        fields[name] = value
    photo = fields.pop("photo", None)
    if not isinstance(photo, UploadFile):
        raise Refusal(422, "BadField", "the form has no file named photo; send a JPEG or PNG")
    records = {name: await _read_part(name, fields[name]) for name in RECORDS if name in fields}
    return photo, validate(models.fields, {**fields, **records}, strict=False)


async def _read_part(name: str, value: object) -> object:
    """The JSON in a part of a form, be it a file or text. Raises Refusal."""
    text = await value.read() if isinstance(value, UploadFile) else str(value)
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "BadField", f"the part {name} of {len(text)} characters is not JSON: {error}") from error
