"""The verdict: does a photo agree with the recorded quantity? Pure: probabilities in, a verdict with its reasons out.

``mismatch`` keeps a promise: of the bins whose record is right, at most the share ``alpha`` raises the
alarm, whatever the model is worth; a better model catches more of the wrong ones. It holds for bins
like those that the model was calibrated on. Method: split conformal prediction, per class (V. Vovk,
"Conditional validity of inductive conformal predictors", 2012). The calibration photos have chosen
nothing. Their scores, and the photo's, come from the probabilities before they were calibrated, so
that the same photos could calibrate those.

Imports nothing: it travels in every archive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MATCH, MISMATCH, UNSURE = "match", "mismatch", "unsure"
ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """What a photo says of a record.

    ``verdict``: ``match``: the record is among the counts that fit, and no other fits better;
    ``mismatch``: it is not among them; ``unsure``: neither can be said. ``probability``: that the record is
    right (0-1), None where the model does not know the quantity; ``counts_that_fit``: the conformal set.
    """

    verdict: str
    reason: str
    probability: float | None
    counts_that_fit: tuple[str, ...]


def score(probability: float) -> float:
    """How badly a count fits a photo (0-1), from what the model gave it, uncalibrated."""
    return 1.0 - probability


def p_value(found: float, scores: Sequence[float]) -> float:
    """The share of right records that would fit as badly as one with the score ``found``, or worse (0-1)."""
    return (1 + sum(each >= found for each in scores)) / (1 + len(scores))


def needed(alpha: float) -> int:
    """How many calibration photos a count needs before it can ever be alarmed about at ``alpha``."""
    number = 1
    while 1 / (1 + number) > alpha:
        number += 1
    return number


def judge(
    name: str, uncalibrated: Mapping[str, float], calibrated: Mapping[str, float],
    scores: Mapping[str, Sequence[float]], alpha: float = ALPHA,
) -> Verdict:  # fmt: skip
    """Judge the record ``name``, the name of a count, by the probabilities of all counts (0-1, summing to 1).

    ``scores``: of the calibration photos with each count, ``score`` of what the model gave the right one.
    """
    fitting = tuple(
        each for each, probability in uncalibrated.items()
        if p_value(score(probability), scores.get(each, ())) > alpha
    )  # fmt: skip
    if name not in uncalibrated:
        known = ", ".join(uncalibrated)
        return Verdict(UNSURE, f"the model does not know {name} objects; it knows {known}", None, fitting)
    probability = calibrated[name]
    photos, least = len(scores.get(name, ())), needed(alpha)
    if photos < least:
        reason = f"{photos} calibration photos with {name} objects are too few for alpha {alpha:g}; it takes {least}"
        return Verdict(UNSURE, reason, probability, fitting)
    if name not in fitting:
        return Verdict(MISMATCH, f"of right records of {name}, at most {alpha:.1%} fit a photo this badly", probability,
                       fitting)  # fmt: skip
    likeliest = max(calibrated, key=lambda each: calibrated[each])
    if likeliest == name:
        return Verdict(MATCH, f"{name} is the most probable count", probability, fitting)
    return Verdict(UNSURE, f"{name} fits, but {likeliest} is more probable", probability, fitting)
