"""What the demo trains, and which records it asks about."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve.evidence.record import parse_record
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.prepared import splits_of
from trainer.data.split import Split
from trainer.pipeline.programs import EXTRA_UNITS, RecordCheck, demo_records, plans
from trainer.training.recipes import RECIPES


def test_the_demo_trains_a_little_then_on_little_then_in_full() -> None:
    spec, recipe = DataSpec(Path("photos"), seed=3), RECIPES["tiny"]
    first, starved, full = plans(spec, recipe)
    assert first == (spec, replace(recipe, epochs=recipe.epochs // 4))
    assert starved == (replace(spec, train_share=0.1), recipe)
    assert full == (spec, recipe)


def test_a_demo_of_one_epoch_trains_one() -> None:
    recipe = replace(RECIPES["tiny"], epochs=1)
    assert [plan.epochs for _, plan in plans(DataSpec(Path("photos")), recipe)] == [1, 1, 1]
    assert [plan.record_folds for _, plan in plans(DataSpec(Path("photos")), RECIPES["demo"])] == [0, 2, 2]


def test_the_demo_asks_about_a_right_record_and_one_that_lists_what_is_not_there(drawn: Path) -> None:
    photo, records = demo_records(DataSpec(drawn))
    assert (photo.count, splits_of(DataSpec(drawn))[1][photo.id]) == (1, Split.TEST)
    right, wrong = (parse_record(fields["record"]) for fields in records.values())
    assert (right.quantity, wrong.quantity) == (1, 1 + EXTRA_UNITS)
    (stranger,) = set(wrong.products) - set(right.products)
    assert (stranger.quantity, stranger.sides_cm is None) == (EXTRA_UNITS, False)
    assert set(right.products) < set(wrong.products)
    assert any(stranger.label.strip("'") in name for name in records)


def test_the_demo_asks_about_quantities_where_photos_have_no_records(drawn: Path) -> None:
    table = drawn.parent / "demo.csv"
    lines = [
        f"{photo.path.relative_to(drawn.parent)},{photo.count}" for photo in read_inventory(drawn, Counts()).photos
    ]
    table.write_text("\n".join(["path,count", *lines]))
    photo, records = demo_records(DataSpec(table))
    assert list(records.values()) == [{"expected_quantity": 1}, {"expected_quantity": 1 + EXTRA_UNITS}]
    assert photo.count == 1


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"verdict": "mismatch", "evidence": "photo+products", "reason": "why"}, "mismatch by photo+products: why"),
        ({"verdict": "match", "reason": "why"}, "match by photo: why"),
        ({"code": 422, "type": "BadField", "message": "what to do"}, "what to do"),
        ({}, "{}"),
    ],
)
def test_the_demo_says_what_the_server_answers(answer: dict[str, object], shown: str) -> None:
    assert shown in RecordCheck(record="its record", answer=answer).in_words()
