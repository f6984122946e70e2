"""The order in which bins are to be recounted: by the probability that the record is wrong, with what to expect."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from serve.errors import SettingsError
from serve.recount.base_rate import BaseRate
from serve.recount.budget import Expectation, expect
from serve.recount.mixture import Floats, Group, Ints, Mixture
from serve.recount.selection import Selection, select


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How well the record of one bin fits its photo.

    ``p_value``: the answer's ``fit`` of the recorded count; ``scores``: a name that bins share which are ranked among
    the same calibration photos; ``calibration_photos``: their number, None if unknown: then the lowest p-value of these
    bins is taken for the lowest possible one; ``probability``: that the record is right, by the model itself (0-1).
    """

    p_value: float
    calibration_photos: int | None
    scores: str
    probability: float


@dataclass(frozen=True)
class Ranking:
    """Bins in the order of their recount.

    ``order``: rows of the batch, those most probably wrong first; ``probabilities``: that each record is wrong, by row.
    """

    order: Ints
    probabilities: Floats
    groups: tuple[Group, ...]
    mixture: Mixture

    def budget(self, bins: int, seed: int = 0) -> Expectation:
        """What the first ``bins`` hold; all, where there are fewer. Raises SettingsError."""
        if bins < 1:
            raise SettingsError(f"the budget is {bins}; give a number of bins from 1")
        return expect(self.mixture, self.groups, self.order[:bins], seed)

    def worthwhile(self, one_in: float) -> int:
        """How many bins come before the next finds fewer than one wrong record in ``one_in``. Raises SettingsError."""
        if not one_in >= 1:
            raise SettingsError(f"one-in is {one_in:g}; give a number from 1")
        return int((self.probabilities >= 1 / one_in).sum())

    def select(self, fdr: float) -> Selection:
        """The longest list of which at most the share ``fdr`` is expected to be right. Raises SettingsError."""
        return select(self._p_values.tolist(), self._photos.tolist(), fdr)

    @cached_property
    def _photos(self) -> Ints:
        photos = np.empty(len(self.order), dtype=np.int64)
        for group in self.groups:
            photos[group.rows] = group.photos
        return photos

    @cached_property
    def _p_values(self) -> Floats:
        """Without the rounding of answers."""
        p_values = np.empty(len(self.order))
        for group in self.groups:
            p_values[group.rows] = group.cells / (group.photos + 1)
        return p_values


def rank(bins: Sequence[Judged], rate: BaseRate | None = None) -> Ranking:
    """Rank a batch; ``rate``: the base rate of wrong records, without which the prior stands.

    Bins with the same p-value among the same photos are in the order of the model's own probability.
    """
    groups = tuple(_groups(bins))
    mixture = Mixture.fit(groups, rate or BaseRate())
    probabilities = np.empty(len(bins))
    for group in groups:
        probabilities[group.rows] = mixture.probabilities(group)
    own = np.array([item.probability for item in bins])
    order = np.lexsort((np.arange(len(bins)), own, -probabilities)).astype(np.int64)
    return Ranking(order, probabilities, groups, mixture)


def _groups(bins: Sequence[Judged]) -> Iterator[Group]:
    rows = defaultdict[tuple[str, int | None], list[int]](list)
    for row, item in enumerate(bins):
        rows[item.scores, item.calibration_photos].append(row)
    for (_, known_photos), members in rows.items():
        p_values = np.array([bins[row].p_value for row in members])
        photos = round(1 / max(p_values.min(), 1e-4)) - 1 if known_photos is None else known_photos
        cells = np.clip(np.rint(p_values * (photos + 1)), 1, photos + 1).astype(np.int64)
        ascending = np.argsort(cells, kind="stable")
        yield Group(photos=photos, cells=cells[ascending], rows=np.array(members)[ascending])
