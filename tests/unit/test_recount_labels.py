"""Recounts as labels: how they are read and split, when they start an execution, and that nothing prunes them."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recounting import picture, put_photo, put_recount
from trainer.data.abid import Photo
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.recounts import read_recounts
from trainer.data.split import split_by_bin
from trainer.pipeline import disposal
from trainer.pipeline.execution import ExecutionRequest, parse_request
from trainer.pipeline.new_photos import NewPhotos
from trainer.pipeline.triggers import Limits, TriggerInputs, WatcherState, decide
from trainer.training.recipes import RECIPES

COUNTS = Counts((1, 2))
PHOTOS = 20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(PHOTOS):
        put_photo(tmp_path / "photos", f"{1000 + 10 * number}", picture(number), 1 + number % 2)
    return tmp_path / "photos"


@pytest.fixture
def recounts(tmp_path: Path) -> Path:
    return tmp_path / "recounts"


def test_a_folder_that_nobody_has_written_to_has_no_recounts(recounts: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_recounts(None, COUNTS, {}).photos == ()
    assert caplog.text == ""
    assert read_recounts(recounts, COUNTS, {}).photos == ()
    assert str(recounts) in caplog.text


def test_random_recounts_divide_as_if_there_were_no_alarms() -> None:
    """However many alarms train, the random ones are not pushed out of training."""
    random = [Photo(f"r{number}", 1 + number % 2, Path(), f"r{number}") for number in range(100)]
    alarms = [Photo(f"a{number}", 1, Path(), f"a{number}", train_only=True) for number in range(900)]
    alone, together = split_by_bin(random, 0).split_of, split_by_bin([*alarms, *random], 0).split_of
    assert alone.items() <= together.items()
    before = {photo.id: together[photo.id] for photo in alarms}
    assert alone.items() <= split_by_bin([*alarms, *random], 0, before).split_of.items()


def test_recounts_count_as_new_photos_and_a_poll_stays_cheap(photos: Path, recounts: Path) -> None:
    new_photos = NewPhotos(DataSpec(photos, counts=COUNTS, recounts=recounts), settled_s=0)
    known_ids = new_photos.poll(frozenset()).ids
    assert len(known_ids) == PHOTOS
    put_recount(recounts, "a", picture(100), 1)
    put_recount(recounts, "seven", picture(101), 7)
    assert new_photos.poll(known_ids).ids - known_ids == {"recount/a"}
    assert new_photos.present(known_ids) - known_ids == {"recount/a"}
    unsettled = NewPhotos(DataSpec(photos, counts=COUNTS, recounts=recounts), settled_s=10**6)
    assert unsettled.poll(known_ids).settling == 2
    long_ago = time.time() - 3600
    for folder in (photos, recounts):
        for name in ("bin-images", "metadata"):
            os.utime(folder / name, (long_ago, long_ago))
    known_ids |= new_photos.poll(known_ids).ids
    start = time.perf_counter()
    for _ in range(20):
        assert new_photos.poll(known_ids).ids == known_ids
    assert time.perf_counter() - start < 0.5


def test_the_reason_of_an_execution_says_how_many_new_photos_are_recounts() -> None:
    limits = Limits(new_photos=20, new_share=0)
    inputs = TriggerInputs(has_champion=True, new_photos=50, known_photos=300, new_recounts=12)
    (reason,) = decide(inputs, WatcherState(), limits, 10.0**9).reasons
    assert "50 new labelled photos" in reason
    assert "12 of them recounts" in reason
    (reason,) = decide(replace(inputs, new_recounts=0), WatcherState(), limits, 10.0**9).reasons
    assert "recounts" not in reason


def test_a_request_names_the_folder_of_recounts_and_one_of_older_code_none(recounts: Path) -> None:
    request = ExecutionRequest(DataSpec(Path("photos"), recounts=recounts), RECIPES["tiny"])
    assert parse_request(request.to_json()) == request
    content = json.loads(request.to_json())
    del content["spec"]["recounts"]
    assert parse_request(json.dumps(content)).spec == DataSpec(Path("photos"))


def test_nothing_prunes_recounts_however_old_they_are(tmp_path: Path) -> None:
    for place in ("state/recounts", "capture/recounts"):
        put_recount(tmp_path / place, "old", picture(0), 1)
        for path in (tmp_path / place).rglob("*"):
            os.utime(path, (1, 1))
    assert list(disposal.reproducible_files(tmp_path / "state")) == []
    assert list(disposal.Capture(str(tmp_path / "capture")).hours()) == []
