"""Challenger and champion on each count: accuracy, F1, and how often chance alone gives such a loss. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluation.paired import Pairs, exact_p


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One count: its test photos, both models' accuracies on them and their F1 scores (0-1).

    ``p_value``: how often chance alone gives such a loss of accuracy on this count.
    """

    name: str
    photos: int
    challenger: float
    champion: float
    challenger_f1: float
    champion_f1: float
    p_value: float

    @property
    def loss(self) -> float:
        """Accuracy that the challenger has lost, -1 to 1."""
        return self.champion - self.challenger

    @property
    def guarded_loss(self) -> float:
        """The loss of accuracy or of F1, whichever is less.

        A model that always answers 3 is always right on 3; one that learns to tell 3 from 4 loses accuracy on 3 and
        gains F1.
        """
        return min(self.loss, self.champion_f1 - self.challenger_f1)


def compare_classes(pairs: Pairs, names: Sequence[str], values: Sequence[int]) -> tuple[ClassResult, ...]:
    """The results on each count that has test photos."""
    results = []
    for name, value in zip(names, values, strict=True):
        members = pairs.recorded == value
        photos = int(members.sum())
        if not photos:
            continue
        hits, answers = pairs.right[:, members].sum(axis=1), (pairs.predicted == value).sum(axis=1)
        lost = pairs.right[1, members].astype(int) - pairs.right[0, members]
        accuracies, f1_scores = hits / photos, 2 * hits / (answers + photos)
        results.append(
            ClassResult(
                name=name,
                photos=photos,
                challenger=float(accuracies[0]),
                champion=float(accuracies[1]),
                challenger_f1=float(f1_scores[0]),
                champion_f1=float(f1_scores[1]),
                p_value=exact_p(lost, pairs.bins[members]),
            )
        )
    return tuple(results)
