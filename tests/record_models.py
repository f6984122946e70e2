"""Record models with random weights, for tests that need an answer, but not a good one."""

import numpy as np

from serve.evidence.record import Product, Record
from serve.evidence.record_model import MEASURES, Columns, Ensemble, RecordModel, record_features

FEATURES = 16
"""The width of what the network's head reads."""
BOX = Product(id="box", quantity=2, sides_cm=(20.0, 10.0, 5.0), weight_kg=0.5)
PEN = Product(id="pen", quantity=1, sides_cm=(4.0, 2.0, 1.0), weight_kg=0.1)


def record_of(*products: Product) -> Record:
    """The record that lists these products."""
    return Record(sum(product.quantity for product in products), products)


RECORD_WIDTH = len(record_features(record_of(BOX)))


def ensemble_of(inputs: int, outputs: int, rng: np.random.Generator) -> Ensemble:
    """Three random perceptrons with two hidden layers."""
    widths = ((inputs, 8), (8, 8), (8, outputs))
    return Ensemble(
        mean=rng.normal(size=inputs),
        spread=rng.uniform(0.5, 2, inputs),
        weights=tuple(rng.normal(size=(3, *pair)) for pair in widths),
        biases=tuple(rng.normal(size=(3, pair[1])) for pair in widths),
    )


def model_of(columns: Columns, features: int = FEATURES, seed: int = 0) -> RecordModel:
    """A random record model of a network that has learned the measures of records, too."""
    rng = np.random.default_rng(seed)
    pair_width, outputs = columns.width + MEASURES + 4 + RECORD_WIDTH, len(columns.learned) + MEASURES
    return RecordModel(
        columns=columns,
        weight=rng.normal(size=(features, outputs)),
        bias=rng.normal(size=outputs),
        agreement=ensemble_of(pair_width, 1, rng),
        prior=ensemble_of(pair_width, 1, rng),
        count=ensemble_of(columns.width + RECORD_WIDTH, len(columns.classes), rng),
    )
