"""The verdict: does a photo agree with the recorded quantity? Pure functions: probabilities in, a verdict with its
reason out.

``mismatch`` keeps a promise: of the bins whose record is right, at most the share ``alpha`` raises an alarm, however
poor the model is; a better model catches more of the wrong records. The promise holds for bins like those of the
calibration set. Method: split conformal prediction, per class (V. Vovk, "Conditional validity of inductive conformal
predictors", 2012). The calibration photos were not used to select anything. The scores, of the calibration photos and
of the photo to judge, come from the uncalibrated probabilities, so that the same photos can also fit the temperature.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from serve.environment import Variables
from serve.errors import FieldError

ALPHA = 0.05
MIN_ALPHA = 1e-4
"""Below that, a count needs more than 9,999 calibration photos before a record can be called a mismatch."""
WEIGHT_TOLERANCE = 0.05
"""How far the contents' weight may be from the recorded one, as a share of it, before it is a mismatch."""
NOVELTY_LIMIT, MAX_NOVELTY_LIMIT = 0.005, 0.1
MAX_DIGITS = 5


def read_alpha(read: Variables) -> float:
    """BINWATCH_ALPHA: the share of right records (MIN_ALPHA-1) that may raise an alarm."""
    return read.number("BINWATCH_ALPHA", ALPHA, MIN_ALPHA, 1)


def read_novelty_limit(read: Variables) -> float:
    """BINWATCH_NOVELTY: the share of bins (0-MAX_NOVELTY_LIMIT) that may be taken for something else; 0 is no test."""
    return read.number("BINWATCH_NOVELTY", NOVELTY_LIMIT, 0.0, MAX_NOVELTY_LIMIT)


class VerdictKind(StrEnum):
    """What a verdict can be, as answers spell it."""

    MATCH = "match"
    MISMATCH = "mismatch"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Verdict:
    """Whether a photo agrees with a record.

    ``verdict``: ``match``: the record is among the counts that fit, and is the most probable one; ``mismatch``: it is
    not among them; ``unsure``: neither can be claimed. ``probability``: that the record is right (0-1), None where the
    model does not know the quantity; ``counts_that_fit``: the conformal set; ``calibrated``: whether there were enough
    calibration photos with the recorded quantity for a ``mismatch``; ``not_a_bin``: whether the photo is taken for
    something else than a bin.
    """

    verdict: VerdictKind
    reason: str
    probability: float | None
    counts_that_fit: tuple[str, ...]
    calibrated: bool = True
    not_a_bin: bool = False


def parse_quantity(text: str) -> int:
    """A recorded quantity from the text of a request. Raises FieldError."""
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS:
        raise FieldError(f"expected_quantity is {text[:20]!r}; give a whole number from 0 to {10**MAX_DIGITS - 1}")
    return int(text)


def nonconformity(probability: float, highest: float) -> float:
    """How badly a count fits a photo (0-1), from its probability and that of the most probable count.

    The model's own answer always scores 0, however unsure the model is: a record that agrees with it raises no alarm.
    """
    return 1.0 - probability / highest


def p_value(score: float, scores: Sequence[float]) -> float:
    """The share of right records that would fit as badly as one with this nonconformity score, or worse (0-1)."""
    return (1 + sum(calibration_score >= score for calibration_score in scores)) / (1 + len(scores))


def min_calibration_photos(alpha: float) -> int:
    """How many calibration photos a count needs before any p-value can be as low as ``alpha``, which is above 0."""
    number = max(1, math.ceil(1 / alpha) - 1)
    return number - 1 if number > 1 and 1 / number <= alpha else number  # where the division was rounded up


def p_values(probabilities: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The p-value of each count for one photo, from the photo's uncalibrated probabilities (0-1).

    ``scores``: per count, the nonconformity of the right count in each of its calibration photos.
    """
    highest = max(probabilities.values())
    return {
        name: p_value(nonconformity(probability, highest), scores.get(name, ()))
        for name, probability in probabilities.items()
    }


def reach_verdict(
    name: str,
    probabilities: Mapping[str, float],
    fits: Mapping[str, float],
    photos: Mapping[str, int],
    alpha: float = ALPHA,
) -> Verdict:
    """Judge the record ``name``, the name of a count, by the calibrated probabilities of all counts (0-1).

    ``fits``: the photo's ``p_values``; ``photos``: how many calibration photos each count had.
    """
    fitting = tuple(count for count, fit in fits.items() if fit > alpha)
    if name not in probabilities:
        known = ", ".join(probabilities)
        reason = f"the model does not know {name} objects; it knows {known}"
        return Verdict(VerdictKind.UNSURE, reason, None, fitting, calibrated=False)
    probability, minimum = probabilities[name], min_calibration_photos(alpha)
    if photos.get(name, 0) < minimum:
        reason = _too_few(name, photos.get(name, 0), minimum, alpha)
        return Verdict(VerdictKind.UNSURE, reason, probability, fitting, calibrated=False)
    if name not in fitting:
        reason = f"of right records of {name}, only {fits[name]:.1%} fit as badly or worse"
        return Verdict(VerdictKind.MISMATCH, reason, probability, fitting)
    likeliest = max(probabilities, key=lambda count: probabilities[count])
    if likeliest == name:
        return Verdict(VerdictKind.MATCH, f"{name} is the most probable count", probability, fitting)
    return Verdict(VerdictKind.UNSURE, f"{name} fits, but {likeliest} is more probable", probability, fitting)


def _too_few(name: str, photos: int, minimum: int, alpha: float) -> str:
    lowest = math.ceil(1e4 / (1 + photos)) / 1e4
    other = f", or an alpha of at least {lowest:g}" if photos else ""
    return (
        f"{photos} calibration photos with {name} objects are too few for alpha {alpha:g}; it takes {minimum} before a "
        f"record of {name} can be called a mismatch{other}"
    )


def doubt(judgement: Verdict, typical: float | None, limit: float) -> Verdict:
    """``judgement``, or that nothing can be claimed, since the photo is no more typical of bins than ``limit`` (0-1).

    ``typical``: the p-value of ``serve/evidence/novelty.py``, None where there is no test. Of bins at most the share
    ``limit`` is taken for something else.
    """
    if typical is None or typical > limit:
        return judgement
    reason = f"this photo is unlike the bins that the model learned from: at most {typical:.2%} of bins look as unlike"
    return replace(judgement, verdict=VerdictKind.UNSURE, reason=reason, not_a_bin=True)


def weight_verdict(weight: float, expected: float, tolerance: float = WEIGHT_TOLERANCE) -> Verdict:
    """Judge a record by the measured ``weight`` of the bin's contents and the ``expected`` one, in the same unit.

    The promise about false alarms does not cover weights: their error rate depends on the scale and on the weights in
    the product records. A scale notices what a photo cannot show, an object behind another; it misses objects that are
    a small share of the bin's weight.
    """
    deviation = abs(weight - expected) / expected
    if deviation > tolerance:
        reason = (
            f"the contents weigh {weight:g}, by the record {expected:g}: {deviation:.0%} off, more than {tolerance:.0%}"
        )
        return Verdict(VerdictKind.MISMATCH, reason, None, ())
    return Verdict(VerdictKind.MATCH, f"the contents weigh {weight:g}, by the record {expected:g}", None, ())


def combine(photo: Verdict, scale: Verdict) -> Verdict:
    """The verdict of photo and scale: a mismatch of either wins, and the scale decides where the photo is unsure."""
    scale_alone_objects = scale.verdict == VerdictKind.MISMATCH != photo.verdict
    decisive = scale if photo.verdict == VerdictKind.UNSURE or scale_alone_objects else photo
    return replace(photo, verdict=decisive.verdict, reason=f"{photo.reason}; {scale.reason}")
