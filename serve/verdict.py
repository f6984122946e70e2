"""The verdict: does a photo agree with the recorded quantity? Pure: probabilities in, a verdict with its reasons out.

``mismatch`` keeps a promise: of the bins whose record is right, at most the share ``alpha`` raises the
alarm, whatever the model is worth; a better model catches more of the wrong ones. It holds for bins
like those that the model was calibrated on. Method: split conformal prediction, per class (V. Vovk,
"Conditional validity of inductive conformal predictors", 2012). The calibration photos have chosen
nothing. Their scores, and the photo's, come from the probabilities before they were calibrated, so
that the same photos could calibrate those.

It travels in every archive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from serve.errors import FieldError

MATCH, MISMATCH, UNSURE = "match", "mismatch", "unsure"
ALPHA = 0.05
WEIGHT_TOLERANCE = 0.05
"""How far a bin's weight may be from the record's, as a share of it, before it disagrees."""
MAX_DIGITS = 5


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


def quantity(text: str) -> int:
    """A recorded quantity as a request gives it. Raises FieldError."""
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise FieldError(f"expected_quantity is {text[:20]!r}; give a whole number from 0 to {10**MAX_DIGITS - 1}")
    return int(text)


def score(probability: float, most: float) -> float:
    """How badly a count fits a photo (0-1), from what the model gave it and what it gave the most probable count.

    A record that is the model's own answer fits best, however unsure the model is, so that it raises no alarm.
    """
    return 1.0 - probability / most


def p_value(found: float, scores: Sequence[float]) -> float:
    """The share of right records that would fit as badly as one with the score ``found``, or worse (0-1)."""
    return (1 + sum(each >= found for each in scores)) / (1 + len(scores))


def needed(alpha: float) -> int:
    """How many calibration photos a count needs before it can ever be alarmed about at ``alpha``."""
    number = 1
    while 1 / (1 + number) > alpha:
        number += 1
    return number


def fit(probabilities: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The p-value of each count for one photo, by what the model gives it, uncalibrated (0-1).

    ``scores``: of the calibration photos with each count, ``score`` of what the model gave the right one.
    """
    most = max(probabilities.values())
    return {name: p_value(score(each, most), scores.get(name, ())) for name, each in probabilities.items()}


def reach_verdict(
    name: str,
    probabilities: Mapping[str, float],
    fits: Mapping[str, float],
    photos: Mapping[str, int],
    alpha: float = ALPHA,
) -> Verdict:
    """Judge the record ``name``, the name of a count, by the calibrated probabilities of all counts (0-1).

    ``fits``: what ``fit`` gave for the photo; ``photos``: how many calibration photos each count had.
    """
    fitting = tuple(each for each, found in fits.items() if found > alpha)
    if name not in probabilities:
        known = ", ".join(probabilities)
        return Verdict(UNSURE, f"the model does not know {name} objects; it knows {known}", None, fitting)
    probability, least = probabilities[name], needed(alpha)
    if photos.get(name, 0) < least:
        reason = (
            f"{photos.get(name, 0)} calibration photos with {name} objects are too few for alpha {alpha:g}; "
            f"it takes {least}"
        )
        return Verdict(UNSURE, reason, probability, fitting)
    if name not in fitting:
        reason = f"of right records of {name}, only {fits[name]:.1%} fit as badly or worse"
        return Verdict(MISMATCH, reason, probability, fitting)
    likeliest = max(probabilities, key=lambda each: probabilities[each])
    if likeliest == name:
        return Verdict(MATCH, f"{name} is the most probable count", probability, fitting)
    return Verdict(UNSURE, f"{name} fits, but {likeliest} is more probable", probability, fitting)


def weigh(weight: float, expected: float, tolerance: float = WEIGHT_TOLERANCE) -> Verdict:
    """Judge a record by the measured ``weight`` of the bin's contents and the ``expected`` one, in the same unit.

    The promise about false alarms is not one about weights: how often it is wrong depends on the scale
    and on the weights in the product records. It sees what a photo cannot, an object behind another;
    it cannot see one whose weight is a small share of the bin's.
    """
    off = abs(weight - expected) / expected
    if off > tolerance:
        reason = f"the contents weigh {weight:g}, by the record {expected:g}: {off:.0%} off, more than {tolerance:.0%}"
        return Verdict(MISMATCH, reason, None, ())
    return Verdict(MATCH, f"the contents weigh {weight:g}, by the record {expected:g}", None, ())


def joined(photo: Verdict, scale: Verdict) -> Verdict:
    """What a photo and a scale say together: an alarm of either is one, and a weight that agrees settles a doubt."""
    decisive = scale if photo.verdict == UNSURE or (scale.verdict == MISMATCH != photo.verdict) else photo
    return replace(photo, verdict=decisive.verdict, reason=f"{photo.reason}; {scale.reason}")
