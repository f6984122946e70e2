"""From a request's body and headers to photos and fields. Pure; it travels in every archive.

The forms of a request, as TorchServe hands them over:

    any type             the bytes of a JPEG or PNG
    string/url           a link to a photo in S3 (``serve/links.py``)
    application/json     {"uri": LINK} or {"image": BASE64}, or up to MAX_PHOTOS of them: [...] or {"instances": [...]}
    multipart/form-data  a part ``data``, ``body``, ``image`` (bytes) or ``uri`` (a link), and a part a field

Beside a photo stand the fields FIELDS. A field of the photo's JSON object wins over the query or the form,
and that over the header X-Amzn-SageMaker-Custom-Attributes. A field that is null in JSON counts as not sent.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve import links, verdict
from serve.errors import BodyError, FieldError, RequestError

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
FIELDS = ("expected_quantity", "weight", "expected_weight")
PROBE = "probe=1"
"""In the same header: asked to see whether the model answers, so it is no answer to record."""
MAX_PHOTOS = 32
"""Most photos of one request."""

_STARTS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_DIGITS = 20
_DATA = ("body", "data", "image")
_ONE = 'give one photo, as {"uri": LINK} or {"image": BASE64}'


@dataclass(frozen=True)
class Fields:
    """What was said of a photo: the recorded quantity, 0-99999; measured and recorded weight, above 0, in one unit."""

    expected_quantity: int | None = None
    weight: float | None = None
    expected_weight: float | None = None


@dataclass(frozen=True)
class Asked:
    """One photo asked about: its bytes, or the link to it."""

    photo: bytes | links.Link
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True)
class PredictionRequest:
    """The photos of a request, each with its own reason where it cannot be used; ``listed``: a list is the answer."""

    photos: tuple[Asked | RequestError, ...]
    listed: bool = False
    content_type: str = ""
    attributes: str = ""
    body: bytes = b""

    @property
    def probe(self) -> bool:
        """Whether nobody wants the answer."""
        return PROBE in self.attributes.replace(" ", "").split(",")


@dataclass(frozen=True)
class _Repeated:
    """A JSON object that names something twice."""

    name: str


def parse(parts: Mapping[str, bytes], headers: Mapping[str, Any]) -> PredictionRequest:
    """Read a request; where all of it is unusable, it has one photo, the reason.

    ``parts``: body, form and query, each by its name; ``headers``: those of HTTP, and for each part its own,
    ``{"content-type": ...}``, as TorchServe has them.
    """
    kind, attributes = _content_type(parts, headers), _header(headers, ATTRIBUTES)
    listed = False
    try:
        given = _given(parts, attributes)
        if kind == "application/json" and (name := _sent(parts)):
            photos, listed = _of_json(parts[name], given)
        else:
            photos = (Asked(_photo(parts, kind), _fields(given)),)
    except RequestError as error:
        photos = (error,)
    return PredictionRequest(photos, listed, kind, attributes, bytes(parts.get(_sent(parts) or "uri", b"")))


def _given(parts: Mapping[str, bytes], attributes: str) -> dict[str, str]:
    """The fields beside the body, as they were sent."""
    return {**_of_attributes(attributes), **{name: _text(name, parts[name]) for name in FIELDS if name in parts}}


def _content_type(parts: Mapping[str, bytes], headers: Mapping[str, Any]) -> str:
    """The media type of the photo's part, of the request without one; in lower case, without parameters."""
    own = headers.get(_sent(parts) or "")
    kind = own.get("content-type") if isinstance(own, Mapping) else None
    return str(kind or _header(headers, "content-type")).partition(";")[0].strip().lower()


def media_type(data: bytes) -> str:
    """What the first bytes of a photo say that it is; empty where it is neither JPEG nor PNG."""
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), "")


def _header(headers: Mapping[str, Any], name: str) -> str:
    """A header, whose name may be written in any case. A part of a form may bear its name, but is no text."""
    return next((text for each, text in headers.items() if each.lower() == name.lower() and isinstance(text, str)), "")


def _of_attributes(text: str) -> dict[str, str]:
    pairs = [each.strip().partition("=")[::2] for each in text.split(",")]
    given = {name.strip(): value.strip() for name, value in pairs if name.strip() in FIELDS}
    for name in given:
        if sum(each.strip() == name for each, _ in pairs) > 1:
            raise FieldError(f"the header {ATTRIBUTES} has {name} more than once; give it once")
    return given


def _sent(parts: Mapping[str, bytes]) -> str | None:
    return next((name for name in _DATA if name in parts), None)


def _photo(parts: Mapping[str, bytes], kind: str) -> bytes | links.Link:
    """The one photo of a request that is no JSON."""
    sent = [name for name in (*_DATA, "uri") if parts.get(name)] or [name for name in _DATA if name in parts][:1]
    if len(sent) > 1:
        raise FieldError(f"the request has {' and '.join(sent)}; send one photo, or several in a JSON list")
    if not sent:
        raise FieldError(
            f"the request has no photo but {sorted(parts)!r:.100}; send its bytes as the body, "
            "or JSON with Content-Type: application/json"
        )
    data = bytes(parts[sent[0]])
    return links.parse(_text("the link", data)) if "uri" in sent or kind == "string/url" else _sized(data)


def _of_json(data: bytes, given: Mapping[str, Any]) -> tuple[tuple[Asked | RequestError, ...], bool]:
    """The photos of a JSON body, and whether it lists them. Raises RequestError where all of it is unusable."""
    content = _loaded(data)
    listed = isinstance(content, list) or (isinstance(content, dict) and "instances" in content)
    if not listed:
        return (_object(content, given),), False
    if isinstance(content, dict) and content.keys() & {"uri", "image"}:
        raise FieldError("the body has instances and a photo beside them; put every photo into instances")
    entries = content["instances"] if isinstance(content, dict) else content
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_PHOTOS:
        shown = f"{len(entries)} photos" if isinstance(entries, list) else f"{type(entries).__name__} as instances"
        raise FieldError(f"the body has {shown}; send a list of 1 to {MAX_PHOTOS}")
    return tuple(_each(entry, given) for entry in entries), True


def _each(entry: Any, given: Mapping[str, Any]) -> Asked | RequestError:
    try:
        return _object(entry, given)
    except RequestError as error:
        return error


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(bytes(data), object_pairs_hook=_unrepeated, parse_int=_integer)
    except RecursionError as error:
        raise FieldError(f"the JSON body is nested too deeply; {_ONE}") from error
    except ValueError as error:  # UnicodeDecodeError is one too
        raise BodyError(f"the body of {len(data)} bytes is no JSON: {str(error)[:200]}; send JSON in UTF-8") from error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    """One object; a repeated name spoils it alone, not the list that it is in."""
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    names = [name for name, _ in pairs]
    return _Repeated(next(name for name in names if names.count(name) > 1))


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else math.inf


def _object(content: Any, given: Mapping[str, Any]) -> Asked:
    if isinstance(content, _Repeated):
        raise FieldError(f"{content.name[:100]!r} is there twice; give it once")
    if not isinstance(content, dict):
        raise FieldError(f"a photo is given as {type(content).__name__}; {_ONE}")
    sent = {name: content[name] for name in ("uri", "image") if content.get(name) is not None}
    if len(sent) != 1:
        raise FieldError(f"a photo has {' and '.join(sent) or 'neither uri nor image'}; {_ONE}")
    ((name, value),) = sent.items()
    if not isinstance(value, str):
        raise FieldError(f"{name} is {type(value).__name__}, not text; {_ONE}")
    photo = links.parse(value) if name == "uri" else _decoded(value)
    own = {name: content[name] for name in FIELDS if content.get(name) is not None}
    return Asked(photo, _fields({**given, **own}))


def _decoded(text: str) -> bytes:
    try:
        return _sized(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        reason = f"image of {len(text)} characters starting with {text[:12]!r} is no base64: {error}"
        raise FieldError(
            f"{reason}; send the photo's bytes in base64, without line breaks or a data: address"
        ) from error


def _sized(data: bytes) -> bytes:
    if len(data) > links.MAX_BYTES:
        raise links.too_large("the photo", len(data))
    return data


def _text(name: str, data: bytes) -> str:
    try:
        return bytes(data).decode().strip()
    except UnicodeDecodeError as error:
        raise FieldError(f"{name} is no text in UTF-8: {bytes(data[:20])!r}") from error


def _fields(given: Mapping[str, Any]) -> Fields:
    """The fields beside a photo. Raises FieldError, also for one weight without the other."""
    quantity, weights = given.get("expected_quantity"), [name for name in FIELDS[1:] if name in given]
    if len(weights) == 1:
        raise FieldError(f"{weights[0]} is there alone; give weight and expected_weight, or neither")
    return Fields(
        None if quantity is None else _quantity(quantity),
        *(_weight(name, given[name]) for name in weights),
    )


def _quantity(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise FieldError(f"expected_quantity is {value!r:.20}; give a whole number from 0 to 99999")
    return verdict.quantity(str(value))


def _weight(name: str, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise FieldError(f"{name} is {value!r:.20}; give a number above 0")
    return weight
