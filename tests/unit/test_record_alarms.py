"""How often records with products raise the alarm, computed from what an archive says of them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from serve.evidence.record import Product, Record
from serve.verdict import ALPHA
from tests.unit.gating import COUNTS, side
from trainer.data.bin_records.wrong_records import ErrorKind, Pairs
from trainer.evaluation.alarms import ALPHAS, CURVE
from trainer.evaluation.evaluate import evaluation_from_json, predictions_from_json, summarise
from trainer.evaluation.evaluation_plots import record_alarm_curves
from trainer.evaluation.record_alarms import (
    RecordAnswers,
    RecordEvaluation,
    fits_by_photo,
    records_fingerprint,
    summarise_records,
)

ONE_MORE, EXCHANGED = ErrorKind.ONE_MORE, ErrorKind.EXCHANGED
IDS, BINS = ["7", "8", "7", "7", "8"], ["a", "b", "a", "a", "b"]


def record(quantity: int, name: str = "pen") -> Record:
    return Record(quantity, (Product(id=name, quantity=quantity, sides_cm=(30.0, 20.0, 10.0)),))


PAIRS = Pairs(
    rows=np.array([0, 1, 0, 0, 1]),
    records=(record(2), record(3), record(3), record(2, "box"), record(4)),
    kinds=(None, None, ONE_MORE, EXCHANGED, ONE_MORE),
)
ANSWERS = RecordAnswers(  # with products, and by the photo alone
    fit=np.array([[0.5, 0.6], [0.04, 0.3], [0.009, 0.04], [0.05, 0.6], [0.2, 0.01]]),
    count=np.array([[2, 3], [3, 3], [5, 5], [5, 5], [5, 5]], dtype=np.float64),
    expected=np.array([[2.5, 3.0], [3.0, 3.0], [5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]),
    alone=np.array([0.5, 0.5, 0.1, 0.02, 0.9]),
    calibration=np.array([200] * 5),
)


def judged() -> RecordEvaluation:
    return summarise_records(PAIRS, ANSWERS, BINS)


def test_each_kind_of_error_has_its_share_with_products_by_the_photo_and_by_the_record() -> None:
    alarms = dict(zip(ALPHAS, judged().alarms, strict=True))[0.05]
    assert alarms.false_alarms == 0.5
    assert alarms.false_alarms_interval == (0.0, 1.0)
    assert alarms.caught == {"one_more": 0.5, "exchanged": 1.0}  # an alarm at exactly alpha is one
    assert alarms.by_photo == {"one_more": 1.0, "exchanged": 0.0}
    assert alarms.by_record == {"one_more": 0.0, "exchanged": 1.0}
    assert alarms.caught_interval == {"one_more": (0.0, 1.0), "exchanged": (1.0, 1.0)}
    names = {"records_false_alarms_at_5", "records_caught_one_more_at_5", "records_caught_exchanged_at_5"}
    assert names <= judged().metrics().keys()


def test_the_photo_alone_decides_where_calibration_photos_with_products_are_too_few() -> None:
    few = replace(ANSWERS, calibration=np.array([200, 200, 200, 200, 30]))  # enough for 5 %, not for 1 %
    assert few.fit_at(0.05).tolist() == ANSWERS.fit[:, 0].tolist()
    assert few.fit_at(0.01).tolist() == [*ANSWERS.fit[:4, 0], ANSWERS.fit[4, 1]]
    alarms = dict(zip(ALPHAS, summarise_records(PAIRS, few, BINS).alarms, strict=True))
    assert alarms[0.01].caught["one_more"] == 1.0
    assert alarms[0.05].caught["one_more"] == 0.5
    assert few.fit_at(ALPHA).tolist() == ANSWERS.fit_at(ALPHA).tolist()


def test_counts_with_products_stand_beside_those_of_the_same_photos_without() -> None:
    evaluation = judged()
    assert (evaluation.photos, evaluation.accuracy, evaluation.photo_accuracy) == (2, 1.0, 0.5)
    assert evaluation.rmse == pytest.approx((0.25 / 2) ** 0.5)
    assert evaluation.photo_rmse == pytest.approx((1 / 2) ** 0.5)


def test_the_curves_go_through_the_alarms() -> None:
    curves = judged().curves
    assert curves
    assert curves.alphas == CURVE
    for alarms in judged().alarms:
        place = CURVE.index(alarms.alpha)
        assert curves.right[place] == alarms.false_alarms
        for kind in ("one_more", "exchanged"):
            assert curves.caught[kind][place] == alarms.caught[kind]
            assert curves.by_photo[kind][place] == alarms.by_photo[kind]
            assert curves.by_record[kind][place] == alarms.by_record[kind]


def test_the_picture_has_a_panel_for_each_kind_of_error() -> None:
    curves = judged().curves
    assert curves
    panels = record_alarm_curves(curves).axes
    assert [panel.get_title() for panel in panels if panel.axison] == ["one more", "exchanged"]
    assert len(panels[0].lines) == 5


def test_p_values_are_kept_by_photo_and_kind_of_error() -> None:
    assert fits_by_photo(PAIRS, ANSWERS.fit_at(ALPHA).tolist(), IDS) == {
        "7": {"right": (0.5,), "one_more": (0.009,), "exchanged": (0.05,)},
        "8": {"right": (0.04,), "one_more": (0.2,)},
    }


def test_other_records_have_another_fingerprint() -> None:
    others = [
        replace(PAIRS, records=(record(2, "cup"), *PAIRS.records[1:])),
        replace(PAIRS, kinds=(None, None, ONE_MORE, EXCHANGED, EXCHANGED)),
    ]
    prints = [records_fingerprint(pairs, IDS) for pairs in (PAIRS, *others)]
    assert len({*prints, records_fingerprint(PAIRS, ["7", "9", "7", "7", "9"])}) == 4
    assert records_fingerprint(PAIRS, IDS) == prints[0]


def test_an_evaluation_of_records_comes_back_from_its_file_and_is_read_without_curves() -> None:
    evaluation = replace(side([True, False]).evaluation, records=judged())
    assert evaluation_from_json(json.dumps(evaluation.to_sagemaker())) == evaluation
    content = json.loads(json.dumps(evaluation.to_sagemaker()))
    del content["binwatch"]["records"]["curves"], content["binwatch"]["records_fingerprint"]
    early = evaluation_from_json(json.dumps(content))
    assert early.records
    assert (early.records.curves, early.records_fingerprint) == (None, "")


def test_p_values_of_records_come_back_from_a_file_and_from_mlflow_s_table_and_may_be_missing() -> None:
    first, second = side([True, False], caught=[True, False]).predictions
    rows = [first, replace(second, record_fits={})]  # a photo without products
    columns = {key: [asdict(row)[key] for row in rows] for key in asdict(rows[0])}
    table = {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
    null = columns | {"record_fits": [columns["record_fits"][0], None]}
    for content in (columns, table, null):
        assert predictions_from_json(json.dumps(content)) == rows
    without = predictions_from_json(json.dumps({key: columns[key] for key in columns if key != "record_fits"}))
    assert [row.record_fits for row in without] == [{}, {}]
    assert summarise(without, COUNTS, "f").records is None
