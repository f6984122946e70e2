from unittest.mock import Mock

import pytest

from serve.answers import predictor_from
from serve.errors import SettingsError
from serve.verdict import (
    MIN_ALPHA,
    Verdict,
    VerdictKind,
    combine,
    min_calibration_photos,
    p_values,
    reach_verdict,
    weight_verdict,
)

MATCH, MISMATCH, UNSURE = VerdictKind

SCORES = {name: [i / 100 for i in range(100)] for name in ("1", "2", "3")}


def ask(name: str, *probabilities: float, alpha: float = 0.05, scores: dict[str, list[float]] | None = None) -> Verdict:
    named = dict(zip(("1", "2", "3"), probabilities, strict=True))
    known = SCORES if scores is None else scores
    return reach_verdict(
        name, named, p_values(named, known), {count: len(scores) for count, scores in known.items()}, alpha
    )


@pytest.mark.parametrize(
    ("name", "probabilities", "verdict", "fitting"),
    [
        ("1", (0.8, 0.17, 0.03), MATCH, ("1", "2")),
        ("3", (0.8, 0.199, 0.001), MISMATCH, ("1", "2")),
        ("2", (0.5, 0.3, 0.2), UNSURE, ("1", "2", "3")),
    ],
)
def test_a_record_matches_mismatches_or_neither(
    name: str, probabilities: tuple[float, ...], verdict: str, fitting: tuple[str, ...]
) -> None:
    judgement = ask(name, *probabilities)
    assert (judgement.verdict, judgement.counts_that_fit) == (verdict, fitting)


def test_a_quantity_that_the_model_does_not_know_is_unsure_and_says_why() -> None:
    judgement = reach_verdict("7", {"1": 0.5, "2": 0.5}, {"1": 1.0, "2": 1.0}, {"1": 100, "2": 100})
    assert (judgement.verdict, judgement.probability) == (UNSURE, None)
    assert judgement.reason == "the model does not know 7 objects; it knows 1, 2"


@pytest.mark.parametrize(("alpha", "photos"), [(0.05, 19), (0.01, 99), (0.2, 4), (0.5, 1), (1 / 49, 48)])
def test_too_few_calibration_photos_for_alpha_are_unsure(alpha: float, photos: int) -> None:
    assert min_calibration_photos(alpha) == photos
    enough = ask("1", 0.0, 0.5, 0.5, alpha=alpha, scores={"1": [0.5] * photos})
    few = ask("1", 0.0, 0.5, 0.5, alpha=alpha, scores={"1": [0.5] * (photos - 1)})
    assert enough.verdict == MISMATCH
    assert few.verdict == UNSURE
    assert (enough.calibrated, few.calibrated) == (True, False)
    assert f"it takes {photos}" in few.reason


@pytest.mark.parametrize(("photos", "lowest"), [(17, 0.0556), (18, 0.0527), (3, 0.25), (9, 0.1)])
def test_too_few_calibration_photos_say_which_alpha_they_allow(photos: int, lowest: float) -> None:
    scores = {"1": [0.5] * photos}
    assert f"{photos} calibration photos" in ask("1", 0.0, 0.5, 0.5, alpha=0.01, scores=scores).reason
    assert f"at least {lowest:g}" in ask("1", 0.0, 0.5, 0.5, alpha=0.01, scores=scores).reason
    assert ask("1", 0.0, 0.5, 0.5, alpha=lowest, scores=scores).verdict == MISMATCH


def test_no_calibration_photos_allow_no_alpha() -> None:
    judgement = ask("1", 0.0, 0.5, 0.5, scores={})
    assert (judgement.verdict, judgement.calibrated) == (UNSURE, False)
    assert "at least" not in judgement.reason


def test_the_number_of_calibration_photos_is_the_smallest_that_is_enough() -> None:
    for alpha in [1 / number for number in range(1, 300)] + [number / 997 for number in range(1, 998)]:
        number = min_calibration_photos(alpha)
        assert 1 / (1 + number) <= alpha
        assert number == 1 or 1 / number > alpha
    assert min_calibration_photos(MIN_ALPHA) == 9999
    assert min_calibration_photos(1e-12) > 1e11  # at once


@pytest.mark.parametrize("text", ["5", "-0.1", "nan", "5%", "0", "-0", "1e-12", "0.00009"])
def test_an_alpha_that_is_no_share_or_never_an_alarm_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"BINWATCH_ALPHA is '{text}'; give a number from 0.0001 to 1"):
        predictor_from(Mock(), {"BINWATCH_ALPHA": text})


def test_a_record_that_is_the_most_probable_count_raises_no_alarm() -> None:
    """Not even where the model is far less sure than it ever was of a right count."""
    assert ask("2", 0.3, 0.4, 0.3, alpha=0.2, scores={"2": [0.0] * 99}).verdict == MATCH
    assert ask("1", 0.3, 0.4, 0.3, alpha=0.2, scores={"1": [0.0] * 99}).verdict == MISMATCH


@pytest.mark.parametrize(
    ("weight", "verdict"), [(2.0, MATCH), (2.099, MATCH), (1.901, MATCH), (2.11, MISMATCH), (1.89, MISMATCH)]
)
def test_a_weight_agrees_within_a_twentieth_of_the_record_s(weight: float, verdict: str) -> None:
    judgement = weight_verdict(weight, 2.0)
    assert judgement.verdict == verdict
    assert f"weigh {weight:g}, by the record 2" in judgement.reason


@pytest.mark.parametrize(
    ("photo", "scale", "together"),
    [
        (MATCH, MATCH, MATCH),
        (MATCH, MISMATCH, MISMATCH),
        (MISMATCH, MATCH, MISMATCH),
        (MISMATCH, MISMATCH, MISMATCH),
        (UNSURE, MATCH, MATCH),
        (UNSURE, MISMATCH, MISMATCH),
    ],
)
def test_a_photo_and_a_scale_are_combined(photo: VerdictKind, scale: VerdictKind, together: VerdictKind) -> None:
    of_photo = Verdict(photo, "looks right", 0.3, ("1", "2"))
    combined = combine(of_photo, Verdict(scale, "weighed", None, ()))
    assert combined == Verdict(together, "looks right; weighed", 0.3, ("1", "2"))
