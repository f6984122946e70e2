import numpy as np
import pytest
from scipy.special import softmax

from serve.archives.archive import manifest_of
from trainer.evaluation.calibration import expected_calibration_error, fit_temperature, reliability
from trainer.training.run import Trained


def drawn_logits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(N, C)``, and labels drawn with just the probabilities that they say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (20_000, 5))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_finds_the_factor_by_which_a_model_is_too_sure(factor: float) -> None:
    logits, labels = drawn_logits()
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_a_temperature_sets_the_calibration_error_right_and_no_answer() -> None:
    logits, labels = drawn_logits()
    hot = 3 * logits
    correct = hot.argmax(axis=1) == labels
    before = expected_calibration_error(softmax(hot, axis=1), correct)
    after = expected_calibration_error(softmax(hot / fit_temperature(hot, labels), axis=1), correct)
    assert before > 0.1
    assert after < 0.015


def test_no_photos_to_calibrate_on_leave_it_as_it_is() -> None:
    assert fit_temperature(np.empty((0, 5)), np.empty(0, dtype=int)) == 1.0


def test_the_error_is_the_weighted_distance() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    correct = np.array([True, False, True, True])
    assert expected_calibration_error(probabilities, correct) == pytest.approx((0.4 + 0.4) / 2)
    low, high = reliability(probabilities, correct)
    assert [low.confidence, low.accuracy, low.answers] == pytest.approx([0.6, 1.0, 2])
    assert [high.confidence, high.accuracy, high.answers] == pytest.approx([0.9, 0.5, 2])


def test_the_halves_of_validation_share_no_bin(trained: Trained) -> None:
    first, second = trained.data.validation.halves(0)
    assert len(first) + len(second) == len(trained.data.validation)
    assert abs(len(first) - len(second)) < 0.2 * len(trained.data.validation)
    assert not {photo.bin for photo in first.photos} & {photo.bin for photo in second.photos}
    row = trained.data.validation.photos.index(second.photos[0])
    assert np.array_equal(second.pixels[:1], trained.data.validation.pixels[row : row + 1])


def test_an_archive_answers_with_the_temperature_of_its_manifest(trained: Trained) -> None:
    manifest = manifest_of(trained.archive)
    assert 0.1 <= manifest.temperature <= 10
    assert manifest.metrics["temperature"] == manifest.temperature
    assert manifest.metrics["calibration_error"] >= 0
