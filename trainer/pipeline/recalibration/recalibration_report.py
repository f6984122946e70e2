"""The result of a recalibration, for people and programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from trainer.evaluation.recalibration import CountScores, Recalibration


class RecalibrationStatus(StrEnum):
    """How a recalibration ended; NOTHING: no count has enough recounts; PLANNED: what a dry run would do."""

    NOTHING = "nothing"
    PLANNED = "planned"
    REFUSED = "refused"
    APPROVED = "approved"
    PROMOTED = "promoted"


@dataclass(frozen=True, kw_only=True)
class RecalibrationReport:
    """The result. ``version``: the new one, empty where none was registered; ``left_out``: recounts, by the reason."""

    status: RecalibrationStatus
    version: str
    reasons: tuple[str, ...]
    recalibration: Recalibration
    left_out: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """For ``--json``."""
        return asdict(self)

    def in_words(self) -> str:
        """The result, the counts, and the recounts that could not be used, a line each."""
        name = f" version {self.version}" if self.version else ""
        lines = [f"{self.status}{name}: {'; '.join(self.reasons)}"]
        lines += _count_lines("by the photo", self.recalibration.photo)
        lines += _count_lines("with products", self.recalibration.products)
        lines += [f"  form {text}: left out" for text in self.recalibration.left_out]
        lines += [f"  {number} recounts left out: {reason}" for reason, number in self.left_out.items()]
        return "\n".join(lines)


def _count_lines(kind: str, counts: Sequence[CountScores]) -> list[str]:
    return [
        f"  count {count.name} {kind}: {count.recounts} recounts "
        + (f"replace {count.old} scores" if count.replaced else f"are too few, {count.old} scores stay")
        for count in counts
    ]
