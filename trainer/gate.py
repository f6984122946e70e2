"""The gate: is the challenger better than the champion? Pure: values in, a Decision out."""

from dataclasses import asdict, dataclass
from typing import Any

from trainer.evaluate import Evaluation

UNDEPLOYED_ACCURACY = 0.1
"""What a first challenger is compared with: the accuracy that counts as deployed when nothing is."""


@dataclass(frozen=True)
class Decision:
    """Whether to promote, why, and the accuracies (0-1) that it rests on."""

    promote: bool
    reasons: tuple[str, ...]
    challenger_accuracy: float
    champion_accuracy: float

    def to_json(self) -> dict[str, Any]:
        """For MLflow and ``--json``."""
        return asdict(self)


def decide(challenger: Evaluation, champion: Evaluation | None) -> Decision:
    """Promote exactly when the challenger's test accuracy is greater than the champion's.

    Two evaluations on different photos, or of different counts, are never compared: refused.
    """
    deployed = champion.accuracy if champion else UNDEPLOYED_ACCURACY
    incomparable = _incomparable(challenger, champion) if champion else None
    if incomparable:
        return Decision(False, (incomparable,), challenger.accuracy, deployed)
    better = challenger.accuracy > deployed
    against = f"the champion's {deployed:.1%}" if champion else f"{deployed:.0%}, which stands for no champion"
    reason = (
        f"the challenger's accuracy {challenger.accuracy:.1%} on {challenger.photos} test photos "
        f"is {'greater' if better else 'not greater'} than {against}"
    )
    return Decision(better, (reason,), challenger.accuracy, deployed)


def _incomparable(challenger: Evaluation, champion: Evaluation) -> str | None:
    if challenger.fingerprint != champion.fingerprint:
        return (
            f"challenger and champion were evaluated on different photos ({challenger.fingerprint[:12]} and "
            f"{champion.fingerprint[:12]}); evaluate both on the same ones"
        )
    if challenger.classes != champion.classes:
        return f"the challenger tells {challenger.classes} apart, the champion {champion.classes}"
    return None
