"""The benchmark of the recount list: what a draw holds, and when its target is reached."""

import numpy as np
import pytest

from serve.evidence.record import Product, Record
from serve.recount.ranking import Judged
from tests.benchmarks.bench_recount import CHANCE, OWN, SHARES, WRONG, Draw, draw, result_of
from trainer.data.bin_records.wrong_records import ErrorKind, Pairs

PHOTOS = 500


def record(quantity: int) -> Record:
    return Record(quantity, (Product(quantity=quantity, sides_cm=(3.0, 2.0, 1.0)),))


@pytest.fixture
def pairs() -> Pairs:
    """One right and two wrong records of each photo."""
    kinds = (None, ErrorKind.ONE_MORE, ErrorKind.ONE_FEWER)
    return Pairs(np.repeat(np.arange(PHOTOS), len(kinds)), (record(3), record(4), record(2)) * PHOTOS, kinds * PHOTOS)


def test_a_draw_ranks_each_photo_once_with_as_many_wrong_records_as_it_should(pairs: Pairs) -> None:
    rng = np.random.default_rng(0)
    judged = [
        Judged(
            p_value=float(rng.integers(1, 101) / 100) if right else 0.01,
            calibration_photos=99,
            scores=str(quantity),
            probability=float(rng.random()),
        )
        for right, quantity in zip(pairs.right.tolist(), pairs.quantities.tolist(), strict=True)
    ]
    drawn = draw(pairs, judged, seed=1)
    assert drawn.chance == pytest.approx([round(share * PHOTOS) * WRONG for share in SHARES])
    assert drawn.found[-1] == WRONG * PHOTOS == 10
    assert all(low <= mean <= high for mean, (low, high) in zip(drawn.expected, drawn.intervals, strict=True))
    assert draw(pairs, judged, seed=1) == drawn != draw(pairs, judged, seed=2)


@pytest.mark.parametrize(("found", "holds"), [(4, True), (2, True), (1, False)])
def test_it_holds_if_the_list_finds_no_fewer_than_the_models_own_probability(found: int, holds: bool) -> None:
    alike = Draw((found,) * 4, (2,) * 4, (2.5,) * 4, ((1, 3),) * 4, (0.5,) * 4)
    result = result_of([alike] * 10)
    assert (result.holds, result.ratio) == (holds, found / 2)
    assert result.peers == {OWN: found / 2, CHANCE: 2 * found}
    assert result.runs["found, in the first 2%"] == [found]
    assert result.runs["intervals that hold it, in the first 2%"] == [float(found <= 3)]
