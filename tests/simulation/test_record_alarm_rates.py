"""The promise with products: of right records with sizes at most alpha raise the alarm, however poor the model is."""

import numpy as np
import pytest

from serve.evidence.record import Product, Record
from serve.evidence.record_model import Columns
from serve.verdict import p_value
from tests.record_models import model_of

COLUMNS = Columns(learned=(1, 2, 3), classes=(1, 2, 3))
CALIBRATION, JUDGED, ROUNDS = 59, 25, 60


def drawn_record(rng: np.random.Generator, quantity: int) -> Record:
    sides = np.sort(rng.lognormal(2.5, 0.6, 3).clip(0.05, 300))[::-1].tolist()
    return Record(quantity, (Product(quantity=quantity, sides_cm=tuple(sides), weight_kg=float(rng.uniform(0.1, 3))),))


def drawn_scores(seed: int, quantity: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Scores of right records by a model that has learned nothing, ``(ROUNDS, CALIBRATION + JUDGED)``."""
    rng, number = np.random.default_rng(seed), ROUNDS * (CALIBRATION + JUDGED)
    model = model_of(COLUMNS, seed=seed)
    photos = model.photo_features(rng.normal(size=(number, len(model.weight))).astype(np.float32))
    scores = model.nonconformity(photos, [drawn_record(rng, quantity) for _ in range(number)])
    return scores.reshape(ROUNDS, CALIBRATION + JUDGED)


@pytest.mark.parametrize("quantity", COLUMNS.classes)
def test_of_right_records_of_a_quantity_at_most_alpha_raise_the_alarm(quantity: int) -> None:
    scores = drawn_scores(quantity, quantity)
    fits = np.array([[p_value(score, row[:CALIBRATION].tolist()) for score in row[CALIBRATION:]] for row in scores])
    for alpha in (0.05, 0.1, 0.2):
        alarms = (fits.round(4) <= alpha).mean(axis=1)  # answers round to four digits
        error = alarms.std() / np.sqrt(ROUNDS)
        print(f"{quantity}: at alpha {alpha} {alarms.mean():.4f} ± {error:.4f} of right records raised the alarm")
        assert alarms.mean() <= alpha + 3 * error
        assert alarms.mean() >= alpha - 3 * error, "a promise that is kept by raising none is worth nothing"


def test_scores_that_are_all_the_same_raise_no_alarm() -> None:
    assert p_value(1.0, [1.0] * CALIBRATION) == 1.0
