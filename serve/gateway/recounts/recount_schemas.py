"""The JSON of the routes below /recounts, for the OpenAPI document and the web page."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from serve.evidence.record import parse_products
from serve.gateway.records.bin_record import BinRecord
from serve.gateway.records.record_fields import Strict
from serve.gateway.schemas import MAX_QUANTITY, RecordedContent
from serve.recount.recount_entities import Candidate, Outcome, Recount
from serve.recount.recount_progress import Progress


class WaitingBin(BaseModel):
    """A bin to recount. What the model saw is not in it: it would bias the person who counts."""

    event_id: str
    bin_id: str = Field(description="empty if unknown")
    station: str = Field(description="empty if unknown")
    seen_at: str = Field(description="ISO 8601, UTC")
    record: RecordedContent = Field(description="what the bin should hold")
    link: str = Field(description="the photo's address, where it was sent as a link; empty if the photo is stored here")


class NextBin(BaseModel):
    """The next bin for a client."""

    bin: WaitingBin | None = Field(description="null if none is left, or others count those that are")
    pending: int = Field(description="bins of this selection that wait, with those that others count at the moment")


class RecountInput(Strict):
    """What a person found."""

    outcome: Literal["count", "cannot_tell", "bad_photo"]
    count: int | None = Field(default=None, ge=0, le=MAX_QUANTITY, description="with the outcome count, and only then")

    @model_validator(mode="after")
    def _a_count_with_the_outcome_count(self) -> Self:
        if (self.outcome == "count") != (self.count is not None):
            raise ValueError("give a count with the outcome count, and with no other")
        return self


class SettledBin(WaitingBin):
    """A settled bin: what the person found, and now also what the model saw."""

    outcome: Outcome
    count: int | None
    settled_by: str = Field(description="name of the API key, empty on loopback")
    settled_at: str = Field(description="ISO 8601, UTC")
    predicted_count: int | None = Field(description="the model's most probable count")
    expected_count: float | None = Field(description="the model's mean count")
    verdict: str
    reason: str
    model_version: str
    random: bool = Field(description="whether it counts for what is measured on the random share")


class Share(BaseModel):
    """A measured share (0-1) with its 95 % interval; null if nothing was measured."""

    share: float | None
    low: float | None
    high: float | None
    total: int = Field(description="bins that it was measured on")


class RecountProgress(BaseModel):
    """How far the recounts are."""

    pending: int = Field(description="bins that wait")
    pending_random: int = Field(description="those of the random share")
    outcomes: dict[str, int] = Field(description="settled bins by outcome")
    wrong: int = Field(description="records that were wrong, of all that were counted")
    expected_wrong: float = Field(description="how many of expected_of counted records were expected to be wrong")
    expected_of: int
    base_rate: float = Field(description="expected share of wrong records among all bins, 0-1; 2 % until recounts tell")
    wrong_share: Share = Field(description="of wrong records, in the random share")
    accuracy: Share = Field(description="of the model's counts, in the random share")
    stations: dict[str, int] = Field(description="bins that wait, by station")
    days: dict[str, int] = Field(description="bins that wait, by day in UTC")


def waiting_bin(candidate: Candidate) -> dict[str, object]:
    """The JSON of WaitingBin."""
    record: dict[str, object] = {"quantity": candidate.recorded_quantity, "products": []}
    if candidate.products:
        record = BinRecord(parse_products(list(candidate.products)), {}).to_json()
    names = ("event_id", "bin_id", "station", "seen_at", "link")
    return {**{name: getattr(candidate, name) for name in names}, "record": record}


def settled_bin(recount: Recount) -> dict[str, object]:
    """The JSON of SettledBin."""
    names = SettledBin.model_fields.keys() - WaitingBin.model_fields.keys()
    return {**waiting_bin(recount), **{name: getattr(recount, name) for name in sorted(names)}}


def progress_json(progress: Progress) -> dict[str, object]:
    """The JSON of RecountProgress."""
    return RecountProgress.model_validate(progress, from_attributes=True).model_dump()
