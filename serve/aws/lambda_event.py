"""What a Lambda is called with -> the question for the model, and the answer in the form that the caller wants. Pure.

    {"url": LINK}                    the report's payload; also {"uri": LINK} and {"image": BASE64}, with fields beside
    API Gateway's REST API           events of version 1.0: ``httpMethod``, ``headers``, ``body``
    API Gateway's HTTP API           events of version 2.0, which function URLs send too

The body of an HTTP request has the forms of ``serve/payload.py`` but the multipart one; ``url`` is another name of
``uri`` in it.
https://docs.aws.amazon.com/lambda/latest/dg/services-apigateway.html#apigateway-example-event
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.gateway.refusal import Refusal
from serve.payload import ATTRIBUTES, FIELDS

JSON = "application/json"
_PLAIN = re.compile(r"[\w.+-]{1,40}", re.ASCII)
"""What a field's value may be: one with a comma would be several attributes."""


@dataclass(frozen=True)
class Question:
    """A request to the model: the photo, or JSON that holds or names it. ``attributes``: of SageMaker's header."""

    body: bytes
    content_type: str
    attributes: str = ""


def question(event: Any) -> Question:
    """What an event asks. Raises Refusal."""
    if not isinstance(event, dict):
        raise Refusal(422, "BadField", f'the event is {type(event).__name__}; send an object, as {{"url": LINK}}')
    context = event.get("requestContext") or {}
    method = event.get("httpMethod") or (context.get("http") or {}).get("method")
    if method is None:
        return Question(_named(json.dumps(event).encode()), JSON)
    if method != "POST":
        raise Refusal(405, "MethodNotAllowed", f"{method} asks nothing here; POST a photo", {"Allow": "POST"})
    return _of_http(event, _lower(event.get("headers") or {}))


def _of_http(event: Mapping[str, Any], headers: Mapping[str, str]) -> Question:
    body = _body(event)
    kind = headers.get("content-type") or ("application/octet-stream" if event.get("isBase64Encoded") else JSON)
    named = kind.partition(";")[0].strip().lower()
    if named.startswith("multipart/"):
        raise Refusal(415, "UnsupportedMediaType", f"the body is {named!r:.100}; send the photo's bytes, or {JSON}")
    return Question(_named(body) if named == JSON else body, kind, _attributes(headers, _query(event)))


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body).encode()
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Refusal(400, "BadBody", f"the event's body is no base64, as it says: {error}") from error


def _named(body: bytes) -> bytes:
    """JSON with the report's ``url`` as ``uri``; what is no such object is left for the model's server to refuse."""
    try:
        content = json.loads(body, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        return body
    if not isinstance(content, dict) or "url" not in content or "uri" in content:
        return body
    return json.dumps({"uri": content.pop("url"), **content}).encode()


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _query(event: Mapping[str, Any]) -> dict[str, str]:
    """The query's values; one that is there twice with a comma, as version 2.0 has it."""
    several = event.get("multiValueQueryStringParameters") or {}
    return {**(event.get("queryStringParameters") or {}), **{key: ",".join(each) for key, each in several.items()}}


def _attributes(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The fields beside the photo, for SageMaker's header. What the query says goes before the header."""
    pairs = [each.strip().partition("=")[::2] for each in headers.get(ATTRIBUTES.lower(), "").split(",")]
    given = [(name, value) for name, value in pairs if name in FIELDS and name not in query]
    given += [(name, query[name]) for name in FIELDS if name in query]
    for name, value in given:
        if not _PLAIN.fullmatch(value):
            raise Refusal(422, "BadField", f"{name} is {value!r:.60}; give one number")
    return ",".join(f"{name}={value}" for name, value in given)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def response(status: int, content: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An answer as API Gateway and function URLs take it, and as the report's Lambda gave it: status and body."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": JSON, **(headers or {})},
        "isBase64Encoded": False,
        "body": json.dumps(content),
    }
