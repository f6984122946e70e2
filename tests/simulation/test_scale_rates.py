"""How often a scale tells a wrong record from a right one: simulated weights of the products of real records."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from serve.errors import FieldError
from serve.evidence.record import KG, Product, Record, parse_record
from serve.evidence.scale import expected_weight, judge_weight
from serve.verdict import VerdictKind
from trainer.data.bin_records.wrong_records import ErrorKind, wrong_record

BINS = 1500


@pytest.fixture(scope="module")
def records(abid: Path) -> list[Record]:
    """Records of 1-5 objects."""
    records = []
    for path in sorted((abid / "metadata").glob("*.json")):
        try:
            record = parse_record(json.loads(path.read_bytes()))
        except FieldError:
            continue
        if 1 <= record.quantity <= 5 and record.listed:
            records.append(record)
    return records


def true_weight_kg(product: Product, sd: float, rng: np.random.Generator) -> float:
    """What a unit weighs: near the catalogue's weight where that can be right, else drawn from those of its size."""
    content = Record(1, (product,))
    if expected_weight(content).left_out:
        litres = math.prod(product.sides_cm) / 1000 if product.sides_cm else 1.0
        return float(0.22 * litres**0.744 * rng.lognormal(0, 0.9))
    rounding = 0.05 * KG["lb"] * (rng.random() - 0.5)
    return max(0.002, (product.weight_kg or 0.0) * (1 + sd * rng.standard_normal()) + rounding)


def verdicts(records: list[Record], kind: ErrorKind | None, sd: float) -> Counter[VerdictKind]:
    """The scale's verdicts on records with an error of one kind, or on right ones."""
    rng = np.random.default_rng(0)
    catalogue = [product for record in records for product in record.listed]
    tally: Counter[VerdictKind] = Counter()
    for number in rng.permutation(len(records))[:BINS]:
        content = records[number]
        record = content if kind is None else wrong_record(content, kind, catalogue, rng)
        if record is not None:
            measured_kg = sum(item.quantity * true_weight_kg(item, sd, rng) for item in content.listed)
            measured_kg += 0.005 * rng.standard_normal()
            tally[judge_weight(expected_weight(record), record, measured_kg, "kg").verdict] += 1
    return tally


@pytest.mark.parametrize("sd", [0.05, 0.1])
def test_a_scale_sees_most_errors_and_accuses_few_right_records(records: list[Record], sd: float) -> None:
    shares = {}
    for kind in (None, *ErrorKind):
        tally = verdicts(records, kind, sd)
        shares[kind] = {verdict: tally[verdict] / tally.total() for verdict in VerdictKind}
        text = ", ".join(f"{verdict} {share:.1%}" for verdict, share in shares[kind].items())
        print(f"weights off by {sd:.0%}: {kind or 'right'}: {text} of {tally.total()}")
    assert shares[None][VerdictKind.MISMATCH] < 0.06
    assert shares[None][VerdictKind.MATCH] > 0.3
    for kind in (ErrorKind.ONE_MORE, ErrorKind.ONE_FEWER, ErrorKind.MISSING, ErrorKind.UNLISTED, ErrorKind.EXCHANGED):
        assert shares[kind][VerdictKind.MISMATCH] > 0.45
        assert shares[kind][VerdictKind.MATCH] < 0.15
