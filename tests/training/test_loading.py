"""Loading a dataset decodes its photos: drawn ones, and the real ones where there are any."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from serve.errors import DataError
from trainer.data import synthetic
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec, load
from trainer.data.split import SHARES, split_by_bin


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


def test_reads_the_real_subset(abid: Path) -> None:
    inventory = read_inventory(abid, Counts())
    assert len(inventory.photos) > 8000
    assert len({photo.bin for photo in inventory.photos}) < len(inventory.photos)
    assert len(inventory.photos) + len(inventory.skipped) == 8233
