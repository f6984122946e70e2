"""From the body and headers of a request to photos and fields. Pure functions.

The formats of a request, as TorchServe passes them on:

    any type             the bytes of a JPEG or PNG
    string/url           a link to a photo in S3 (``serve/links.py``)
    application/json     {"uri": LINK} or {"image": BASE64}, or up to MAX_PHOTOS of them: [...] or {"instances": [...]}
    multipart/form-data  a part ``data``, ``body``, ``image`` (bytes) or ``uri`` (a link), and one part per field

A photo can be accompanied by the fields FIELDS. A field in the photo's JSON object overrides the query or the form,
which overrides the header X-Amzn-SageMaker-Custom-Attributes, where a station is percent-encoded (``dock%203``). A
field that is null in JSON counts as missing. One of RECORDS can be there, too, in the JSON object, or as JSON text in
the form: the record with its products (``serve/evidence/record.py``).
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from serve import links
from serve.errors import BodyError, FieldError, MediaTypeError, RequestError
from serve.evidence.fields import FIELDS, RECORDS, Fields, parse_fields

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
PROBE = "probe=1"
"""In the same header: a health check, whose answer is not captured where its photo is a known one."""
REPEATED = "X-Binwatch-Repeated"
"""A header that serve/torchserve/launch.py adds: names of fields that the request has more than once."""
MAX_PHOTOS = 32
"""Most photos in one request."""

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_MAX_INT_DIGITS = 20
_BODY_PARTS = ("body", "data", "image")
_ONE = 'give one photo, as {"uri": LINK} or {"image": BASE64}'


@dataclass(frozen=True)
class PhotoInput:
    """One photo of a request: its bytes or the link to it, and its fields."""

    photo: bytes | links.Link
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True)
class PredictionRequest:
    """The photos of a request, each with its own error where it cannot be used.

    ``listed``: whether the response must be a list; ``body``: the raw bytes, for the capture.
    """

    photos: tuple[PhotoInput | RequestError, ...]
    listed: bool = False
    content_type: str = ""
    attributes: str = ""
    body: bytes = b""

    @property
    def probe(self) -> bool:
        """Whether it claims to be a health check."""
        return PROBE in self.attributes.replace(" ", "").split(",")


@dataclass(frozen=True)
class _RepeatedName:
    """Stands for a JSON object in which a name appears twice."""

    name: str


def parse(parts: Mapping[str, bytes], headers: Mapping[str, object]) -> PredictionRequest:
    """Parse a request. Where all of it is unusable, its only photo is the error.

    ``parts``: body, parts of a form and query, by name; ``headers``: the HTTP headers, and for each part its own,
    ``{"content-type": ...}``, as TorchServe passes them.
    """
    content_type, attributes = _content_type(parts, headers), header(headers, ATTRIBUTES)
    photos: tuple[PhotoInput | RequestError, ...]
    listed = False
    try:
        _check(headers)
        shared = _shared_fields(parts, attributes)
        if content_type == "application/json" and (name := _body_part(parts)):
            photos, listed = _parse_json(parts[name], shared)
        else:
            photos = (PhotoInput(_single_photo(parts, content_type), parse_fields(shared)),)
    except RequestError as error:
        photos = (error,)
    body = bytes(parts.get(_body_part(parts) or "uri", b""))
    return PredictionRequest(photos, listed, content_type, attributes, body)


def _check(headers: Mapping[str, object]) -> None:
    """Raises RequestError for a type that the forms of web pages have, and for what is sent twice."""
    kind = header(headers, "content-type").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind == "application/x-www-form-urlencoded":
        raise MediaTypeError(
            f"the body's type is {kind[:100]!r}; send image/jpeg, image/png, application/octet-stream, "
            "application/json, string/url or multipart/form-data"
        )
    if repeated := header(headers, REPEATED):
        raise FieldError(f"the request has {repeated[:200]!r} more than once; give each once")


def _shared_fields(parts: Mapping[str, bytes], attributes: str) -> dict[str, object]:
    """The fields in the header, the form and the query; they apply to every photo of the request."""
    texts = {name: _decode_text(name, parts[name]) for name in FIELDS if name in parts}
    records = {name: _load_part(name, parts[name]) for name in RECORDS if name in parts}
    _check_names(records)
    return {**_fields_of_header(attributes), **texts, **records}


def _load_part(name: str, data: bytes) -> object:
    try:
        return _load_json(data)
    except BodyError as error:
        raise FieldError(f"the part {name} of the form is not valid: {error}") from error


def _content_type(parts: Mapping[str, bytes], headers: Mapping[str, object]) -> str:
    """The media type of the photo's part, else of the request; in lower case, without parameters."""
    part_headers = headers.get(_body_part(parts) or "")
    text = part_headers.get("content-type") if isinstance(part_headers, Mapping) else None
    return str(text or header(headers, "content-type")).partition(";")[0].strip().lower()


def media_type(data: bytes) -> str:
    """The media type of a JPEG or PNG, from its first bytes; empty for everything else."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")


def header(headers: Mapping[str, object], name: str) -> str:
    """A header, in whatever case its name is written. A part of a form with that name is a mapping, not a text."""
    return next((text for key, text in headers.items() if key.lower() == name.lower() and isinstance(text, str)), "")


def _fields_of_header(attributes: str) -> dict[str, str]:
    pairs = [pair.strip().partition("=")[::2] for pair in attributes.split(",")]
    names = [name.strip() for name, _ in pairs]
    fields = {name.strip(): value.strip() for name, value in pairs if name.strip() in FIELDS}
    for name in fields:
        if names.count(name) > 1:
            raise FieldError(f"the header {ATTRIBUTES} has {name} more than once; give it once")
    return fields | ({"station": unquote(fields["station"])} if "station" in fields else {})


def _body_part(parts: Mapping[str, bytes]) -> str | None:
    return next((name for name in _BODY_PARTS if name in parts), None)


def _single_photo(parts: Mapping[str, bytes], content_type: str) -> bytes | links.Link:
    """The photo of a request that is not JSON."""
    empty = [name for name in _BODY_PARTS if name in parts][:1]
    names = [name for name in (*_BODY_PARTS, "uri") if parts.get(name)] or empty
    if len(names) > 1:
        raise FieldError(f"the request has {' and '.join(names)}; send one photo, or several in a JSON list")
    if not names:
        raise FieldError(
            f"the request has no photo in its {len(parts)} parts; send its bytes as the body, "
            "or JSON with Content-Type: application/json"
        )
    data = bytes(parts[names[0]])
    is_link = "uri" in names or content_type == "string/url"
    return links.parse(_decode_text("the link", data)) if is_link else _checked_size(data)


def _parse_json(data: bytes, shared: Mapping[str, object]) -> tuple[tuple[PhotoInput | RequestError, ...], bool]:
    """The photos of a JSON body, and whether they are a list. Raises RequestError where all of it is unusable."""
    content = _load_json(data)
    listed = isinstance(content, list) or (isinstance(content, dict) and "instances" in content)
    if not listed:
        return (_photo_of_object(content, shared),), False
    if isinstance(content, dict) and content.keys() & {"uri", "image"}:
        raise FieldError("the body has instances and a photo beside them; put every photo into instances")
    entries = content["instances"] if isinstance(content, dict) else content
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_PHOTOS:
        size = f"{len(entries)} photos" if isinstance(entries, list) else f"{type(entries).__name__} as instances"
        raise FieldError(f"the body has {size}; send a list of 1 to {MAX_PHOTOS}")
    return tuple(_photo_or_error(entry, shared) for entry in entries), True


def _photo_or_error(entry: object, shared: Mapping[str, object]) -> PhotoInput | RequestError:
    try:
        return _photo_of_object(entry, shared)
    except RequestError as error:
        return error


def _load_json(data: bytes) -> object:
    try:
        return json.loads(bytes(data), object_pairs_hook=_unique_names, parse_int=_bounded_int)
    except RecursionError as error:
        raise FieldError(f"the JSON body is nested too deeply; {_ONE}") from error
    except ValueError as error:  # UnicodeDecodeError is one too
        raise BodyError(f"the body of {len(data)} bytes is not JSON: {str(error)[:200]}; send JSON in UTF-8") from error


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object] | _RepeatedName:
    """One JSON object. A repeated name invalidates only this object, not the list that it is in."""
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    names = [name for name, _ in pairs]
    return _RepeatedName(next(name for name in names if names.count(name) > 1))


def _bounded_int(digits: str) -> int | float:
    """A JSON integer; infinity for one that is too long, because Python refuses to convert thousands of digits."""
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else math.inf


def _photo_of_object(content: object, shared: Mapping[str, object]) -> PhotoInput:
    """One photo from its JSON object, with its own fields over the ``shared`` ones."""
    if isinstance(content, _RepeatedName):
        raise FieldError(f"{content.name[:100]!r} appears twice; give it once")
    if not isinstance(content, dict):
        raise FieldError(f"a photo is given as {type(content).__name__}; {_ONE}")
    sources = {name: content[name] for name in ("uri", "image") if content.get(name) is not None}
    if len(sources) != 1:
        raise FieldError(f"a photo has {' and '.join(sources) or 'neither uri nor image'}; {_ONE}")
    ((name, value),) = sources.items()
    if not isinstance(value, str):
        raise FieldError(f"{name} is {type(value).__name__}, not text; {_ONE}")
    photo = links.parse(value) if name == "uri" else _decode_base64(value)
    own = {name: content[name] for name in (*FIELDS, *RECORDS) if content.get(name) is not None}
    _check_names({name: own[name] for name in RECORDS if name in own})
    return PhotoInput(photo, parse_fields({**shared, **own}))


def _check_names(records: Mapping[str, object]) -> None:
    """Raises FieldError where any object in a record has a name twice."""
    waiting = list(records.values())
    while waiting:
        content = waiting.pop()
        if isinstance(content, _RepeatedName):
            raise FieldError(f"{content.name[:100]!r} appears twice in {' and '.join(records)}; give it once")
        if isinstance(content, dict | list):
            waiting.extend(content.values() if isinstance(content, dict) else content)


def _decode_base64(text: str) -> bytes:
    try:
        return _checked_size(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        problem = f"image of {len(text)} characters starting with {text[:12]!r} is not base64: {error}"
        raise FieldError(
            f"{problem}; send the photo's bytes in base64, without line breaks or a data: address"
        ) from error


def _checked_size(data: bytes) -> bytes:
    if len(data) > links.MAX_BYTES:
        raise links.too_large_error("the photo", len(data))
    return data


def _decode_text(name: str, data: bytes) -> str:
    try:
        return bytes(data).decode().strip()
    except UnicodeDecodeError as error:
        raise FieldError(f"{name} is not text in UTF-8: {bytes(data[:20])!r}") from error
