import math
from collections.abc import Mapping

import pytest

from serve.evidence import Evidence
from serve.evidence.fields import Fields, parse_fields
from serve.evidence.record import Product, Record
from serve.evidence.scale import (
    RELATIVE_SD,
    ROUNDING_SD_KG,
    SCALE_SD_KG,
    STANDARD_DEVIATIONS,
    Weighing,
    expected_weight,
    judge_weight,
    weigh,
)
from serve.verdict import Verdict, VerdictKind

MATCH, MISMATCH, UNSURE = VerdictKind
BOX = (20.0, 15.0, 10.0)
"""A box of 3 l, whose median weight is about half a kilogram."""


def product(quantity: int, weight_kg: float | None, name: str = "box", sides: object = BOX) -> Product:
    return Product(quantity=quantity, name=name, weight_kg=weight_kg, sides_cm=sides)  # type: ignore[arg-type]


def record(*products: Product) -> Record:
    return Record(sum(item.quantity for item in products), products)


def judge(content: Record, weight_kg: float) -> Verdict:
    return judge_weight(expected_weight(content), content, weight_kg, "kg")


def tolerance(*weights: tuple[int, float]) -> float:
    variance = sum((number * math.hypot(RELATIVE_SD * kg, ROUNDING_SD_KG)) ** 2 for number, kg in weights)
    return STANDARD_DEVIATIONS * math.sqrt(variance + SCALE_SD_KG**2)


def test_the_expected_weight_is_the_sum_over_all_units() -> None:
    expected = expected_weight(record(product(3, 0.5), product(1, 2.0), product(0, 9.0)))
    assert expected.kg == pytest.approx(3.5)
    assert expected.tolerance_kg == pytest.approx(tolerance((3, 0.5), (1, 2.0)))
    assert (expected.left_out, expected.notes) == ((), ())


def test_the_error_of_a_product_is_shared_by_its_units() -> None:
    """Four units of one product are less certain than one unit each of four products of that weight."""
    equal, different = (
        expected_weight(record(product(4, 0.5))),
        expected_weight(record(*[product(1, 0.5, str(n)) for n in range(4)])),
    )
    assert equal.kg == different.kg
    assert equal.tolerance_kg == pytest.approx(2 * different.tolerance_kg, rel=0.01)


@pytest.mark.parametrize(
    ("weight_kg", "kind"),
    [(1.5, MATCH), (1.6, MATCH), (1.4, MATCH), (1.9, MISMATCH), (1.0, MISMATCH), (0.01, MISMATCH), (50.0, MISMATCH)],
)
def test_the_weight_of_three_boxes_agrees_within_the_tolerance(weight_kg: float, kind: VerdictKind) -> None:
    content = record(product(1, 0.5, "a"), product(1, 0.5, "b"), product(1, 0.5, "c"))
    assert judge(content, weight_kg).verdict == kind


def test_the_reason_names_the_weights_and_the_unit_that_is_missing_or_too_many() -> None:
    content = record(product(1, 2.0, "kettle"), product(1, 0.5, "cup"))
    missing, surplus, neither = judge(content, 0.5), judge(content, 4.5), judge(content, 9.0)
    assert [verdict.verdict for verdict in (missing, surplus, neither)] == [MISMATCH] * 3
    assert "one 'kettle' fewer" in missing.reason
    assert "one 'kettle' more" in surplus.reason
    assert "kettle" not in neither.reason
    assert "0.5 kg, by the record 2.5 kg" in missing.reason


def test_a_weight_that_would_hide_a_missing_unit_is_unsure() -> None:
    content = record(product(2, 3.0, "kettle"), product(1, 0.05, "spoon"))
    verdict = judge(content, 6.05)
    assert verdict.verdict == UNSURE
    assert "'spoon'" in verdict.reason


def test_a_weight_between_two_records_is_unsure() -> None:
    content = record(product(5, 0.5))
    assert judge(content, 2.5).verdict == UNSURE
    assert judge(content, 1.5).verdict == MISMATCH


@pytest.mark.parametrize(
    ("weight_kg", "kind"), [(0.2, MISMATCH), (0.5, UNSURE), (1.0, UNSURE), (4.0, UNSURE), (9.0, MISMATCH)]
)
def test_an_unknown_weight_can_explain_too_much_but_not_too_little(weight_kg: float, kind: VerdictKind) -> None:
    content = record(product(1, 0.5), product(1, None, "cup"))
    verdict = judge(content, weight_kg)
    assert verdict.verdict == kind
    assert "'cup'" in verdict.reason
    assert "'cup'" in expected_weight(content).notes[0]


@pytest.mark.parametrize("cup", [product(1, None, sides=None), product(1, 60.0)])
def test_a_weight_that_no_size_limits_can_explain_any_surplus(cup: Product) -> None:
    content = record(product(1, 0.5), cup)
    assert [judge(content, weight_kg).verdict for weight_kg in (0.2, 1.0, 90.0)] == [MISMATCH, UNSURE, UNSURE]


def test_what_is_left_out_does_not_matter_where_it_is_too_light_to_explain_the_weight() -> None:
    content = record(product(1, 2.0), product(1, None, sides=(3.0, 3.0, 1.0)))
    assert judge(content, 2.0).verdict == UNSURE
    assert judge(content, 3.0).verdict == MISMATCH


@pytest.mark.parametrize(
    ("weight_kg", "sides", "plausible"),
    [
        (0.5, BOX, True),
        (0.02, BOX, True),
        (0.012, BOX, False),
        (60.0, BOX, False),
        (40.0, BOX, True),
        (0.01, BOX, False),
        (0.01, (10.0, 5.0, 0.5), True),
        (0.01, None, True),
        (3.1, (2.8, 2.3, 0.25), False),
    ],
)
def test_a_weight_that_does_not_fit_the_size_is_left_out_and_named(
    weight_kg: float, sides: object, plausible: bool
) -> None:
    expected = expected_weight(record(product(1, weight_kg, "thing", sides), product(1, 0.5)))
    assert expected.kg == pytest.approx(0.5 + weight_kg * plausible)
    assert bool(expected.notes) != plausible
    assert [item.name for item in expected.left_out] == ([] if plausible else ["thing"])
    if not plausible:
        assert "'thing'" in expected.notes[0]
        assert f"{weight_kg:.3g} kg" in expected.notes[0]


def test_a_record_without_products_says_nothing_about_a_weight() -> None:
    assert judge(Record(3), 1.0).verdict == UNSURE


def test_an_empty_bin_weighs_nothing() -> None:
    assert judge(Record(0), 0.005).verdict == MATCH
    assert judge(Record(0), 0.5).verdict == MISMATCH


def weighed(**values: object) -> Weighing:
    weighing = weigh(parse_fields(values))
    assert weighing is not None
    return weighing


PRODUCTS = [{"quantity": 1, "name": "kettle", "weight": 4.0, "weight_unit": "lb"}]


def test_the_answer_has_the_weights_in_the_unit_of_the_request() -> None:
    weighing = weighed(products=PRODUCTS, weight=64, weight_unit="oz")
    assert weighing.content.keys() == {"weight", "expected_weight", "tolerance", "unit", "verdict", "reason"}
    assert weighing.content["expected_weight"] == pytest.approx(64)
    assert weighing.content["unit"] == "oz"
    assert "64 oz, by the record 64 oz" in str(weighing.content["reason"])
    assert weighing.verdict.verdict == MATCH


def test_a_recorded_weight_is_compared_as_ever() -> None:
    content: Mapping[str, object] = {"weight": 1.5, "expected_weight": 1.0}
    for more in ({}, {"products": PRODUCTS}, {"products": PRODUCTS, "weight_unit": "kg"}):
        weighing = weighed(**content, **more)
        assert weighing.content.keys() == {"weight", "expected_weight", "verdict", "reason"}
        assert weighing.verdict.verdict == MISMATCH


def test_without_a_weight_there_is_no_weighing() -> None:
    assert weigh(Fields(3)) is None
    assert weigh(parse_fields({"products": PRODUCTS})) is None


def test_evidence_says_that_a_scale_was_heard() -> None:
    assert str(Evidence.PHOTO.and_weight) == "photo+weight"
    assert str(Evidence.PHOTO_PRODUCTS.and_weight) == "photo+products+weight"
    assert Evidence.PHOTO_WEIGHT.and_weight == Evidence.PHOTO_WEIGHT
