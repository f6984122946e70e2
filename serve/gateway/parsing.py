"""From a request to the question that TorchServe is asked.

A photo comes as the body (fields in the query), in a form (``photo`` and fields), or in JSON as base64 or as
a link. What the body says goes before the query. Links and photos are not looked into: the worker does that.
"""

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from serve.gateway.schemas import MAX_QUANTITY, Feedback, Refusal

PHOTO_TYPES = ("image/jpeg", "image/png", "application/octet-stream")
FORM, JSON = "multipart/form-data", "application/json"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_LINK = 4096
Form = TypeVar("Form", bound=BaseModel)


class Strict(BaseModel):
    """A form that takes nothing beside what it names."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Fields(Strict):
    """What is asked about a photo, and what a scale says."""

    expected_quantity: int | None = Field(default=None, ge=0, le=MAX_QUANTITY, description="the recorded quantity")
    weight: float | None = Field(default=None, gt=0, description="measured, of the bin's contents")
    expected_weight: float | None = Field(default=None, gt=0, description="by the record, in the same unit")


class Link(Strict):
    """A photo in S3: ``s3://bucket/key`` or an https form of it; buckets are on an allow list."""

    uri: str = Field(min_length=1, max_length=MAX_LINK)


class Inline(Strict):
    """A photo as base64."""

    image: str = Field(min_length=1, json_schema_extra={"format": "byte"})


class FieldsAndLink(Fields, Link):
    """A photo in S3 and what is asked about it."""


class FieldsAndInline(Fields, Inline):
    """A photo as base64 and what is asked about it."""


@dataclass(frozen=True)
class Forms:
    """What a route takes: JSON with a link, JSON with a photo, and what may lie beside a photo in a form."""

    link: type[BaseModel]
    inline: type[BaseModel]
    fields: type[BaseModel]


NOTHING = Fields()
VERIFY = Forms(FieldsAndLink, FieldsAndInline, Fields)
PREDICT = Forms(Link, Inline, Strict)


@dataclass(frozen=True)
class Question:
    """A request to TorchServe: the photo, or JSON that holds or names it. ``also``: a further attribute."""

    body: bytes
    content_type: str
    fields: Fields = NOTHING
    also: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """With the fields as SageMaker's custom attributes; their values are numbers."""
        attributes = [f"{name}={value}" for name, value in given(self.fields).items()]
        line = ",".join(attributes + [self.also] * bool(self.also))
        return {"Content-Type": self.content_type} | ({ATTRIBUTES: line} if line else {})


def given(form: BaseModel) -> dict[str, Any]:
    """The fields beside a photo that were given."""
    return {name: value for name, value in form if name in Fields.model_fields and value is not None}


async def question(request: Request, forms: Forms, query: Fields) -> Question:
    """What a request asks. Raises Refusal."""
    kind = kind_of(request)
    if kind == JSON:
        asked = _of_json(await json_of(request), forms)
        photo = asked.model_dump(include={"uri", "image"})
        return Question(json.dumps(photo).encode(), JSON, merged(query, asked))
    if kind == FORM:
        async with request.form(max_files=1, max_fields=len(Fields.model_fields) + 1) as form:
            file, fields = _of_form(form, forms)
            return Question(await file.read(), photo_type(file.content_type), merged(query, fields))
    if kind and kind not in PHOTO_TYPES:
        raise _unsupported(kind, *PHOTO_TYPES, FORM, JSON)
    return Question(await request.body(), photo_type(kind), query)


async def feedback(request: Request) -> Feedback:
    """What was really in a bin. Raises Refusal."""
    kind = kind_of(request)
    if kind != JSON:  # other sites' pages can send everything but this without being asked first
        raise _unsupported(kind, JSON)
    return checked(Feedback, await json_of(request))


def kind_of(request: Request) -> str:
    """The body's media type, empty where none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def photo_type(kind: str | None) -> str:
    """How a photo is announced to TorchServe, which takes text and JSON apart but leaves bytes alone."""
    return kind if kind in PHOTO_TYPES else PHOTO_TYPES[-1]


def merged(query: Fields, body: BaseModel) -> Fields:
    """What the body says, else what the query says."""
    return Fields(**{**given(query), **given(body)})


async def json_of(request: Request) -> Any:
    """The body as JSON. Raises Refusal."""
    body = await request.body()
    try:
        return json.loads(body, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "BadJson", f"the body of {len(body)} bytes is no JSON: {error}") from error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def checked(form: type[Form], found: Any, strict: bool = True) -> Form:
    """``found`` in the form that is asked for. Raises Refusal with all problems at once."""
    try:
        return form.model_validate(found, strict=strict)
    except ValidationError as error:
        raise bad_fields(error.errors()) from error


def bad_fields(problems: Any) -> Refusal:
    """422 for what pydantic found."""
    named = [(".".join(map(str, each["loc"])) or "the body", each.get("input"), each["msg"]) for each in problems]
    text = "; ".join(f"{name[:60]} is {_short(value)}: {message}" for name, value, message in named)
    return Refusal(422, "BadField", text[:2000])


def body_schema(forms: Forms) -> dict[str, Any]:
    """OpenAPI's description of the body of a request about a photo."""
    binary = {"type": "string", "format": "binary"}
    beside = forms.fields.model_json_schema()["properties"]
    form = {"type": "object", "properties": {"photo": binary, **beside}, "required": ["photo"]}
    content: dict[str, Any] = {
        JSON: {"schema": {"oneOf": [forms.link.model_json_schema(), forms.inline.model_json_schema()]}},
        FORM: {"schema": {**form, "additionalProperties": False}},
        **{kind: {"schema": binary} for kind in PHOTO_TYPES},
    }
    return {"requestBody": {"required": True, "content": content}}


def _unsupported(kind: str, *taken: str) -> Refusal:
    return Refusal(415, "UnsupportedMediaType", f"the body is {kind[:100]!r}; send {' or '.join(taken)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _of_json(found: Any, forms: Forms) -> BaseModel:
    if not isinstance(found, dict):
        raise Refusal(422, "BadField", f"the body is {_short(found)}; send one object with uri or image")
    if ("uri" in found) == ("image" in found):
        raise Refusal(422, "BadField", "give exactly one of uri, a link to S3, and image, a photo as base64")
    return checked(forms.link if "uri" in found else forms.inline, found)


def _of_form(form: FormData, forms: Forms) -> tuple[UploadFile, BaseModel]:
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in found:
            raise Refusal(422, "BadField", f"{name[:60]} comes twice; send it once")
        found[name] = value
    photo = found.pop("photo", None)
    if not isinstance(photo, UploadFile):
        raise Refusal(422, "BadField", "there is no file named photo in the form; send a JPEG or PNG")
    return photo, checked(forms.fields, found, strict=False)
