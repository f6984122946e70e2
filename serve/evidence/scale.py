"""The scale: do a bin's contents weigh what its record's products weigh? Pure functions.

The expected weight is the sum over the listed products. Its uncertainty is that of the catalogue: an error in the
weight of a product is shared by all its units, and independent of the errors of the other products. Two parts of it
were measured on the 15,613 products of 11,928 real records:

- 78 % of the weights are multiples of 0.05 lb, so they are rounded to that: ROUNDING_SD_KG.
- 194 products that state a net weight of 800 g or more in their name ("5 lb") spread by 10 % around the catalogue's
  weight: RELATIVE_SD. That is an upper bound, because it contains differences between packagings.

A catalogue also has weights that are plainly wrong, which no tolerance covers. They are left out of the sum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve import verdict
from serve.evidence.fields import Fields
from serve.evidence.record import KG, Product, Record, enumerate_labels
from serve.verdict import Verdict, VerdictKind

RELATIVE_SD = 0.10
ROUNDING_SD_KG = 0.05 * KG["lb"] / math.sqrt(12)
SCALE_SD_KG = 0.005
"""Of a bench scale; assumed."""
STANDARD_DEVIATIONS = 2.0
"""Half the width of the tolerance: a right record is outside it for about 5 % of bins, if errors are normal."""
MEDIAN_KG, MEDIAN_EXPONENT = 1.28e-3, 0.744
"""Half of the real products weigh less than ``MEDIAN_KG * volume_cm3**MEDIAN_EXPONENT``: quantile regression."""
POSSIBLE_RATIOS = (1 / 30, 100.0)
"""How many times the median for its size a product can weigh; all but 0.7 % of the real products are between them."""
STAND_IN_KG, STAND_IN_RATIO = 0.01, 0.5
"""7.6 % of the real products weigh exactly 10 g, six porcelain bowls among them: it stands for a weight that nobody
measured. It is believed only of a product whose size suggests no more than twice that."""
HEAVY_RATIO = 10.0
"""99 % of the real products of a size weigh at most this many times its median."""


@dataclass(frozen=True)
class ExpectedWeight:
    """What the contents weigh by the record: ``kg`` ± ``tolerance_kg``, without the products ``left_out``.

    ``left_out_kg``: what these weigh at most, infinite where their size says nothing about it; ``notes``: why they are
    left out, in sentences.
    """

    kg: float
    tolerance_kg: float
    left_out: tuple[Product, ...] = ()
    left_out_kg: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weighing:
    """What the scale says: its verdict, ``content`` for the answer, ``notes`` on what the sum leaves out."""

    verdict: Verdict
    content: Mapping[str, object]
    notes: tuple[str, ...] = ()


def weigh(fields: Fields) -> Weighing | None:
    """Compare the measured weight with the recorded one, else with the record's products; None without a weight."""
    if fields.weight is None:
        return None
    if fields.expected_weight is not None:
        judgement = verdict.weight_verdict(fields.weight, fields.expected_weight)
        return _weighing(judgement, fields, {"expected_weight": fields.expected_weight})
    if fields.record is None or fields.weight_unit is None:
        return None
    expected, unit_kg = expected_weight(fields.record), KG[fields.weight_unit]
    judgement = judge_weight(expected, fields.record, fields.weight * unit_kg, fields.weight_unit)
    numbers = {"expected_weight": expected.kg / unit_kg, "tolerance": expected.tolerance_kg / unit_kg}
    content = {name: round(number, 4) for name, number in numbers.items()}
    return _weighing(judgement, fields, {**content, "unit": fields.weight_unit}, expected.notes)


def _weighing(
    judgement: Verdict, fields: Fields, numbers: Mapping[str, object], notes: tuple[str, ...] = ()
) -> Weighing:
    content = {"weight": fields.weight, **numbers, "verdict": judgement.verdict, "reason": judgement.reason}
    return Weighing(judgement, content, notes)


def expected_weight(record: Record) -> ExpectedWeight:
    """The expected weight of the contents of a bin."""
    wrong = {product: reason for product in record.listed if (reason := _contradiction(product))}
    unknown = [product for product in record.listed if product.weight_kg is None]
    usable = [product for product in record.listed if product not in wrong and product.weight_kg is not None]
    notes = [*wrong.values(), *([f"the weight of {enumerate_labels(unknown)} is not known"] if unknown else [])]
    sum_kg = math.fsum(product.quantity * (product.weight_kg or 0.0) for product in usable)
    left_out = (*wrong, *unknown)
    return ExpectedWeight(
        kg=sum_kg,
        tolerance_kg=_tolerance_kg(usable),
        left_out=left_out,
        left_out_kg=math.fsum(product.quantity * _heaviest_kg(product) for product in left_out),
        notes=tuple(notes),
    )


def judge_weight(expected: ExpectedWeight, record: Record, weight_kg: float, unit: str) -> Verdict:
    """Judge a record by the measured weight of the contents. ``unit``: the one to state weights in, a key of KG.

    ``match``: the weight fits, and that of no record with one unit more or fewer of a listed product would. The promise
    about false alarms does not cover weights. ``unsure``, where products that are left out can explain the weight.
    """
    off_kg, reason = weight_kg - expected.kg, _compare(expected, weight_kg, unit)
    if not record.products and record.quantity:
        return _verdict(VerdictKind.UNSURE, "the record lists no products whose weights could be summed")
    if expected.left_out:
        is_explained = -expected.tolerance_kg <= off_kg <= expected.tolerance_kg + expected.left_out_kg
        return _verdict(VerdictKind.UNSURE if is_explained else VerdictKind.MISMATCH, reason)
    alternative = _alternative(record.listed, off_kg, expected.tolerance_kg)
    if abs(off_kg) > expected.tolerance_kg:
        return _verdict(VerdictKind.MISMATCH, f"{reason}; with {alternative} it would fit" if alternative else reason)
    if alternative:
        return _verdict(VerdictKind.UNSURE, f"{reason}; but with {alternative} it would fit, too")
    return _verdict(VerdictKind.MATCH, reason)


def _compare(expected: ExpectedWeight, weight_kg: float, unit: str) -> str:
    """The measured and the expected weight in words, with what is left out of the sum."""
    by_record = f"{_format(expected.kg, unit)} ± {_format(expected.tolerance_kg, unit, 2)}"
    reason = f"the contents weigh {_format(weight_kg, unit)}, by the record {by_record}"
    if not expected.left_out:
        return reason
    at_most = f" (at most {_format(expected.left_out_kg, unit, 2)})" if math.isfinite(expected.left_out_kg) else ""
    return f"{reason} and the unknown weight of {enumerate_labels(expected.left_out)}{at_most}"


def _verdict(kind: VerdictKind, reason: str) -> Verdict:
    return Verdict(kind, reason, None, ())


def _alternative(products: Sequence[Product], off_kg: float, tolerance_kg: float) -> str:
    """The one unit more or fewer that would fit the weight best, in words; empty where none would fit."""
    changes = [
        (abs(off_kg - sign * product.weight_kg), f"one {product.label} {word}")
        for product in products
        if product.weight_kg is not None
        for sign, word in ((1, "more"), (-1, "fewer"))
    ]
    remaining_kg, words = min(changes, default=(math.inf, ""))
    return words if remaining_kg <= tolerance_kg else ""


def _tolerance_kg(products: Sequence[Product]) -> float:
    """STANDARD_DEVIATIONS of the sum; units of a product share its error, errors of products are independent."""
    errors = [
        product.quantity * math.hypot(RELATIVE_SD * (product.weight_kg or 0.0), ROUNDING_SD_KG) for product in products
    ]
    return STANDARD_DEVIATIONS * math.hypot(SCALE_SD_KG, *errors)


def _contradiction(product: Product) -> str:
    """Why the weight of a product cannot be right, by its size; empty where it can be, or where one is not known."""
    if product.weight_kg is None or product.sides_cm is None:
        return ""
    ratio = product.weight_kg / _median_kg(product.sides_cm)
    stands_in = math.isclose(product.weight_kg, STAND_IN_KG, rel_tol=1e-3) and ratio < STAND_IN_RATIO
    if POSSIBLE_RATIOS[0] <= ratio <= POSSIBLE_RATIOS[1] and not stands_in:
        return ""
    times = f"{ratio:.0f} times" if ratio >= 1 else f"1/{1 / ratio:.0f} of"
    return (
        f"the weight of {product.label}, {product.weight_kg:.3g} kg, is {times} the median for its size; it is left out"
    )


def _median_kg(sides_cm: tuple[float, float, float]) -> float:
    """What half of the products of a size weigh less than."""
    return MEDIAN_KG * math.prod(sides_cm) ** MEDIAN_EXPONENT


def _heaviest_kg(product: Product) -> float:
    """What a unit of a product weighs at most, by its size; infinite where that is unknown, or may itself be wrong."""
    if product.sides_cm is None:
        return math.inf
    median_kg = _median_kg(product.sides_cm)
    return math.inf if (product.weight_kg or 0.0) > POSSIBLE_RATIOS[1] * median_kg else HEAVY_RATIO * median_kg


def _format(kg: float, unit: str, digits: int = 3) -> str:
    """A weight in words."""
    value = kg / KG[unit]
    return f"{value:.0f} {unit}" if 100 <= value < 1e6 else f"{value:.{digits}g} {unit}"
