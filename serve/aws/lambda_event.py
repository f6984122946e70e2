"""Converts Lambda events to requests for the model, and answers to responses. Pure.

    {"url": LINK}              the payload in the report (docs/background.md); also {"uri": LINK} and {"image": BASE64},
                               with fields beside it
    API Gateway's REST API     events of version 1.0: ``httpMethod``, ``headers``, ``body``
    API Gateway's HTTP API     events of version 2.0, which function URLs send too

The body of an HTTP request has the forms in ``serve/payload.py`` except multipart; ``url`` is an alias of ``uri``.
https://docs.aws.amazon.com/lambda/latest/dg/services-apigateway.html#apigateway-example-event
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from serve.errors import FieldError
from serve.evidence.fields import FIELDS, parse_station
from serve.evidence.record import unique_names
from serve.gateway.refusal import Refusal
from serve.payload import ATTRIBUTES

JSON = "application/json"
HttpEvent: TypeAlias = Mapping[str, Any]
"""An event of API Gateway or of a function URL."""
_NUMBER = re.compile(r"[\w.+-]{1,40}", re.ASCII)
"""Characters allowed in a field's value: a comma would start another attribute."""


@dataclass(frozen=True)
class ModelRequest:
    """A request to the model: the photo, or JSON with the photo or a link to it.

    ``attributes``: for SageMaker's custom attributes header.
    """

    body: bytes
    content_type: str
    attributes: str = ""


def to_model_request(event: object) -> ModelRequest:
    """The request in an event. Raises Refusal."""
    if not isinstance(event, dict):
        raise Refusal(422, "BadField", f'the event is {type(event).__name__}; send an object, as {{"url": LINK}}')
    context = event.get("requestContext") or {}
    method = event.get("httpMethod") or (context.get("http") or {}).get("method")
    if method is None:
        return ModelRequest(_url_to_uri(json.dumps(event).encode()), JSON)
    if method != "POST":
        raise Refusal(405, "MethodNotAllowed", f"the method is {method}; POST a photo", {"Allow": "POST"})
    return _from_http(event, _lower_case(event.get("headers") or {}))


def _from_http(event: HttpEvent, headers: Mapping[str, str]) -> ModelRequest:
    body = _body(event)
    content_type = headers.get("content-type") or ("application/octet-stream" if event.get("isBase64Encoded") else JSON)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("multipart/"):
        message = f"the body's type is {media_type!r:.100}; send the photo's bytes, or {JSON}"
        raise Refusal(415, "UnsupportedMediaType", message)
    if media_type == JSON:
        body = _url_to_uri(body)
    return ModelRequest(body, content_type, _attributes(headers, _query(event)))


def _body(event: HttpEvent) -> bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body).encode()
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Refusal(400, "BadBody", f"isBase64Encoded is set, but the event's body is not base64: {error}") from error


def _url_to_uri(body: bytes) -> bytes:
    """Rename ``url`` to ``uri`` in a JSON object; the model's server refuses a body that is anything else."""
    try:
        content = json.loads(body, object_pairs_hook=unique_names)
    except (ValueError, RecursionError):
        return body
    if not isinstance(content, dict) or "url" not in content or "uri" in content:
        return body
    return json.dumps({"uri": content.pop("url"), **content}).encode()


def _query(event: HttpEvent) -> dict[str, str]:
    """The query's values; values of a repeated name are joined with commas, as in version 2.0."""
    repeated = event.get("multiValueQueryStringParameters") or {}
    return {
        **(event.get("queryStringParameters") or {}),
        **{name: ",".join(values) for name, values in repeated.items()},
    }


def _attributes(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The fields beside the photo as custom attributes; the query takes precedence over the header."""
    attributes = [text.strip().partition("=")[::2] for text in headers.get(ATTRIBUTES.lower(), "").split(",")]
    decoded = [(name, unquote(value) if name == "station" else value) for name, value in attributes]
    fields = [(name, value) for name, value in decoded if name in FIELDS and name not in query]
    fields += [(name, query[name]) for name in FIELDS if name in query]
    return ",".join(f"{name}={_encode(name, value)}" for name, value in fields)


def _encode(name: str, value: str) -> str:
    """A field's value as the header holds it: a number, or a station percent-encoded. Raises Refusal."""
    if name == "station":
        try:
            return quote(parse_station(value), safe="")
        except FieldError as error:
            raise Refusal(error.status, error.kind, str(error)) from error
    if not _NUMBER.fullmatch(value):
        raise Refusal(422, "BadField", f"{name} is {value!r:.60}; give one number")
    return value


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def to_response(status: int, content: object, headers: Mapping[str, str] | None = None) -> dict[str, object]:
    """The response in the form that API Gateway and function URLs expect."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": JSON, **(headers or {})},
        "isBase64Encoded": False,
        "body": json.dumps(content),
    }
