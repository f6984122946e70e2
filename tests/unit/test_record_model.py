"""The record model without a network: its features of records by hand, its arithmetic, and its file."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve.errors import ArchiveError, FieldError
from serve.evidence.record import MAX_PRODUCTS, MAX_QUANTITY, SIDE_CM, WEIGHT_KG, Product, Record, parse_either
from serve.evidence.record_model import (
    MAX_FEATURE,
    MEASURES,
    Columns,
    Ensemble,
    RecordModel,
    measures,
    record_features,
    size_features,
)
from tests.record_models import BOX, FEATURES, PEN, RECORD_WIDTH, model_of, record_of

LEARNED, CLASSES = tuple(range(9)), (1, 2, 3, 4, 5)
COLUMNS = Columns(learned=LEARNED, classes=CLASSES)


def scaled(raw: list[float], means: list[float], spreads: list[float]) -> list[float]:
    return [(value - mean) / spread for value, mean, spread in zip(raw, means, spreads, strict=True)]


def test_the_measures_are_logarithms_of_what_the_bin_holds() -> None:
    raw = [
        math.log(2 * 1000 + 8),
        math.log(20),
        math.log((2 * 20 + 4) / 3),
        math.log(2 * 0.5 + 0.1),
        math.log(3),
        math.log(2),  # a pen is of the smallest size
        0.0,
        math.log(3),  # two boxes of a litre
        0.0,
        0.0,
        (2 * math.log(1000) + math.log(8)) / 3,
    ]
    means = [7.0, 3.0, 3.0, -0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 7.0]
    spreads = [1.2, 0.5, 0.5, 1.0, 0.4, 0.7, 0.7, 0.7, 0.7, 0.7, 1.2]
    assert measures(record_of(BOX, PEN)) == pytest.approx(scaled(raw, means, spreads))


def test_the_features_of_a_record_are_its_measures_and_its_shape() -> None:
    features = record_features(record_of(BOX, PEN))
    assert features[:MEASURES] == pytest.approx(measures(record_of(BOX, PEN)))
    shape = [
        3 - 3,
        2 - 1,
        (math.log(8) - 6) / 1.5,
        (math.log(1000) - 7) / 1.5,
        math.log(1) - 1,
        math.log(5) - 1,
        (math.log(1000) - 7) / 1.5,  # of the product with most units
    ]
    assert features[MEASURES:] == pytest.approx(shape)


def test_units_of_measure_make_no_difference() -> None:
    inches = [20 / 2.54, 10 / 2.54, 5 / 2.54]
    contents = [
        [{"quantity": 2, "length": 20, "width": 10, "height": 5, "size_unit": "cm", "weight": 500, "weight_unit": "g"}],
        [
            {
                "quantity": 2,
                **dict(zip(("height", "length", "width"), inches, strict=True)),
                "size_unit": "in",
                "weight": 0.5 / 0.45359237,
                "weight_unit": "lb",
            }
        ],
    ]
    metric, imperial = (measures(parse_either(content)) for content in contents)
    assert metric == pytest.approx(measures(record_of(BOX)))
    assert imperial == pytest.approx(metric)


@pytest.mark.parametrize(
    "unknown",
    [Record(3), Record(0), record_of(replace(BOX, sides_cm=None)), record_of(BOX, replace(PEN, sides_cm=None))],
    ids=["no products", "nothing", "no size", "one size"],
)
def test_without_all_sizes_no_measure_is_known(unknown: Record) -> None:
    assert np.isnan(measures(unknown)).all()
    assert not unknown.has_sizes


def test_an_unknown_weight_leaves_one_measure_unknown_and_is_read_as_an_average_one() -> None:
    partly = record_of(BOX, replace(PEN, weight_kg=None))
    assert np.flatnonzero(np.isnan(measures(partly))).tolist() == [3]
    features = record_features(partly)
    assert features[3] == 0
    assert np.delete(features, 3) == pytest.approx(np.delete(record_features(record_of(BOX, PEN)), 3))


def test_the_order_of_products_and_those_with_no_units_do_not_count() -> None:
    gone = Product(id="gone", quantity=0, sides_cm=(250.0, 250.0, 250.0), weight_kg=150.0)
    unknown = Product(id="unknown", quantity=0)
    for same in (record_of(PEN, BOX), record_of(gone, BOX, PEN), record_of(BOX, unknown, PEN)):
        assert record_features(same) == pytest.approx(record_features(record_of(BOX, PEN)))
        assert size_features(same) == pytest.approx(size_features(record_of(BOX, PEN)))


def test_the_sizes_say_nothing_of_quantities() -> None:
    many = record_of(replace(BOX, quantity=70), replace(PEN, quantity=9))
    assert (size_features(many) == size_features(record_of(BOX, PEN))).all()
    assert not (record_features(many) == record_features(record_of(BOX, PEN))).all()
    one_each = record_of(replace(BOX, quantity=1), PEN)
    assert (size_features(many) == record_features(one_each)).all()


def test_what_is_read_of_a_photo_is_log_probabilities_expected_counts_and_measures() -> None:
    columns = Columns(learned=(1, 2, 3), classes=(2, 3))
    taught = np.linspace(-1, 1, MEASURES)
    logits = np.log([0.5, 0.3, 0.2])
    (row,) = columns.photo_features(np.concatenate([logits + 7, taught])[None])
    assert len(row) == columns.width == 3 + 2 + 2 + MEASURES
    assert row[:3] == pytest.approx(logits)
    assert row[3:5] == pytest.approx(np.log([0.6, 0.4]))
    assert row[5:7] == pytest.approx([0.6 * 2 + 0.4 * 3 - 3, 0.5 + 0.6 + 0.6 - 3])
    assert row[7:] == pytest.approx(taught)
    (untaught,) = columns.photo_features(logits[None])
    assert untaught == pytest.approx(np.concatenate([row[:7], np.zeros(MEASURES)]))


def test_extreme_logits_have_finite_features() -> None:
    features = COLUMNS.photo_features(np.array([[1e4, *[-1e4] * 8], [0.0] * 9, [-1e300, 1e300, *[0.0] * 7]]))
    assert np.isfinite(features).all()


def photos(number: int) -> NDArray[np.float64]:
    return COLUMNS.photo_features(np.random.default_rng(number).normal(size=(number, len(LEARNED) + MEASURES)))


def test_a_pair_is_the_photo_what_lies_between_and_the_record() -> None:
    photo, records = photos(2), np.array([record_features(record_of(BOX, PEN)), record_features(record_of(PEN))])
    quantities = np.array([3.0, 1.0])
    pairs = COLUMNS.pair_features(photo, records, quantities)
    width = COLUMNS.width
    assert pairs.shape == (2, width + MEASURES + 4 + RECORD_WIDTH)
    assert (pairs[:, :width] == photo).all()
    assert (pairs[:, -RECORD_WIDTH:] == records).all()
    assert pairs[:, width : width + MEASURES] == pytest.approx(records[:, :MEASURES] - photo[:, -MEASURES:])
    recorded, below_highest, gap, squared = pairs[0, width + MEASURES : width + MEASURES + 4]
    assert recorded == photo[0, LEARNED.index(3)]
    assert below_highest == recorded - photo[0, :9].max()
    expected_count = float(np.exp(photo[0, :9]) @ np.array(LEARNED))
    assert (gap, squared) == pytest.approx((3 - expected_count, (3 - expected_count) ** 2 / 4))


@pytest.mark.parametrize(("quantity", "place"), [(0, 0), (8, 8), (9, 8), (MAX_QUANTITY, 8)])
def test_a_quantity_above_the_learned_ones_is_the_highest(quantity: int, place: int) -> None:
    photo = photos(1)
    pairs = COLUMNS.pair_features(photo, np.zeros((1, RECORD_WIDTH)), np.array([float(quantity)]))
    assert pairs[0, COLUMNS.width + MEASURES] == photo[0, place]
    (score,) = COLUMNS.count_nonconformity(photo, np.array([quantity]))
    assert score == pytest.approx(1 - np.exp(photo[0, place] - photo[0, :9].max()))


def test_the_most_probable_count_conforms() -> None:
    photo = photos(50)
    assert (COLUMNS.count_nonconformity(photo, photo[:, :9].argmax(axis=1)) == 0).all()


def test_without_the_photo_nothing_of_it_is_left() -> None:
    records, quantities = np.array([record_features(record_of(BOX, PEN))] * 2), np.array([3.0, 3.0])
    first, second = (
        COLUMNS.without_photo(COLUMNS.pair_features(photo, records, quantities)) for photo in (photos(2), -photos(2))
    )
    assert (first == second).all()
    assert (first[:, -RECORD_WIDTH:] == records).all()
    assert not first[:, :-RECORD_WIDTH].any()


def test_an_ensemble_is_the_mean_of_its_perceptrons() -> None:
    ensemble = Ensemble(
        mean=np.array([1.0, 0.0]),
        spread=np.array([2.0, 1.0]),
        weights=(
            np.array([[[1.0, -1.0], [2.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]),
            np.array([[[1.0], [3.0]], [[2.0], [-1.0]]]),
        ),
        biases=(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[0.5], [0.0]])),
    )
    # (3, 4) is (1, 4) when scaled: (9, 0) and (3, 5) in the hidden layers, 9.5 and 1 out of them
    assert ensemble(np.array([[3.0, 4.0]])).tolist() == [[pytest.approx((9.5 + 1.0) / 2)]]
    # (-1, -2) is (-1, -2): (-5, 2) and (-3, -3), negative ones count as zero
    assert ensemble(np.array([[-1.0, -2.0]])).tolist() == [[pytest.approx((6.5 + 0.0) / 2)]]
    capped = ensemble(np.array([[1 + 2 * MAX_FEATURE, MAX_FEATURE]]))
    assert ensemble(np.array([[1e30, 1e30]])) == pytest.approx(capped)


MODEL = model_of(COLUMNS)


def features(photos: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(photos, FEATURES)).astype(np.float32)


def test_what_a_record_is_without_the_photo_is_subtracted() -> None:
    photo, records = MODEL.photo_features(features(2)), [record_of(BOX, PEN), record_of(PEN)]
    quantities = np.array([3.0, 1.0])
    pairs = COLUMNS.pair_features(photo, np.array([record_features(item) for item in records]), quantities)
    log_odds = MODEL.agreement(pairs)[:, 0]
    assert MODEL.nonconformity(photo, records) == pytest.approx(-log_odds)
    assert MODEL.without_photo(records) == pytest.approx(MODEL.prior(COLUMNS.without_photo(pairs))[:, 0])


def test_the_probabilities_of_the_counts_do_not_see_the_recorded_quantities() -> None:
    photo = MODEL.photo_features(features(1))
    few, many = (
        MODEL.count_probabilities(photo, [record_of(replace(BOX, quantity=quantity), PEN)]) for quantity in (1, 500)
    )
    assert few.shape == (1, len(CLASSES))
    assert few.sum() == pytest.approx(1)
    assert (few == many).all()


def test_a_batch_gives_what_each_photo_gives() -> None:
    photo, records = MODEL.photo_features(features(3)), [record_of(BOX), record_of(PEN), record_of(BOX, PEN)]
    one_by_one = [MODEL.nonconformity(photo[[row]], [records[row]])[0] for row in range(3)]
    assert MODEL.nonconformity(photo, records) == pytest.approx(one_by_one)


def test_it_is_stored_in_float32_without_a_pickle_and_read_as_it_was(tmp_path: Path) -> None:
    MODEL.write(tmp_path / "record.npz")
    with np.load(tmp_path / "record.npz", allow_pickle=False) as arrays:
        types = {arrays[name].dtype for name in arrays.files if name not in ("learned", "classes")}
    assert types == {np.dtype(np.float32)}
    stored = RecordModel.read(tmp_path / "record.npz")
    assert stored.columns == COLUMNS
    photo, records = MODEL.photo_features(features(2)), [record_of(BOX, PEN), record_of(PEN)]
    assert stored.photo_features(features(2)) == pytest.approx(photo, abs=1e-5)
    assert stored.nonconformity(photo, records) == pytest.approx(MODEL.nonconformity(photo, records), rel=1e-4)
    for kind in ("agreement", "prior", "count"):
        shapes = [[layer.shape for layer in getattr(model, kind).weights] for model in (stored, MODEL)]
        assert shapes[0] == shapes[1]


def test_a_network_without_measures_has_a_record_model_too(tmp_path: Path) -> None:
    columns = Columns(learned=CLASSES, classes=CLASSES)
    model = model_of(columns)
    plain = replace(model, weight=model.weight[:, : len(CLASSES)], bias=model.bias[: len(CLASSES)])
    plain.write(tmp_path / "record.npz")
    stored = RecordModel.read(tmp_path / "record.npz")
    photo = stored.photo_features(features(1))
    assert photo.shape == (1, columns.width)
    assert not photo[:, -MEASURES:].any()


Arrays = dict[str, Any]


def without(arrays: Arrays, *names: str) -> Arrays:
    return {name: array for name, array in arrays.items() if name not in names}


DAMAGES: dict[str, Callable[[Arrays], Arrays]] = {
    "a pickle": lambda arrays: {**arrays, "weight": np.array([print], dtype=object)},
    "text": lambda arrays: {**arrays, "weight": np.array(["many"])},
    "no counts": lambda arrays: without(arrays, "learned"),
    "no head": lambda arrays: without(arrays, "weight"),
    "no bias": lambda arrays: without(arrays, "prior.bias2"),
    "no last layer": lambda arrays: without(arrays, "agreement.weight2", "agreement.bias2"),
    "no layer": lambda arrays: without(arrays, *(f"prior.weight{number}" for number in range(3))),
    "no spread": lambda arrays: without(arrays, "count.spread"),
    "a spread of zero": lambda arrays: {**arrays, "count.spread": 0 * arrays["count.spread"]},
    "a narrow head": lambda arrays: {**arrays, "weight": arrays["weight"][:, :-1], "bias": arrays["bias"][:-1]},
    "another bias": lambda arrays: {**arrays, "bias": arrays["bias"][:-1]},
    "a head of one number": lambda arrays: {**arrays, "weight": np.float32(1)},
    "inputs of another width": lambda arrays: {**arrays, "agreement.mean": arrays["agreement.mean"][1:]},
    "a layer of another width": lambda arrays: {**arrays, "count.weight1": arrays["count.weight1"][:, 1:]},
    "two outputs": lambda arrays: {**arrays, "prior.weight2": np.repeat(arrays["prior.weight2"], 2, axis=2)},
    "fewer counts": lambda arrays: {
        **arrays,
        **{name: arrays[name][..., :4] for name in ("count.weight2", "count.bias2")},
    },
    "counts that were not learned": lambda arrays: {**arrays, "classes": np.array([1, 2, 3, 4, 50])},
    "no classes": lambda arrays: {**arrays, "classes": np.array([], dtype=np.int64)},
    "counts that are no numbers": lambda arrays: {**arrays, "learned": np.full(9, np.nan)},
    "infinite counts": lambda arrays: {**arrays, "learned": np.full(9, np.inf)},
    "a weight that is no number": lambda arrays: {**arrays, "agreement.weight0": arrays["agreement.weight0"] * np.nan},
    "an infinite weight": lambda arrays: {**arrays, "count.bias2": arrays["count.bias2"] + np.inf},
    "a head that is no number": lambda arrays: {**arrays, "bias": arrays["bias"] * np.nan},
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_arrays_are_an_error_that_names_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    MODEL.write(path)
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    np.savez(path, **DAMAGES[kind](arrays))
    with pytest.raises(ArchiveError, match=r"record\.npz"):
        RecordModel.read(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04N."])
def test_a_file_that_is_none_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "record.npz"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"record\.npz"):
        RecordModel.read(path)
    path.unlink()
    with pytest.raises(ArchiveError, match=r"record\.npz"):
        RecordModel.read(path)


def test_one_array_alone_is_no_record_model(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.ones(3))
    (tmp_path / "record.npz").write_bytes(out.getvalue())
    with pytest.raises(ArchiveError, match=r"record\.npz"):
        RecordModel.read(tmp_path / "record.npz")


def test_a_file_cut_off_or_with_flipped_bits_is_read_as_it_was_or_refused(tmp_path: Path) -> None:
    path, rng = tmp_path / "record.npz", np.random.default_rng(0)
    MODEL.write(path)
    whole = path.read_bytes()
    photo, refused = MODEL.photo_features(features(1)), 0
    expected = RecordModel.read(path).nonconformity(photo, [record_of(BOX)])
    for number in range(150):
        damaged = bytearray(whole[: rng.integers(len(whole))] if number % 3 == 0 else whole)
        for _ in range(number % 3):
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert RecordModel.read(path).nonconformity(photo, [record_of(BOX)]) == expected
        except ArchiveError:
            refused += 1
    assert refused > 130


def assert_answers(content: Record) -> None:
    """Any photo and this record have finite answers, without a warning."""
    extreme = np.array([[1e30] * FEATURES, [-1e30] * FEATURES, [0.0] * FEATURES], dtype=np.float32)
    photo = MODEL.photo_features(np.concatenate([features(2), extreme]))
    records = [content] * len(photo)
    assert np.isfinite(record_features(content)).all()
    assert np.abs(record_features(content)).max() <= MAX_FEATURE
    assert np.isfinite(MODEL.nonconformity(photo, records)).all()
    assert MODEL.count_probabilities(photo, records).sum(axis=1) == pytest.approx(np.ones(len(photo)))


@pytest.mark.parametrize("products", [1, MAX_PRODUCTS])
@pytest.mark.parametrize("side", SIDE_CM)
@pytest.mark.parametrize("weight", [None, *WEIGHT_KG])
def test_extreme_records_have_finite_answers(products: int, side: float, weight: float | None) -> None:
    quantity = MAX_QUANTITY // products
    entry = {"quantity": quantity, "length": side, "width": side, "height": side, "size_unit": "cm"}
    weights = {"weight": weight, "weight_unit": "kg"}
    content = parse_either([{**entry, **weights, "id": str(number)} for number in range(products)])
    assert content.has_sizes
    assert_answers(content)


NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(*SIDE_CM),
    st.integers(),
    st.none(),
    st.sampled_from([0, -1, 1e-320, 1e308, 10**400, True, "1"]),
)
PRODUCTS = st.lists(
    st.fixed_dictionaries(
        {
            "quantity": st.one_of(st.integers(0, MAX_QUANTITY), st.integers(0, 3), NUMBERS),
            "length": NUMBERS,
            "width": st.floats(*SIDE_CM),
            "height": st.floats(*SIDE_CM),
            "size_unit": st.sampled_from(["cm", "mm", "m", "in", "IN"]),
            "weight": NUMBERS,
            "weight_unit": st.sampled_from(["kg", "g", "lb", "oz"]),
        }
    ),
    max_size=4,
)


@given(PRODUCTS, st.booleans())
def test_whatever_is_sent_is_refused_or_has_finite_answers(products: list[dict[str, object]], by_id: bool) -> None:
    content = {"BIN_FCSKU_DATA": {str(number): entry for number, entry in enumerate(products)}} if by_id else products
    try:
        read = parse_either(content)
    except FieldError:
        return
    assert 0 <= read.quantity <= MAX_QUANTITY
    if read.has_sizes:
        assert_answers(read)


def test_a_record_of_more_units_than_can_be_is_refused_in_both_forms() -> None:
    entry = {"quantity": MAX_QUANTITY, "length": 1, "width": 1, "height": 1, "size_unit": "cm"}
    total = str(2 * MAX_QUANTITY)
    with pytest.raises(FieldError, match=total):
        parse_either([entry, entry])
    with pytest.raises(FieldError, match=total):
        parse_either({"BIN_FCSKU_DATA": {"pen": entry, "box": entry}})
