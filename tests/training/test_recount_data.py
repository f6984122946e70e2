"""Recounts as a second source of labelled photos: which are used, in which split, and which are set aside and named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.records import entry
from tests.recounting import picture, put_photo, put_recount
from trainer.data import prepared
from trainer.data.bin_records.records import records_of, right_records
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec, load
from trainer.data.inspection import write_report
from trainer.data.prepare import prepare
from trainer.data.prepared import Prepared
from trainer.data.recounts import is_recount
from trainer.data.split import Split
from trainer.pipeline.new_photos import NewPhotos
from trainer.pipeline.pipeline import prepared_folder
from trainer.pipeline.programs import build_request
from trainer.pipeline.trainer_settings import TrainerSettings

COUNTS = Counts((1, 2))
PHOTOS = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 1 and 2 objects, each of a bin of its own: ids 1000, 1010, ... show the pictures 0, 1, ..."""
    source = tmp_path_factory.mktemp("photos")
    for number in range(PHOTOS):
        put_photo(source, f"{1000 + 10 * number}", picture(number), 1 + number % 2)
    return source


@pytest.fixture
def recounts(tmp_path: Path) -> Path:
    return tmp_path / "recounts"


@pytest.fixture(scope="module")
def without(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The photos, prepared without recounts."""
    return prepare(photos, tmp_path_factory.mktemp("without") / "out", COUNTS)


def splits(version: Prepared) -> dict[str, str]:
    return {row.id: row.split for row in version.rows}


def recount_splits(version: Prepared) -> dict[str, str]:
    return {name.partition("/")[2]: split for name, split in splits(version).items() if is_recount(name)}


def reasons(version: Prepared) -> dict[str, str]:
    return {skipped.id: skipped.reason for skipped in version.skipped}


def first_of(version: Prepared, split: Split, count: int = 1) -> tuple[str, int]:
    """The id of a photo of the first source in a split, and the number of its picture."""
    photo_id = next(row.id for row in version.rows if (row.split, row.count) == (split, count))
    return photo_id, (int(photo_id) - 1000) // 10


def test_recounts_leave_all_photos_where_they_were_and_divide_as_these_do(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path
) -> None:
    for number in range(40):
        put_recount(recounts, f"random-{number}", picture(100 + number), 1 + number % 2)
        put_recount(recounts, f"alarm-{number}", picture(200 + number), 1 + number % 2, random=False)
    at_once = prepare(photos, tmp_path / "at-once", COUNTS, recounts=recounts)
    assert splits(without).items() <= splits(at_once).items()
    split_of = recount_splits(at_once)
    assert {split for name, split in split_of.items() if name.startswith("alarm")} == {Split.TRAIN}
    of_random = [split for name, split in split_of.items() if name.startswith("random")]
    assert [of_random.count(split) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)] == [28, 8, 4]
    # prepared before, or in memory, it is the same
    shutil.copytree(without.folder, tmp_path / "later")
    later = prepare(photos, tmp_path / "later", COUNTS, recounts=recounts)
    assert later.rows == at_once.rows
    assert prepared.read(later.folder).rows == later.rows
    memory = load(DataSpec(photos, counts=COUNTS, recounts=recounts), 32)
    disk = prepared.load_any(DataSpec(later.folder, counts=COUNTS), 32)
    assert memory.fingerprint == disk.fingerprint
    assert disk.fingerprint != prepared.load_any(DataSpec(without.folder, counts=COUNTS), 32).fingerprint
    assert (memory.train.pixels[:] == disk.train.pixels[:]).all()
    assert memory.summary()["recounts"] == disk.summary()["recounts"] == {"train": 68, "validation": 8, "test": 4}
    # and without recounts again, as it was
    assert splits(prepare(photos, later.folder, COUNTS)) == splits(without)


def test_a_limit_is_one_of_the_photos_and_not_of_the_recounts(photos: Path, recounts: Path, tmp_path: Path) -> None:
    for number in range(5):
        put_recount(recounts, f"r{number}", picture(100 + number), 1)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    for spec in (DataSpec(version.folder), DataSpec(photos, recounts=recounts)):
        summary = load_limited(replace(spec, counts=COUNTS, limit=40))
        assert (sum(summary["photos"].values()), sum(summary["recounts"].values())) == (45, 5)


def load_limited(spec: DataSpec) -> dict[str, dict[str, int]]:
    summary = prepared.load_any(spec, 32).summary()
    return {"photos": summary["photos"], "recounts": summary["recounts"]}


def test_photos_of_one_bin_are_in_one_split_and_alarms_never_in_one_that_judges(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path
) -> None:
    for split in Split:
        bin_id, _ = first_of(without, split)
        put_recount(recounts, f"random-{split}", picture(100 + len(split)), 2, bin_id=bin_id)
        put_recount(recounts, f"alarm-{split}", picture(200 + len(split)), 2, bin_id=bin_id, random=False)
    for number in range(6):
        put_recount(recounts, f"same-bin-{number}", picture(300 + number), 1, bin_id="A 17", random=number > 2)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    split_of = recount_splits(version)
    for split in Split:
        assert split_of[f"random-{split}"] == split
        assert (f"alarm-{split}" in split_of) == (split == Split.TRAIN)
    named = reasons(version)
    assert all(split in named[f"recount/alarm-{split}"] for split in (Split.VALIDATION, Split.TEST))
    shelf = {split for name, split in split_of.items() if name.startswith("same-bin")}
    assert len(shelf) == 1
    assert len({row.bin for row in version.rows if row.id.startswith("recount/same-bin")}) == 1
    if shelf != {Split.TRAIN}:
        assert all(f"recount/same-bin-{number}" in named for number in range(3))


@pytest.mark.parametrize("quality", [None, 60])
def test_recounts_of_one_image_that_contradict_each_other_are_all_set_aside(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path, quality: int | None
) -> None:
    """Also if one of the counts is outside COUNTS, and if a photo of the first source shows the image, too."""
    photo_id, number = first_of(without, Split.TRAIN)
    put_recount(recounts, "a", picture(number), 2)
    put_recount(recounts, "b", picture(number), 7)
    put_recount(recounts, "c", picture(500), 1)
    put_recount(recounts, "d", picture(500), 1)
    put_recount(recounts, "e", picture(501), 1)
    put_recount(recounts, "f", picture(501), 2)
    if quality:
        picture(501).save(recounts / "bin-images" / "f.jpg", quality=quality)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    assert recount_splits(version).keys() == {"c", "d"}
    assert photo_id in splits(version)
    named = reasons(version)
    assert {name for name in named if is_recount(name)} == {f"recount/{name}" for name in "abef"}
    assert "recount/a says 2 and recount/b says 7" in named["recount/a"] == named["recount/b"]


@pytest.mark.parametrize("random", [True, False])
def test_a_recount_replaces_the_photo_of_the_same_image_with_another_count_where_it_may(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path, random: bool
) -> None:
    old = {split: first_of(without, split) for split in Split}
    for split, (_, number) in old.items():
        put_recount(recounts, split, picture(number), 2, random=random, recorded_quantity=1)
    put_recount(recounts, "agrees", picture(first_of(without, Split.TRAIN, 2)[1]), 2, random=random)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    now = splits(version)
    replaced = [split for split in Split if random or split == Split.TRAIN]
    for split, (photo_id, _) in old.items():
        assert (now.get(f"recount/{split}") == split) == (photo_id not in now) == (split in replaced)
        if split in replaced:
            assert f"recount/{split}" in reasons(version)[photo_id]
    assert first_of(without, Split.TRAIN, 2)[0] in now
    assert now["recount/agrees"] == Split.TRAIN
    assert prepare(photos, version.folder, COUNTS, recounts=recounts).rows == version.rows
    # without recounts, the photos return to their splits
    assert splits(prepare(photos, version.folder, COUNTS)) == splits(without)


def test_a_photo_that_comes_after_its_recount_joins_its_split(photos: Path, recounts: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "photos"))
    for number in range(30):
        put_recount(recounts, f"r{number}", picture(100 + number), 1 + number % 2)
    before = recount_splits(prepare(source, tmp_path / "out", COUNTS, recounts=recounts))
    for number in range(30):
        put_photo(source, f"{5000 + 10 * number}", picture(100 + number), 1 + number % 2)
    version = prepare(source, tmp_path / "out", COUNTS, recounts=recounts)
    assert recount_splits(version) == before
    assert {str(5000 + 10 * number): before[f"r{number}"] for number in range(30)}.items() <= splits(version).items()


def test_recounts_with_other_counts_are_extra_photos(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "photos"))
    put_photo(source, "7000", picture(700), 7)
    put_photo(source, "8000", picture(800), 8)
    put_recount(recounts, "seven", picture(600), 7, random=False)
    put_recount(recounts, "of-test", picture(601), 7, bin_id=first_of(without, Split.TEST)[0])
    put_recount(recounts, "of-train", picture(first_of(without, Split.TRAIN)[1]), 5)
    put_recount(recounts, "corrects", picture(800), 1)
    version = prepare(source, tmp_path / "out", COUNTS, extra=True, recounts=recounts)
    extra = prepared.read(version.folder / prepared.EXTRA)
    assert [row.id for row in extra.rows] == ["recount/of-train", "recount/seven", "7000"]
    assert {"recount/of-test", "8000"} == {skipped.id for skipped in extra.skipped}
    assert reasons(version)[first_of(without, Split.TRAIN)[0]].startswith("its record says 1")
    memory = load(DataSpec(source, counts=COUNTS, recounts=recounts), 32, extra=True)
    disk = prepared.load_any(DataSpec(version.folder, counts=COUNTS), 32, extra=True)
    assert memory.fingerprint == disk.fingerprint
    assert disk.extra
    assert [photo.count for photo in disk.extra.photos] == [5, 7, 7]
    assert all(photo.path.is_file() for photo in disk.extra.photos)


def test_a_prepared_folder_made_before_recounts_is_read_and_taken_further(
    photos: Path, recounts: Path, without: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path(shutil.copytree(without.folder, tmp_path / "out"))
    description = json.loads((out / "prepared.json").read_text())
    del description["recounts"]
    (out / "prepared.json").write_text(json.dumps(description))
    put_recount(recounts, "a", picture(100), 1)
    assert prepared.load_any(DataSpec(out, counts=COUNTS, recounts=recounts), 32).summary()["recounts"]["train"] == 0
    assert "--recounts" in caplog.text
    version = prepare(photos, out, COUNTS, recounts=recounts)
    assert version.recounts == recounts
    assert len(version.rows) == PHOTOS + 1
    caplog.clear()
    prepared.load_any(DataSpec(out, counts=COUNTS, recounts=recounts), 32)
    assert caplog.text == ""


def test_the_report_says_how_many_recounts_there_are_and_names_those_set_aside(
    photos: Path, recounts: Path, tmp_path: Path
) -> None:
    for number in range(3):
        put_recount(recounts, f"good-{number}", picture(100 + number), 1, random=False)
    put_recount(recounts, "one", picture(110), 1)
    put_recount(recounts, "two", picture(110), 2)
    (recounts / "metadata" / "broken.json").write_text('{"EXPECTED_QUANTITY": 1}')
    put_recount(recounts, "odd", picture(111), 1)
    (recounts / "metadata" / "odd.json").write_text('{"EXPECTED_QUANTITY": 1, "binwatch": {"random": "perhaps"}}')
    (recounts / "metadata" / ".three.json.partial").write_text("{")
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    assert {skipped.id for skipped in version.skipped} == {
        f"recount/{name}" for name in ("one", "two", "broken", "odd")
    }
    assert "random" in reasons(version)["recount/odd"]
    page = write_report(version, tmp_path / "report.html").read_text()
    assert "3 of the photos are recounts (3 train, 0 validation, 0 test)" in page
    assert "Left out: 4" in page
    assert "recount/two" in page


def test_products_are_learned_from_where_the_record_was_right(photos: Path, recounts: Path, tmp_path: Path) -> None:
    products = ({"id": "B01", **entry("box", 2, (6, 4, 2), 1.0)},)
    put_recount(recounts, "right", picture(100), 2, products=products)
    put_recount(recounts, "wrong", picture(101), 1, products=products, recorded_quantity=2)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    of_recounts = [photo for photo in version.photos() if is_recount(photo.id)]
    assert {name: record.quantity for name, record in records_of(of_recounts).items()} == {
        "recount/right": 2,
        "recount/wrong": 1,
    }
    rows = right_records(of_recounts, COUNTS)
    assert [of_recounts[row].id for row in rows] == ["recount/right"]


def test_a_prepared_dataset_is_polled_for_the_recounts_that_it_has(
    photos: Path, recounts: Path, tmp_path: Path
) -> None:
    put_recount(recounts, "a", picture(100), 1)
    version = prepare(photos, tmp_path / "out", COUNTS, recounts=recounts)
    put_recount(recounts, "b", picture(101), 1)
    ids = NewPhotos(DataSpec(version.folder, counts=COUNTS, recounts=recounts)).poll(frozenset()).ids
    assert {photo_id for photo_id in ids if is_recount(photo_id)} == {"recount/a"}


def test_recounts_change_nothing_of_where_photos_are_prepared(recounts: Path) -> None:
    without = DataSpec(Path("photos"))
    assert prepared_folder(recounts, replace(without, recounts=recounts)) == prepared_folder(recounts, without)


def test_one_switch_turns_recounts_off(photos: Path, recounts: Path) -> None:
    settings = TrainerSettings(data=str(photos), recounts=str(recounts))
    assert build_request(settings, {}).spec.recounts == recounts
    assert build_request(settings.model_copy(update={"recounts_train": False}), {}).spec.recounts is None
    assert build_request(TrainerSettings(data=str(photos)), {}).spec.recounts is None
