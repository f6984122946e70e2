from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from serve.errors import DataError
from trainer.data.abid import Photo
from trainer.data.dataset import DataSpec, load
from trainer.data.split import SHARES, split_by_bin, subset


def photos(number: int, per_bin: int = 1, classes: int = 5) -> list[Photo]:
    return [Photo(str(i), 1 + i % classes, Path(), f"bin{i // per_bin}") for i in range(number)]


@pytest.mark.parametrize("per_bin", [1, 3, 17])
def test_every_bin_is_wholly_in_one_split(per_bin: int) -> None:
    many = photos(3000, per_bin)
    split_of = split_by_bin(many, seed=0).split_of
    splits_of_bin: dict[str, set[str]] = {}
    for photo in many:
        splits_of_bin.setdefault(photo.bin, set()).add(split_of[photo.id])
    assert set(split_of) == {photo.id for photo in many}
    assert {len(splits) for splits in splits_of_bin.values()} == {1}


def test_splits_are_70_20_10_for_every_count() -> None:
    many = photos(5000, per_bin=3)
    split_of = split_by_bin(many, seed=0).split_of
    photos_in = Counter((photo.count, split_of[photo.id]) for photo in many)
    for count in range(1, 6):
        for split, share in SHARES.items():
            assert photos_in[count, split] / 1000 == pytest.approx(share, abs=0.01)


def test_splits_are_the_same_each_time_and_differ_by_seed() -> None:
    many = photos(500, 2)
    assert split_by_bin(many, 0).split_of == split_by_bin(many[::-1], 0).split_of != split_by_bin(many, 1).split_of


def test_says_which_split_lacks_a_count() -> None:
    with pytest.raises(DataError, match=r"the (train|validation|test) split .* 10 photos"):
        split_by_bin(photos(10), seed=0)


def test_a_subset_keeps_the_proportions_and_the_size() -> None:
    many = [Photo(str(i), 1 if i < 900 else 2, Path(), str(i)) for i in range(1000)]
    few = subset(many, 100, seed=0)
    assert Counter(photo.count for photo in few) == {1: 90, 2: 10}
    assert few == subset(many, 100, seed=0) != subset(many, 100, seed=1)
    assert subset(many, 10_000, seed=0) == many


def test_the_spec_of_a_limit_that_is_none_is_refused(drawn: Path) -> None:
    with pytest.raises(DataError, match="LIMIT is 0"):
        load(replace(DataSpec(drawn), limit=0), 32)
