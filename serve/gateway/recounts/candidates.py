"""An answer of ``/verify`` as a candidate for a recount. Pure."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import datetime

from serve.capture_record import is_sampled
from serve.errors import FieldError
from serve.evidence.fields import RECORDS
from serve.gateway.parsing import JSON, ModelRequest
from serve.gateway.records.record_fields import present_fields
from serve.recount.base_rate import probability_wrong
from serve.recount.count_names import is_open, name_of
from serve.recount.recount_entities import EVENT_ID, Candidate, utc_text
from serve.verdict import VerdictKind

FINE = 9_999
"""Calibration photos, where an old archive does not say how many there were: its p-values have four digits."""


def to_candidate(
    request: ModelRequest,
    answer: Mapping[str, object],
    *,
    bin_id: str,
    random_share: float,
    base_rate: float,
    now: datetime,
) -> Candidate | None:
    """The candidate that an answer makes: a mismatch, or one of the random share; None for all others.

    ``bin_id``: empty where the request names none; ``base_rate``: the share of records that are wrong (0-1).
    """
    event_id, quantity = answer.get("event_id"), answer.get("expected_quantity")
    if not isinstance(event_id, str) or not re.fullmatch(EVENT_ID, event_id) or not isinstance(quantity, int):
        return None
    alarm, random = answer.get("verdict") == VerdictKind.MISMATCH, is_sampled(event_id, random_share)
    if not alarm and not random:
        return None
    p_value, photos = _of_count(answer.get("fit"), quantity), answer.get("calibration_photos")
    calibration_photos = photos if isinstance(photos, int) else None
    count, probabilities = answer.get("count"), answer.get("probabilities")
    return Candidate(
        event_id=event_id,
        bin_id=bin_id,
        station=request.fields.station or "",
        seen_at=utc_text(now),
        recorded_quantity=quantity,
        products=_products(request),
        p_value=p_value,
        calibration_photos=calibration_photos,
        probability_recorded=_number(answer.get("probability")),
        probability_wrong=_probability_wrong(p_value, calibration_photos, base_rate),
        alarm=alarm,
        random=random,
        model_version=str(answer.get("model_version", "")),
        predicted_count=count if isinstance(count, int) else None,
        predicted_open=isinstance(count, int) and is_open(_name_of(probabilities, count)),
        confidence=_of_count(probabilities, count) if isinstance(count, int) else None,
        expected_count=_number(answer.get("expected_count")),
        verdict=str(answer.get("verdict", "")),
        reason=str(answer.get("reason", "")),
        evidence=str(answer.get("evidence", "")),
        link=str(_json_body(request).get("uri", "")),
    )


def photo_of(request: ModelRequest) -> bytes:
    """The photo of a request; empty where it was sent as a link, which the gateway does not read."""
    if request.content_type != JSON:
        return request.body
    try:
        return base64.b64decode(str(_json_body(request).get("image", "")))
    except (binascii.Error, ValueError):
        return b""


def _json_body(request: ModelRequest) -> dict[str, object]:
    content = json.loads(request.body) if request.content_type == JSON else {}
    return content if isinstance(content, dict) else {}


def _of_count(numbers: object, count: int) -> float | None:
    """What the answer says of a count, in ``fit`` or ``probabilities``."""
    return _number(numbers.get(_name_of(numbers, count))) if isinstance(numbers, Mapping) else None


def _name_of(numbers: object, count: int) -> str:
    return name_of(count, numbers if isinstance(numbers, Mapping) else ())


def _products(request: ModelRequest) -> tuple[Mapping[str, object], ...]:
    content = present_fields(request.fields)
    names = [name for name in RECORDS if name in content]
    try:
        return tuple(RECORDS[names[0]](content[names[0]]).to_products()) if names else ()
    except FieldError:
        return ()


def _probability_wrong(p_value: float | None, calibration_photos: int | None, base_rate: float) -> float | None:
    if p_value is None:
        return None
    return round(probability_wrong(p_value, calibration_photos or FINE, base_rate), 6)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
