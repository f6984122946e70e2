"""Sides of a comparison, made of what each model counts right."""

from collections.abc import Sequence

from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated, Prediction, summarise

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
) -> Evaluated:
    """A model that counts these photos right or wrong; the recorded counts cycle from 1 to 5.

    ``confidence``: of each answer; ``alarms``: right records that raise one; ``off``: how wrong a mean is, in
    objects.
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
            )
        )
    return Evaluated(summarise(rows, COUNTS, fingerprint), rows, latency_ms, archive_bytes)


def votes(both: int, challenger: int, champion: int, neither: int) -> tuple[list[bool], list[bool]]:
    """What challenger and champion count right, given how many photos both, one alone and neither do."""
    challenger_right = [True] * both + [True] * challenger + [False] * champion + [False] * neither
    champion_right = [True] * both + [False] * challenger + [True] * champion + [False] * neither
    return challenger_right, champion_right
