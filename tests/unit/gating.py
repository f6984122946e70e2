"""Sides of a comparison, made of what each model counts right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated, Prediction, summarise
from trainer.evaluation.record_alarms import RIGHT, RecordEvaluation, RecordFits

COUNTS = Counts()
ALARM, NO_ALARM = 0.01, 0.9
"""p-values of a recorded count that raises the alarm, and of one that does not."""


def side(
    right: Sequence[object],
    bins: Sequence[object] | None = None,
    recorded: Sequence[int] | None = None,
    *,
    confidence: float = 0.6,
    alarms: Sequence[object] | None = None,
    off: float = 1.0,
    fingerprint: str = "photos",
    latency_ms: float | None = 10.0,
    archive_bytes: int | None = 10**7,
    record_alarms: Sequence[object] | None = None,
    caught: Sequence[object] | None = None,
    records: str = "records",
    reads_products: bool = True,
) -> Evaluated:
    """A model that counts these photos right or wrong; the recorded counts cycle from 1 to 5.

    ``confidence``: of each answer; ``alarms``: right records that raise one; ``off``: how wrong a mean is, in
    objects. With ``record_alarms`` or ``caught`` it judges the ``records`` with products, too, by their quantity alone
    unless it ``reads_products``: the right ones that raise an alarm, and the photos whose record with one unit more
    does. No exchanged product is ever caught.
    """
    rows = []
    for number, is_right in enumerate(right):
        count = recorded[number] if recorded else number % 5 + 1
        answer = count if is_right else count % 5 + 1
        rest = (1 - confidence) / 4
        fit = ALARM if alarms is not None and alarms[number] else NO_ALARM
        rows.append(
            Prediction(
                id=f"{number:05}",
                bin=str(bins[number] if bins else number),
                recorded=count,
                count=answer,
                expected_count=count if is_right else count + off,
                probabilities=tuple(confidence if value == answer else rest for value in COUNTS.values),
                fit=tuple(fit if value == count else 0.5 for value in COUNTS.values),
                record_fits=_record_fits(number, record_alarms, caught),
            )
        )
    evaluation = summarise(rows, COUNTS, fingerprint)
    if record_alarms is not None or caught is not None:
        judged = record_evaluation(len(rows)) if reads_products else None
        evaluation = replace(evaluation, records=judged, records_fingerprint=records)
    return Evaluated(evaluation, rows, latency_ms, archive_bytes)


def _record_fits(number: int, alarms: Sequence[object] | None, caught: Sequence[object] | None) -> RecordFits:
    """The p-values of one photo's records; none where neither is given."""
    if alarms is None and caught is None:
        return {}
    right, one_more = (ALARM if raised is not None and raised[number] else NO_ALARM for raised in (alarms, caught))
    return {RIGHT: (right,), "one_more": (one_more, one_more), "exchanged": (NO_ALARM,)}


def record_evaluation(photos: int) -> RecordEvaluation:
    """An evaluation of records with products, whose figures do not matter."""
    return RecordEvaluation(
        photos=photos,
        accuracy=0.5,
        rmse=0.8,
        photo_accuracy=0.4,
        photo_rmse=0.9,
        alarms=(),
    )


def votes(both: int, challenger: int, champion: int, neither: int) -> tuple[list[bool], list[bool]]:
    """What challenger and champion count right, given how many photos both, one alone and neither do."""
    challenger_right = [True] * both + [True] * challenger + [False] * champion + [False] * neither
    champion_right = [True] * both + [False] * challenger + [True] * champion + [False] * neither
    return challenger_right, champion_right


def random_answers(shares: tuple[float, ...], photos: int = 20000) -> list[Prediction]:
    """Bins mixed by ``shares`` of 1-5, and the answers of a model that was trained on such a mix."""
    rng = np.random.default_rng(0)
    recorded = rng.choice(5, photos, p=shares)
    visible = recorded + rng.normal(0, 1, photos)  # in objects
    likelihood = np.exp(-((visible[:, None] - np.arange(5)) ** 2) / 2) * np.array(shares)
    rows = likelihood / likelihood.sum(axis=1, keepdims=True)
    return [
        Prediction(
            id=str(number),
            bin=str(number),
            recorded=int(count) + 1,
            count=int(row.argmax()) + 1,
            expected_count=float(row @ np.arange(1, 6)),
            probabilities=tuple(row),
        )
        for number, (count, row) in enumerate(zip(recorded, rows, strict=True))
    ]
