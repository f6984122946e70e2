"""Conformal scores anew from recounts, and what the old and the new ones say of recounts that were held out. Pure.

Where the photos have changed, the calibration photos of the training are no longer like those of today, and more right
records than ``alpha`` raise the alarm. Recounts of the random share are like those of today, so a count that has enough
of them gets its scores from them alone: a mixture with the old scores would keep a part of the error. A count with
fewer keeps its old scores (docs/decisions/0034-scores-from-recounts.md).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serve import verdict
from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated, Prediction, verdict_alarms

Scores = Mapping[str, tuple[float, ...]]
"""Per count, by name, nonconformity scores, ascending."""


@dataclass(frozen=True)
class RecountScore:
    """One right record of a recounted bin: the name of its count, and its nonconformity (``serve/verdict.py``)."""

    name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class CountScores:
    """What became of the scores of one count. ``old``: its scores so far; ``recounts``: those to calibrate with."""

    name: str
    old: int
    recounts: int
    replaced: bool


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """The alarms that held-out right records raise with the old scores and with the new ones.

    ``records``: those of counts whose scores were replaced. ``p_value``: how often so many alarms or more come with
    scores that keep the promise (``luck_of_alarms``).
    """

    records: int
    old: int
    new: int
    p_value: float

    @property
    def old_share(self) -> float:
        """The share of false alarms (0-1) with the old scores."""
        return self.old / self.records if self.records else 0.0

    @property
    def new_share(self) -> float:
        """The share of false alarms (0-1) with the new scores."""
        return self.new / self.records if self.records else 0.0


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """A version whose scores were computed anew, and nothing else.

    ``version``, ``run_id``: whose scores they replace; ``recounts``: how many calibrated it; ``differences``: what else
    differs between the two archives, which must be nothing; ``photo``: the scores by the photo alone; ``products``:
    those of records with products, empty without a record model; ``alarms``, ``product_alarms``: by the form of the
    network that serves, None where no scores were replaced; ``left_out``: forms that cannot be computed here.
    """

    version: str
    run_id: str
    recounts: int
    differences: tuple[str, ...]
    photo: tuple[CountScores, ...]
    products: tuple[CountScores, ...] = ()
    alarms: FalseAlarms | None = None
    product_alarms: FalseAlarms | None = None
    left_out: tuple[str, ...] = ()

    @property
    def replaces_any(self) -> bool:
        """Whether any scores were replaced."""
        return any(count.replaced for count in (*self.photo, *self.products))


def replace_scores(
    old: Scores, recounts: Sequence[RecountScore], minimum: int
) -> tuple[dict[str, tuple[float, ...]], tuple[CountScores, ...]]:
    """The scores of all counts: those of ``recounts`` for a count that has ``minimum`` of them, else the old ones."""
    anew: dict[str, list[float]] = {name: [] for name in old}
    for recount in recounts:
        anew.setdefault(recount.name, []).append(round(recount.score, 6))
    scores, counts = {}, []
    for name, values in anew.items():
        replaced = len(values) >= minimum
        scores[name] = tuple(sorted(values)) if replaced else tuple(old.get(name, ()))
        counts.append(CountScores(name=name, old=len(old.get(name, ())), recounts=len(values), replaced=replaced))
    return scores, tuple(counts)


def count_false_alarms(
    held_out: Sequence[RecountScore], old: Scores, new: Scores, counts: Sequence[CountScores], alpha: float
) -> FalseAlarms | None:
    """The alarms that ``held_out`` right records raise, of those counts whose scores were replaced; None without any.

    A count with too few old scores to call a record a mismatch raised no alarm.
    """
    replaced = {count.name for count in counts if count.replaced}
    judged = [record for record in held_out if record.name in replaced]
    if not replaced:
        return None
    alarms_old, alarms_new = (
        [verdict.p_value(record.score, scores.get(record.name, ())) <= alpha for record in judged]
        for scores in (old, new)
    )
    records = Counter(record.name for record in judged)
    calibration = {name: len(new[name]) for name in records}
    return FalseAlarms(
        records=len(judged),
        old=sum(alarms_old),
        new=sum(alarms_new),
        p_value=luck_of_alarms(sum(alarms_new), records, calibration, alpha),
    )


def luck_of_alarms(alarms: int, records: Mapping[str, int], calibration: Mapping[str, int], alpha: float) -> float:
    """How often right records raise ``alarms`` or more (0-1) where they are like the calibration photos.

    ``records``: how many were judged of each count; ``calibration``: how many scores it has. Both are samples: of a
    count with ``n`` scores, of which ``k = floor(alpha (n + 1))`` may be as large as an alarm's, the share of false
    alarms is itself distributed as Beta(k, n + 1 - k), so that the alarms of ``m`` records are beta-binomial (V. Vovk,
    "Conditional validity of inductive conformal predictors", 2012). Those of the counts are added.
    """
    from scipy.stats import betabinom  # a second to import, and most programs recalibrate nothing

    distribution = np.ones(1)
    for name, number in records.items():
        scores = calibration[name]
        rank = int(np.floor(alpha * (scores + 1) + 1e-9))
        if rank:
            chances = betabinom.pmf(np.arange(number + 1), number, rank, scores + 1 - rank)
            distribution = np.convolve(distribution, chances)
    return float(min(1.0, distribution[alarms:].sum()))


def with_scores(champion: Evaluated, scores: Scores, temperature: float, counts: Counts) -> Evaluated:
    """The champion's evaluation as it is with other ``scores``: the answers are the same, the p-values are not.

    They are computed from the recorded probabilities, which are calibrated by ``temperature`` and have six digits.
    What was measured of records with products is left out: its p-values cannot be computed from what is recorded.
    """
    predictions = [_with_fit(answer, scores, temperature, counts) for answer in champion.predictions]
    alarms = verdict_alarms(predictions, counts)
    evaluation = replace(champion.evaluation, alarms=alarms, records=None, records_fingerprint="")
    return replace(champion, evaluation=evaluation, predictions=predictions)


def _with_fit(answer: Prediction, scores: Scores, temperature: float, counts: Counts) -> Prediction:
    highest = max(answer.probabilities)
    uncalibrated = ((probability / highest) ** temperature for probability in answer.probabilities)
    fits = verdict.p_values(dict(zip(counts.names, uncalibrated, strict=True)), scores)
    return replace(answer, fit=tuple(round(p, 4) for p in fits.values()), record_fits={})
