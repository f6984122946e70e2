"""The record model: does a record with products agree with a photo, and how many objects are there, given their sizes?

It reads what the network says of the photo and what the record says of its products. Two ensembles of
small perceptrons answer, each trained on photos that the network had not learned from
(``trainer/training/record_training.py``):

- ``agreement``: by how much the photo raises the log odds that the record is right, over those without the photo
  (``prior``). Only this counts: a record cannot raise an alarm by being unusual.
- ``count``: how many objects there are, from the photo and the sizes of the listed products, whose quantities it does
  not see.

numpy only; an answer takes some tenths of a millisecond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.errors import ArchiveError
from serve.evidence.arrays import read_arrays, write_arrays
from serve.evidence.record import Product, Record

MEASURES = 11
"""What the network may be taught about a bin's content beside the count; see ``measures``."""
_VOLUME_EDGES = np.log((150.0, 500.0, 1300.0, 3500.0))
"""Cubic centimetres, as logarithms: they divide objects into five sizes, about equally frequent in the dataset."""
_MEANS = np.array([7.0, 3.0, 3.0, -0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 7.0])
_SPREADS = np.array([1.2, 0.5, 0.5, 1.0, 0.4, 0.7, 0.7, 0.7, 0.7, 0.7, 1.2])
"""About the means and standard deviations of the measures in the dataset."""
MAX_FEATURE = 6.0
"""Features are clipped to that many spreads from their mean."""

Floats = NDArray[np.float64]


def measures(record: Record) -> Floats:
    """A bin's content in numbers, ``(MEASURES,)``, about -2 to 2; NaN where sizes or weights are unknown.

    Logarithms of: the volume of all units; the longest side; the mean longest side; the weight of all units; the number
    of products; the units of each of five sizes; the geometric mean volume of a unit.
    """
    if not record.has_sizes:
        return np.full(MEASURES, np.nan)
    return np.asarray((_raw_measures(record.listed) - _MEANS) / _SPREADS)


def _raw_measures(products: Sequence[Product]) -> Floats:
    units = np.array([product.quantity for product in products], dtype=np.float64)
    sides = np.array([product.sides_cm for product in products])  # (P, 3), longest first
    weights = np.array([product.weight_kg or np.nan for product in products])
    volumes = np.log(sides.prod(axis=1))
    size = np.searchsorted(_VOLUME_EDGES, volumes)
    by_size = np.bincount(size, units, minlength=len(_VOLUME_EDGES) + 1)
    longest = sides[:, 0]
    return np.array(
        [
            np.log((units * np.exp(volumes)).sum()),
            np.log(longest.max()),
            np.log(longest @ units / units.sum()),
            np.log((units * weights).sum()),
            np.log1p(len(products)),
            *np.log1p(by_size),
            volumes @ units / units.sum(),
        ]
    )


def record_features(record: Record) -> Floats:
    """What the model reads of a record whose products have sizes, ``(R,)``; an unknown weight is an average one."""
    products = record.listed
    units = np.array([product.quantity for product in products], dtype=np.float64)
    sides = np.array([product.sides_cm for product in products])
    volumes = np.log(sides.prod(axis=1))
    shape = [
        units.sum() - 3,
        units.max() - 1,
        (volumes.min() - 6) / 1.5,
        (volumes.max() - 7) / 1.5,
        np.log(sides[:, 2].min()) - 1,
        np.log(sides[:, 2].max()) - 1,
        (volumes[units == units.max()].mean() - 7) / 1.5,
    ]
    return np.concatenate([np.nan_to_num(measures(record)), shape]).clip(-MAX_FEATURE, MAX_FEATURE)


def size_features(record: Record) -> Floats:
    """The same, of the products without their quantities, ``(R,)``."""
    products = tuple(Product(quantity=1, sides_cm=item.sides_cm, weight_kg=item.weight_kg) for item in record.listed)
    return record_features(Record(len(products), products))


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the outputs of a network's head ``(B, O)`` are: logits of the ``learned`` counts, then measures, if any.

    ``classes``: the counts, of those learned, that answers name.
    """

    learned: tuple[int, ...]
    classes: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many features a photo has."""
        return len(self.learned) + len(self.classes) + 2 + MEASURES

    def photo_features(self, outputs: Floats) -> Floats:
        """What the model reads of photos, ``(B, width)``, from a network's outputs; measures it has not are zero."""
        learned, taught = len(self.learned), outputs[:, len(self.learned) :]
        all_counts = _log_softmax(outputs[:, :learned])
        counts = _log_softmax(all_counts[:, [self.learned.index(value) for value in self.classes]])
        expected = [np.exp(counts) @ np.array(self.classes), np.exp(all_counts) @ np.array(self.learned)]
        known = taught if taught.shape[1] else np.zeros((len(outputs), MEASURES))
        return np.concatenate([all_counts, counts, np.column_stack(expected) - 3, known], axis=1)

    def pair_features(self, photos: Floats, records: Floats, quantities: Floats) -> Floats:
        """What the model reads of photos ``(B, width)`` and their records ``(B, R)`` of ``quantities`` ``(B,)``."""
        all_counts, rows = photos[:, : len(self.learned)], np.arange(len(photos))
        place = np.searchsorted(self.learned, quantities).clip(0, len(self.learned) - 1)
        recorded, likeliest = all_counts[rows, place], all_counts.max(axis=1)
        expected = photos[:, len(self.learned) + len(self.classes) + 1]
        gap = quantities - 3 - expected
        difference = records[:, :MEASURES] - photos[:, -MEASURES:]
        beside = np.column_stack([recorded, recorded - likeliest, gap, gap**2 / 4])
        return np.concatenate([photos, difference, beside, records], axis=1)

    def count_nonconformity(self, photos: Floats, quantities: NDArray[np.int64]) -> Floats:
        """How badly recorded quantities ``(B,)`` fit photos ``(B, width)``, by their counts alone, ``(B,)``."""
        probabilities, rows = np.exp(photos[:, : len(self.learned)]), np.arange(len(photos))
        place = np.searchsorted(self.learned, quantities).clip(0, len(self.learned) - 1)
        return np.asarray(1 - probabilities[rows, place] / probabilities.max(axis=1))

    def without_photo(self, pairs: Floats) -> Floats:
        """The same features where nothing is known of the photo: zeros, but for the record's."""
        blank = np.zeros_like(pairs)
        start = self.width + MEASURES + 4
        blank[:, start:] = pairs[:, start:]
        return blank


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Perceptrons of one shape whose outputs are averaged.

    ``mean``, ``spread``: of the inputs ``(I,)``. Of each layer: ``weights`` ``(E, in, out)``, ``biases`` ``(E, out)``.
    """

    mean: Floats
    spread: Floats
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def __call__(self, inputs: Floats) -> Floats:
        """The mean outputs ``(B, O)`` for ``inputs`` ``(B, I)``."""
        x = ((inputs - self.mean) / self.spread).clip(-MAX_FEATURE, MAX_FEATURE)[None]  # (1, B, I)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            x = x @ weight + bias[:, None]
            x = x if number == len(self.weights) else np.maximum(x, 0)
        return np.asarray(x.mean(axis=0))

    def arrays(self, name: str) -> dict[str, Floats]:
        """Its arrays, by the names that they are stored under."""
        layers = {
            f"{name}.{kind}{number}": array
            for kind, arrays in (("weight", self.weights), ("bias", self.biases))
            for number, array in enumerate(arrays)
        }
        return {f"{name}.mean": self.mean, f"{name}.spread": self.spread, **layers}

    @classmethod
    def from_arrays(cls, name: str, arrays: dict[str, Floats]) -> "Ensemble":
        """The ensemble that ``arrays`` stored. Raises KeyError where an array is missing."""
        layers = max(1, sum(key.startswith(f"{name}.weight") for key in arrays))
        return cls(
            mean=arrays[f"{name}.mean"],
            spread=arrays[f"{name}.spread"],
            weights=tuple(arrays[f"{name}.weight{number}"] for number in range(layers)),
            biases=tuple(arrays[f"{name}.bias{number}"] for number in range(layers)),
        )


@dataclass(frozen=True, kw_only=True)
class RecordModel:
    """The record model of an archive.

    ``weight`` ``(W, O)``, ``bias`` ``(O,)``: the network's head, from its features to its outputs; ``prior``: log odds
    that a record is right, without the photo; ``agreement``: what the photo adds to them; ``count``: logits of the
    counts, given sizes.
    """

    columns: Columns
    weight: Floats
    bias: Floats
    agreement: Ensemble
    prior: Ensemble
    count: Ensemble

    def photo_features(self, features: NDArray[np.float32]) -> Floats:
        """What the model reads of photos ``(B, width)``, from the network's features ``(B, W)``."""
        return self.columns.photo_features(features @ self.weight + self.bias)

    def nonconformity(self, photos: Floats, records: Sequence[Record]) -> Floats:
        """How badly records with sizes fit photos ``(B, width)``, ``(B,)``: minus the log odds that the photo adds."""
        return np.asarray(-self.agreement(self._pair_features(photos, records))[:, 0])

    def without_photo(self, records: Sequence[Record]) -> Floats:
        """The log odds that records with sizes are right, where nothing is known of the photo, ``(B,)``."""
        pairs = self._pair_features(np.zeros((len(records), self.columns.width)), records)
        return np.asarray(self.prior(self.columns.without_photo(pairs))[:, 0])

    def count_probabilities(self, photos: Floats, records: Sequence[Record]) -> Floats:
        """Probabilities of the counts ``(B, C)``, given photos ``(B, width)`` and the sizes of the listed products."""
        return np.exp(_log_softmax(self._count_logits(photos, records)))

    def _pair_features(self, photos: Floats, records: Sequence[Record]) -> Floats:
        features = np.array([record_features(record) for record in records])
        quantities = np.array([record.quantity for record in records], dtype=np.float64)
        return self.columns.pair_features(photos, features, quantities)

    def _count_logits(self, photos: Floats, records: Sequence[Record]) -> Floats:
        sizes = np.array([size_features(record) for record in records])
        return self.count(np.concatenate([photos, sizes], axis=1))

    def write(self, path: Path) -> None:
        """Store the model as arrays."""
        ensembles = {"agreement": self.agreement, "prior": self.prior, "count": self.count}
        arrays = {key: array for name, ensemble in ensembles.items() for key, array in ensemble.arrays(name).items()}
        columns = {"learned": np.array(self.columns.learned), "classes": np.array(self.columns.classes)}
        write_arrays(path, {**columns, "weight": self.weight, "bias": self.bias, **arrays})

    @classmethod
    def read(cls, path: Path) -> "RecordModel":
        """Read what ``write`` stored. Raises ArchiveError for a damaged file."""
        arrays = read_arrays(path)
        try:
            values = {name: tuple(map(int, arrays.pop(name))) for name in ("learned", "classes")}
            model = cls(
                columns=Columns(**values),
                weight=arrays["weight"],
                bias=arrays["bias"],
                **{name: Ensemble.from_arrays(name, arrays) for name in ("agreement", "prior", "count")},
            )
            model._check()
        except (KeyError, ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise ArchiveError(f"{path.name} in the archive cannot be read: {error!r:.200}") from error
        return model

    def _check(self) -> None:
        """Answer for one record. Raises ValueError and FloatingPointError where the arrays do not go together."""
        records = [Record(1, (Product(quantity=1, sides_cm=(10.0, 10.0, 10.0)),))]
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            photos = self.photo_features(np.zeros((1, len(self.weight)), dtype=np.float32))
            pairs = self._pair_features(photos, records)
            outputs = self.agreement(pairs), self.prior(pairs), self._count_logits(photos, records)
        shapes = [output.shape for output in outputs]
        if shapes != [(1, 1), (1, 1), (1, len(self.columns.classes))] or not np.isfinite(np.hstack(outputs)).all():
            raise ValueError(f"its ensembles give {shapes} of {len(self.columns.classes)} counts, or no finite numbers")
