import json
import random
import re
from pathlib import Path

import pytest

from serve.errors import DataError
from tests.conftest import rounds
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts, parse


def put(source: Path, photo_id: str, record: object, photo: bytes | None = b"jpeg") -> None:
    for folder in ("bin-images", "metadata"):
        (source / folder).mkdir(parents=True, exist_ok=True)
    text = record if isinstance(record, str) else json.dumps(record)
    (source / "metadata" / f"{photo_id}.json").write_text(text)
    if photo is not None:
        (source / "bin-images" / f"{photo_id}.jpg").write_bytes(photo)


def record(count: object, *products: str) -> dict[str, object]:
    return {"EXPECTED_QUANTITY": count, "BIN_FCSKU_DATA": {product: {} for product in products}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "bins"
    put(folder, "00010", record(1, "a"))
    put(folder, "00020", record(2, "b"))
    return folder


def bins(source: Path) -> dict[str, str]:
    return {photo.id: photo.bin for photo in read_inventory(source, Counts((1, 2))).photos}


def test_reads_records_without_a_file_list(source: Path) -> None:
    photos = read_inventory(source, Counts((1, 2))).photos
    assert [(photo.id, photo.count) for photo in photos] == [("00010", 1), ("00020", 2)]


@pytest.mark.parametrize(
    ("bad", "photo", "reason"),
    [
        (record(1), None, "photo is missing"),
        (record(1), b"", "0 bytes"),
        ("no json", b"x", "cannot be read"),
        ("[1]", b"x", "no EXPECTED_QUANTITY"),
        ({}, b"x", "no EXPECTED_QUANTITY"),
        (record(-1), b"x", "-1"),
        (record(1.5), b"x", "1.5"),
        (record(True), b"x", "True"),
        (record(10**9), b"x", "1000000000"),
        (record("2"), b"x", "'2'"),
        (record(7), b"x", "outside COUNTS"),
    ],
)
def test_names_what_it_skips_and_why(source: Path, bad: object, photo: bytes | None, reason: str) -> None:
    put(source, "bad", bad, photo)
    inventory = read_inventory(source, Counts((1, 2)))
    (skipped,) = inventory.skipped
    assert skipped.id == "bad"
    assert reason in skipped.reason
    assert len(inventory.photos) == 2


@pytest.mark.parametrize("place", [".", ".."])
def test_takes_the_photos_of_a_file_list_beside_or_above(source: Path, place: str) -> None:
    put(source, "00030", record(1))
    lists = {"1": ["data/metadata/00010.json"], "2": ["data/metadata/00020.json", "data/metadata/00099.json"]}
    (source / place / "file_list.json").write_text(json.dumps(lists))
    inventory = read_inventory(source, Counts((1, 2)))
    assert [photo.id for photo in inventory.photos] == ["00010", "00020"]
    assert [(photo.id, photo.reason) for photo in inventory.skipped] == [("00099", "the record is missing")]


def test_skips_a_photo_whose_record_contradicts_the_file_list(source: Path) -> None:
    put(source, "00030", record(2))
    lists = {"1": ["data/metadata/00010.json", "data/metadata/00030.json"], "2": ["data/metadata/00020.json"]}
    (source / "file_list.json").write_text(json.dumps(lists))
    (skipped,) = read_inventory(source, Counts((1, 2))).skipped
    assert skipped.reason == "the file list says 1, the record 2"


def test_reads_counts_that_the_file_list_does_not_name_from_the_folder(source: Path) -> None:
    put(source, "00030", record(0))
    lists = {"1": ["data/metadata/00010.json"], "2": ["data/metadata/00020.json"]}
    (source / "file_list.json").write_text(json.dumps(lists))
    assert [photo.count for photo in read_inventory(source, Counts((0, 1, 2))).photos] == [1, 2, 0]


@pytest.mark.parametrize("text", ["[1]", "{", '{"x": []}', '{"1": [3]}'])
def test_refuses_a_damaged_file_list(source: Path, text: str) -> None:
    (source / "file_list.json").write_text(text)
    with pytest.raises(DataError, match=r"file_list\.json"):
        read_inventory(source, Counts((1, 2)))


def test_refuses_an_id_under_two_counts(source: Path) -> None:
    (source / "file_list.json").write_text('{"1": ["metadata/00010.json"], "2": ["metadata/00010.json"]}')
    with pytest.raises(DataError, match=r"00010.*1.*2"):
        read_inventory(source, Counts((1, 2)))


def test_an_id_that_leaves_the_folder_stays_inside(source: Path) -> None:
    (source / "file_list.json").write_text('{"1": ["data/metadata/../../x/..json", "00010.json"], "2": ["00020.json"]}')
    assert {photo.path.parent.name for photo in read_inventory(source, Counts((1, 2))).photos} == {"bin-images"}


def test_says_which_class_is_empty(source: Path) -> None:
    with pytest.raises(DataError, match="3 or 4"):
        read_inventory(source, Counts((1, 2, 3, 4)))


def test_says_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bin-images/"):
        read_inventory(tmp_path, Counts((1, 2)))


def test_neighbours_that_share_a_product_are_one_bin(tmp_path: Path) -> None:
    for number, products in (("00001", "ab"), ("00003", "bc"), ("00006", "c"), ("00008", "d")):
        put(tmp_path, number, record(1 + (number == "00003"), *products))
    bin_of = bins(tmp_path)
    assert bin_of["00001"] == bin_of["00003"]
    assert len({bin_of["00003"], bin_of["00006"], bin_of["00008"]}) == 3


def test_neighbours_of_which_one_names_no_product_are_one_bin(tmp_path: Path) -> None:
    put(tmp_path, "00001", record(1, "a"))
    put(tmp_path, "00002", record(2))
    put(tmp_path, "00004", record(2, "z"))
    assert len(set(bins(tmp_path).values())) == 1


def test_padded_and_unpadded_ids_are_ordered_apart(tmp_path: Path) -> None:
    put(tmp_path, "1", record(1, "a"))
    put(tmp_path, "00001", record(2, "a"))
    put(tmp_path, "00002", record(2, "a"))
    bin_of = bins(tmp_path)
    assert bin_of["00001"] == bin_of["00002"] != bin_of["1"]


def test_bins_of_labels_csv_come_before_guesses(tmp_path: Path) -> None:
    put(tmp_path, "00001", record(1, "a"))
    put(tmp_path, "00002", record(2, "a"))
    put(tmp_path, "00050", record(2, "q"))
    (tmp_path / "labels.csv").write_text("id,count,bin_group\n00001,1,x\n00002,2,y\n00050,2,x\n")
    assert bins(tmp_path) == {"00001": "x", "00002": "y", "00050": "x"}


@pytest.mark.parametrize(
    ("text", "counts", "written"),
    [
        ("1-5", Counts((1, 2, 3, 4, 5)), "1-5"),
        ("0,2-3", Counts((0, 2, 3)), "0,2,3"),
        (" 1 , 2", Counts((1, 2)), "1-2"),
        ("1-8+", Counts((1, 2, 3, 4, 5, 6, 7, 8), open_top=True), "1-8+"),
        ("1,3+", Counts((1, 3), open_top=True), "1,3+"),
    ],
)
def test_reads_and_writes_counts(text: str, counts: Counts, written: str) -> None:
    assert parse(text) == counts
    assert str(counts) == written
    assert parse(written) == counts


@pytest.mark.parametrize("text", ["", "a", "1-", "5-1", "3", "3+", "1;2", "1+-5", "1-5++"])
def test_refuses_counts_that_say_nothing(text: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(text))):
        parse(text)


def test_an_open_top_takes_every_larger_quantity(tmp_path: Path) -> None:
    for number, quantity in (("00001", 1), ("00010", 3), ("00020", 4), ("00030", 99), ("00040", 2)):
        put(tmp_path, number, record(quantity, number))
    inventory = read_inventory(tmp_path, parse("1,3+"))
    assert {photo.id: photo.count for photo in inventory.photos} == {"00001": 1, "00010": 3, "00020": 3, "00030": 3}
    assert [(photo.id, photo.reason) for photo in inventory.skipped] == [("00040", "the count 2 is outside COUNTS")]
    assert parse("1,3+").names == ("1", "3+")


def test_odd_records_are_skipped_and_never_stop_the_reading(tmp_path: Path) -> None:
    rng = random.Random(0)
    odd: list[object] = [None, True, -1, 2.5, 10**30, "3", [], {}, float("nan"), 7]
    put(tmp_path, "00001", record(1, "a"))
    put(tmp_path, "00010", record(2, "b"))
    for number in range(rounds(200, 3000)):
        text = json.dumps({"EXPECTED_QUANTITY": rng.choice(odd), "BIN_FCSKU_DATA": rng.choice(odd)})
        data = bytearray(text.encode())
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        put(tmp_path, f"x{number}", None)
        (tmp_path / "metadata" / f"x{number}.json").write_bytes(bytes(data))
    inventory = read_inventory(tmp_path, Counts((1, 2)))
    assert {photo.id for photo in inventory.photos} >= {"00001", "00010"}
    assert all(photo.count in (1, 2) for photo in inventory.photos)
    assert len(inventory.photos) + len(inventory.skipped) == 2 + rounds(200, 3000)
