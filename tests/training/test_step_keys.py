"""What decides whether a training or an evaluation of before is used again: records with products, too."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.data.dataset import Dataset, DataSpec, load
from trainer.pipeline.step_cache import evaluation_key, training_key
from trainer.training.recipes import RECIPES, Recipe


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> Path:
    """Drawn bins whose records can be changed."""
    return Path(shutil.copytree(drawn, tmp_path / "bins"))


def data_of(source: Path) -> Dataset:
    return load(DataSpec(source, limit=60), 32)


def correct_a_size(source: Path, data: Dataset, split: str) -> None:
    """Another size of a product in the record of the first photo of a split that has one."""
    for photo in getattr(data, split).photos:
        path = source / "metadata" / f"{photo.id}.json"
        record = json.loads(path.read_text())
        product = next(iter(record["BIN_FCSKU_DATA"].values()))
        if product["length"]:
            product["length"]["value"] *= 1.5
            path.write_text(json.dumps(record))
            return
    raise AssertionError("no product has a size")


@pytest.mark.parametrize(
    ("recipe", "trains_again"),
    [
        (RECIPES["tiny"], False),
        (RECIPES["demo"], True),
        (replace(RECIPES["tiny"], auxiliary=1.0), True),
        (replace(RECIPES["tiny"], record_folds=2), True),
    ],
    ids=["neither", "both", "measures", "record model"],
)
def test_a_corrected_size_is_learned_where_products_matter(source: Path, recipe: Recipe, trains_again: bool) -> None:
    before = data_of(source)
    key = training_key(before, recipe, 0)
    assert training_key(data_of(source), recipe, 0) == key
    correct_a_size(source, before, "train")
    after = data_of(source)
    assert after.fingerprint == before.fingerprint
    assert (training_key(after, recipe, 0) != key) == trains_again


def test_a_corrected_size_of_a_test_photo_is_evaluated_again(source: Path) -> None:
    before = data_of(source)
    keys = evaluation_key("a", before.test), training_key(before, RECIPES["demo"], 0)
    correct_a_size(source, before, "test")
    after = data_of(source)
    assert evaluation_key("a", after.test) != keys[0]
    assert training_key(after, RECIPES["demo"], 0) == keys[1]
