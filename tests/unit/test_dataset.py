from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.errors import DataError
from trainer.data import synthetic
from trainer.data.abid import Photo, read_inventory
from trainer.data.counts import Counts
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


def test_less_training_data_leaves_validation_and_test_as_they_are(drawn: Path) -> None:
    whole = load(DataSpec(drawn), 32)
    tenth = load(DataSpec(drawn, train_share=0.1), 32)
    assert len(tenth.train) == -(-len(whole.train) // 10)
    assert tenth.test.fingerprint == whole.test.fingerprint
    assert tenth.validation.fingerprint == whole.validation.fingerprint
    assert tenth.fingerprint != whole.fingerprint


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_refuses_a_share_that_is_none(drawn: Path, share: float) -> None:
    with pytest.raises(DataError, match=str(share)):
        load(DataSpec(drawn, train_share=share), 32)


def test_the_fingerprint_changes_with_a_photo_a_label_and_the_split(tmp_path: Path) -> None:
    source = synthetic.draw_dataset(tmp_path / "a", 60, seed=3)
    before = load(DataSpec(source), 32).fingerprint
    assert load(DataSpec(source), 64).fingerprint == before
    assert load(DataSpec(source, seed=1), 32).fingerprint != before
    photo = next((source / "bin-images").iterdir())
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert load(DataSpec(source), 32).fingerprint != before


def test_an_unreadable_photo_is_named_and_left_out(tmp_path: Path) -> None:
    source = synthetic.draw_dataset(tmp_path / "a", 60, seed=3)
    first, second = sorted((source / "bin-images").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"GIF89a")
    data = load(DataSpec(source), 32)
    assert {photo.id for photo in data.skipped} == {first.stem, second.stem}
    assert len(data.train) + len(data.validation) + len(data.test) == 58
    assert set(data.summary()["skipped"]) == {first.stem, second.stem}


def test_pixels_and_labels_belong_together(drawn: Path) -> None:
    data = load(DataSpec(drawn), 48)
    assert data.train.pixels[:].shape == (len(data.train), 48, 48, 3)
    assert data.train.pixels[:].dtype == np.uint8
    assert [data.counts.values[label] for label in data.test.labels] == [photo.count for photo in data.test.photos]


def test_no_bin_of_the_real_subset_is_on_two_sides(abid: Path) -> None:
    many = read_inventory(abid, Counts()).photos
    split_of = split_by_bin(many, seed=0).split_of
    assert len({(split_of[photo.id], photo.bin) for photo in many}) == len({photo.bin for photo in many})
    sizes = Counter(split_of.values())
    assert [round(sizes[split] / len(many), 2) for split in SHARES] == list(SHARES.values())


def test_drawn_bins_are_the_same_for_a_seed(tmp_path: Path) -> None:
    first, second = (synthetic.draw_dataset(tmp_path / name, 20, seed=7) for name in "ab")
    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_some_drawn_bins_are_photographed_twice(drawn: Path) -> None:
    many = read_inventory(drawn, Counts()).photos
    assert 0.5 * len(many) < len({photo.bin for photo in many}) < 0.97 * len(many)


def test_the_spec_of_a_limit_that_is_none_is_refused(drawn: Path) -> None:
    with pytest.raises(DataError, match="LIMIT is 0"):
        load(replace(DataSpec(drawn), limit=0), 32)
