"""A bin that waits for its recount, and a bin that was recounted; both as they are stored in JSON.

    BINWATCH_RECOUNTS/queue/<event_id>.json       a Candidate       beside it <event_id>.jpg
    BINWATCH_RECOUNTS/settled/<event_id>.json     a Recount         with every outcome
    BINWATCH_RECOUNTS/metadata/<event_id>.json    {"EXPECTED_QUANTITY", "BIN_FCSKU_DATA", "binwatch": a Recount}
    BINWATCH_RECOUNTS/bin-images/<event_id>.jpg   the photo that belongs to the metadata

Readers ignore fields that they do not know; fields that are missing have their defaults.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from serve.errors import DataError

BLOCK = "binwatch"
"""The name of a Recount in the metadata of the dataset's layout."""
EVENT_ID = "^[A-Za-z0-9_-]{1,64}$"
"""Event ids, which are UUIDs where the gateway makes them; they are file names here."""


class Outcome(StrEnum):
    """How a recount ended."""

    COUNT = "count"
    CANNOT_TELL = "cannot_tell"
    BAD_PHOTO = "bad_photo"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A photo that was compared with its record, as the answer of ``/verify`` said.

    ``bin_id``, ``station``: empty where unknown; ``seen_at``: ISO 8601, UTC; ``recorded_quantity``: of the record;
    ``products``: of the record, as ``serve.evidence.record.parse_products`` reads them; ``p_value``: the answer's
    ``fit`` of the recorded quantity (0-1); ``calibration_photos``: how many the p-value was ranked among;
    ``probability_recorded``: of the recorded quantity by the model alone; ``probability_wrong``: calibrated probability
    that the record is wrong. All of them are None where the answer does not say them.
    ``alarm``: whether the verdict was a mismatch; ``random``: whether the event is in the random share, with or without
    an alarm; ``predicted_count``, ``confidence``, ``expected_count``: the answer's most probable count, the probability
    of it, and the mean of all counts; ``predicted_open``: whether the first also stands for all larger counts;
    ``link``: the photo's address in S3, where it was sent as a link.
    """

    event_id: str
    seen_at: str
    recorded_quantity: int
    bin_id: str = ""
    station: str = ""
    products: tuple[Mapping[str, object], ...] = field(default=())
    p_value: float | None = None
    calibration_photos: int | None = None
    probability_recorded: float | None = None
    probability_wrong: float | None = None
    alarm: bool = False
    random: bool = False
    model_version: str = ""
    predicted_count: int | None = None
    predicted_open: bool = False
    confidence: float | None = None
    expected_count: float | None = None
    verdict: str = ""
    reason: str = ""
    evidence: str = ""
    link: str = ""

    @property
    def day(self) -> str:
        """The day in UTC, yyyy-mm-dd."""
        return self.seen_at[:10]


@dataclass(frozen=True, kw_only=True)
class Recount(Candidate):
    """A settled bin.

    ``count``: what the person counted, None unless the outcome is a count; ``settled_by``: the name of the API key,
    empty on loopback; ``settled_at``: ISO 8601, UTC.
    """

    outcome: Outcome
    settled_at: str
    count: int | None = None
    settled_by: str = ""

    @property
    def record_was_right(self) -> bool | None:
        """Whether the record was right; None if nobody could count."""
        return None if self.count is None else self.count == self.recorded_quantity

    @property
    def answer_was_right(self) -> bool:
        """Whether the most probable count was what the person counted."""
        if self.predicted_count is None or self.count is None:
            return False
        return self.count == self.predicted_count or (self.predicted_open and self.count > self.predicted_count)

    def is_false_alarm(self, alpha: float) -> bool | None:
        """Whether the record was right and raised the alarm all the same, None where the promise does not cover it.

        It covers right records with a p-value; an alarm by a weight alone is not one of it.
        """
        if not self.record_was_right or self.p_value is None:
            return None
        return self.alarm and self.p_value <= alpha

    def to_metadata(self) -> dict[str, object]:
        """The record in the dataset's format: with its products where it was right, since only then they are."""
        products = self.products if self.record_was_right else ()
        return {
            "EXPECTED_QUANTITY": self.count,
            "BIN_FCSKU_DATA": {
                str(product.get("id") or f"{self.event_id}-{number}"): dict(product)
                for number, product in enumerate(products, 1)
            },
            BLOCK: to_json(self),
        }


Stored = TypeVar("Stored", Candidate, Recount)
_CANDIDATE, _RECOUNT = TypeAdapter(Candidate), TypeAdapter(Recount)


def to_json(entity: Candidate) -> dict[str, object]:
    """A Candidate or a Recount as a JSON object."""
    return asdict(entity)


def settle(candidate: Candidate, outcome: Outcome, count: int | None, settled_by: str, now: datetime) -> Recount:
    """The recount of a candidate: what a person found, who, and when (a moment in UTC)."""
    settled = {"outcome": outcome, "count": count, "settled_by": settled_by, "settled_at": utc_text(now)}
    return _RECOUNT.validate_python({**to_json(candidate), **settled})


def reopen(recount: Recount) -> Candidate:
    """The candidate that a recount was."""
    return _CANDIDATE.validate_python(to_json(recount))


def utc_text(moment: datetime) -> str:
    """A moment, which has a time zone UTC, as it is stored: ISO 8601 with Z."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_candidate(place: str, content: bytes) -> Candidate:
    """The candidate in an object of ``queue/``. ``place``: of it, for the message of the DataError that this raises."""
    return _parse(place, content, _CANDIDATE, "")


def parse_recount(place: str, content: bytes) -> Recount:
    """The recount in an object of ``settled/`` or ``metadata/``. Raises DataError."""
    return _parse(place, content, _RECOUNT, BLOCK)


def _parse(place: str, text: bytes, adapter: TypeAdapter[Stored], block: str) -> Stored:
    try:
        content = json.loads(text)
        return adapter.validate_python(content.get(block, content) if isinstance(content, dict) else content)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])) or "the content"
        reason = f"{name} is {problem.get('input')!r:.60}: {problem['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise DataError(f"{place} cannot be read: {reason}; correct or remove it")
