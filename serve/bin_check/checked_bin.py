"""What an answer says of one bin, as the journal stores it."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from serve.bin_check.bin_records import ListedBin
from serve.recount.count_names import is_open, name_of
from serve.recount.ranking import Judged


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedBin:
    """A bin that was checked, or ``problem``: why it could not be.

    ``photo``: its address; ``recorded``: quantity; ``seen``: the most probable count, with ``seen_open`` also any
    larger one; ``p_value``: of the recorded quantity (0-1), None where the model does not know it, or the photo shows
    no bin; ``calibration_photos``: how many it was ranked among; ``scores``: a name that bins share which are ranked
    among the same ones; ``probability``: that the record is right, by the model itself; ``model``: the version that
    answered; ``moment``: ISO 8601, UTC.
    """

    bin_id: str
    photo: str = ""
    problem: str = ""
    recorded: int = 0
    seen: int | None = None
    seen_open: bool = False
    expected_count: float | None = None
    p_value: float | None = None
    calibration_photos: int | None = None
    scores: str = ""
    probability: float | None = None
    verdict: str = ""
    evidence: str = ""
    reason: str = ""
    model: str = ""
    event_id: str = ""
    moment: str = ""

    @property
    def judged(self) -> Judged | None:
        """What the ranking needs; None where nothing can be said of the record."""
        if self.p_value is None or self.calibration_photos == 0:
            return None
        return Judged(
            p_value=self.p_value,
            calibration_photos=self.calibration_photos,
            scores=self.scores,
            probability=1.0 if self.probability is None else self.probability,
        )


def from_answer(item: ListedBin, photo: str, answer: Mapping[str, object], model: str, moment: str) -> CheckedBin:
    """The bin of an answer with a verdict. Raises KeyError, TypeError and ValueError for an answer of another shape."""
    fits, seen = answer["fit"], int(str(answer["count"]))
    if not isinstance(fits, Mapping):
        raise TypeError(f"fit is {type(fits).__name__}")
    name = name_of(item.record.quantity, fits)
    counted = name in fits and answer.get("not_a_bin") is not True
    evidence, photos = str(answer.get("evidence", "")), answer.get("calibration_photos")
    return CheckedBin(
        bin_id=item.bin_id,
        photo=photo,
        recorded=item.record.quantity,
        seen=seen,
        seen_open=is_open(name_of(seen, fits)),
        expected_count=_number(answer.get("expected_count")),
        p_value=_number(fits[name]) if counted else None,
        calibration_photos=photos if isinstance(photos, int) else None,
        scores=f"{name} {evidence}",
        probability=_number(answer.get("probability")),
        verdict=str(answer["verdict"]),
        evidence=evidence,
        reason=str(answer["reason"]),
        model=model,
        event_id=str(answer.get("event_id") or uuid.uuid4()),
        moment=moment,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
