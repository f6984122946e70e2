"""The order of recounts, what it promises, and the base rate that it rests on."""

import numpy as np
import pytest

from serve.errors import SettingsError
from serve.recount.base_rate import PRIOR_MEAN, PRIOR_WEIGHT, BaseRate, mean_power, probability_wrong
from serve.recount.mixture import SHAPES
from serve.recount.mixture import mean_power as mean_powers
from serve.recount.ranking import Judged, rank
from serve.recount.recount_entities import Outcome, Recount
from serve.recount.selection import select

PHOTOS = 99


def judged(p_value: float, probability: float = 0.5, scores: str = "3", photos: int | None = PHOTOS) -> Judged:
    return Judged(p_value=p_value, calibration_photos=photos, scores=scores, probability=probability)


def batch(wrong: int, right: int = 300) -> list[Judged]:
    """Right records whose p-values are even, and wrong ones with the lowest."""
    return [judged((1 + row % 100) / 100) for row in range(right)] + [judged(0.01)] * wrong


def recount(recorded: int, count: int | None, random: bool = True) -> Recount:
    return Recount(
        event_id="e",
        seen_at="2026-11-30T10:00:00.000Z",
        recorded_quantity=recorded,
        random=random,
        outcome=Outcome.COUNT if count is not None else Outcome.CANNOT_TELL,
        settled_at="2026-11-30T11:00:00.000Z",
        count=count,
    )


def test_a_lower_p_value_comes_first_and_the_models_own_probability_breaks_ties() -> None:
    ranking = rank([judged(0.5), judged(0.02, 0.9), judged(0.02, 0.1), judged(1.0), judged(0.01)])
    assert ranking.order.tolist() == [4, 2, 1, 0, 3]
    assert (np.diff(ranking.probabilities[ranking.order]) <= 0).all()


def test_bins_of_several_counts_are_in_one_order() -> None:
    bins = [judged(p, scores=scores, photos=n) for scores, n in (("1", 19), ("2", 99)) for p in (0.05, 0.5, 1.0)]
    ranking = rank(bins)
    assert set(ranking.order[:2].tolist()) == {0, 3}
    assert ranking.budget(6).bins == 6


def test_a_batch_with_many_low_p_values_is_expected_to_hold_more_wrong_records() -> None:
    few, many = rank(batch(wrong=0)), rank(batch(wrong=60))
    assert few.budget(30).wrong < 5 < 15 < many.budget(30).wrong
    assert few.mixture.rate < many.mixture.rate
    assert few.worthwhile(20) < many.worthwhile(20)


def test_an_expectation_lies_in_its_interval_and_grows_with_the_budget() -> None:
    ranking = rank(batch(wrong=20))
    expectations = [ranking.budget(bins) for bins in (1, 10, 50, 320, 9999)]
    assert all(item.interval[0] <= item.wrong <= item.interval[1] for item in expectations[1:])
    assert all(item.interval[1] <= item.bins for item in expectations)
    assert [item.bins for item in expectations] == [1, 10, 50, 320, 320]
    assert sorted(item.wrong for item in expectations) == [item.wrong for item in expectations]
    assert ranking.budget(50) == expectations[2]


def test_recounts_change_what_is_expected() -> None:
    bins = batch(wrong=5)
    rare, common = (rank(bins, BaseRate(wrong, 1000 - wrong)) for wrong in (2, 200))
    assert rare.budget(50).wrong < common.budget(50).wrong


def test_many_records_that_are_the_most_probable_count_are_taken_for_right() -> None:
    ranking = rank([*[judged(1.0)] * 500, judged(0.4), judged(0.01)])
    assert ranking.order[:2].tolist() == [501, 500]
    assert ranking.probabilities[0] < PRIOR_MEAN < ranking.probabilities[501]
    assert ranking.budget(502).bins == 502


def test_where_an_answer_does_not_say_how_many_calibration_photos_the_batch_does() -> None:
    known, unknown = (rank([judged(k / 100, photos=photos) for k in range(1, 101)]) for photos in (PHOTOS, None))
    assert unknown.order.tolist() == known.order.tolist()
    assert unknown.probabilities == pytest.approx(known.probabilities)


def test_an_empty_batch_expects_nothing() -> None:
    ranking = rank([])
    assert (ranking.budget(10).wrong, ranking.budget(10).interval) == (0, (0, 0))
    assert ranking.select(0.2).rows == ()


@pytest.mark.parametrize(("method", "value"), [("budget", 0), ("worthwhile", 0.5), ("select", 0.0), ("select", 1.0)])
def test_a_wish_that_cannot_be_is_refused_with_its_value(method: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{value:g}"):
        getattr(rank(batch(wrong=1)), method)(value)


def test_a_list_is_as_long_as_benjamini_and_hochberg_allow() -> None:
    p_values = [0.01, 0.5, 0.02, 0.03, 0.9, 0.6, 0.7, 0.8, 0.95, 1.0]
    assert select(p_values, [PHOTOS] * 10, 0.1).rows == (0, 2, 3)
    assert select(p_values, [PHOTOS] * 10, 0.09).rows == ()


def test_where_nothing_is_selected_the_reason_says_how_low_a_p_value_can_be() -> None:
    selection = select([0.01] * 9 + [0.5] * 991, [PHOTOS] * 1000, 0.2)
    assert selection.rows == ()
    assert all(number in selection.reason for number in ("0.0100", "99", "1000", "50 of", "9 are"))
    assert select([0.01] * 50 + [0.5] * 950, [PHOTOS] * 1000, 0.2).rows == tuple(range(50))


def test_recounts_of_the_random_share_update_the_base_rate() -> None:
    recounts = [recount(3, 3)] * 90 + [recount(3, 2)] * 10
    chosen, without_count = [recount(3, 2, random=False)] * 50, [recount(3, None)] * 50
    rate = BaseRate().updated([*recounts, *chosen, *without_count])
    assert rate.mean == pytest.approx((10 + PRIOR_MEAN * PRIOR_WEIGHT) / (100 + PRIOR_WEIGHT))
    assert (rate.recounts, BaseRate().recounts) == (100, 0)
    assert BaseRate().mean == pytest.approx(PRIOR_MEAN)


def test_the_probability_of_a_single_record_falls_with_its_p_value_and_grows_with_the_rate() -> None:
    values = [probability_wrong(p_value, PHOTOS) for p_value in (0.0, 0.01, 0.05, 0.5, 1.0)]
    assert values[0] == values[1] > values[2] > PRIOR_MEAN > values[3] > values[4] > 0
    assert probability_wrong(0.01, PHOTOS, rate=0.1) > values[1]
    assert probability_wrong(1.0, 0) == pytest.approx(PRIOR_MEAN)


def test_both_forms_of_the_mean_power_agree() -> None:
    cells = np.array([0, 1, 5, PHOTOS + 1])
    scalars = [[mean_power(cell, PHOTOS, shape) for shape in SHAPES] for cell in cells.tolist()]
    assert mean_powers(cells[:, None], PHOTOS, SHAPES) == pytest.approx(np.array(scalars))
