"""What people and spreadsheets make of a dataset: it is read, or one sentence says why not."""

import codecs
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

from serve.errors import DataError, SettingsError
from serve.evidence import csv_text
from trainer.aws.pipelines import data_version
from trainer.aws.requests import AwsRequest
from trainer.data import abid, corrections, s3, transfer
from trainer.data.counts import Counts
from trainer.data.dataset import DataSpec
from trainer.data.layouts import count_folders, is_prepared, read_source
from trainer.options import data_spec

COUNTS = Counts((1, 2))
PHOTOS = {"a.jpg": 1, "b c.jpg": 2, "sub/d,é.jpg": 2}
"""Relative paths and counts; a photo is any file that is not empty, until it is decoded."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in PHOTOS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    return tmp_path


def table(delimiter: str = ",", newline: str = "\n", header: str = "path{}count") -> str:
    rows = [f'"{name}"{delimiter}{count}' for name, count in PHOTOS.items()]
    return newline.join([header.format(delimiter), *rows, ""])


def counts_in(source: Path) -> dict[str, int]:
    return {photo.id: photo.count for photo in read_source(source, COUNTS).photos}


ENCODINGS = {
    "UTF-8": ("utf-8", b""),
    "UTF-8 with a mark": ("utf-8", codecs.BOM_UTF8),
    "UTF-16 of Windows": ("utf-16-le", codecs.BOM_UTF16_LE),
    "UTF-16, big end first": ("utf-16-be", codecs.BOM_UTF16_BE),
    "UTF-32": ("utf-32-le", codecs.BOM_UTF32_LE),
}
NEWLINES = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


@pytest.mark.parametrize(("encoding", "delimiter", "newline"), list(product(ENCODINGS, csv_text.DELIMITERS, NEWLINES)))
def test_a_table_is_read_as_spreadsheets_save_it(folder: Path, encoding: str, delimiter: str, newline: str) -> None:
    codec, mark = ENCODINGS[encoding]
    (folder / "photos.csv").write_bytes(mark + table(delimiter, NEWLINES[newline]).encode(codec))
    assert counts_in(folder / "photos.csv") == PHOTOS


@pytest.mark.parametrize(
    "text",
    [
        table(header="Path{}Count"),
        table(header=" PATH {} count "),
        table(header='"path"{}"count"'),
        table(header="path{0}count{0}"),
        table(header="path{0}count{0}count of June"),
        table(";", header="path{0}count{0}note"),
        "sep=;\n" + table(";"),
        '"sep=;"\r\n' + table(";", "\r\n"),
        "\n\n" + table(),
        table().replace("\n", "\n\n"),
        table().replace("\n", "\n,\n"),
        table().replace("\n", "\n , ,\n"),
        table() + "\n\n\n",
        table().rstrip("\n"),
        table().replace(",1", ",1.0").replace(",2", ",2.0"),
        table(";").replace(";1", ";1,0").replace(";2", ";2,00"),
        table().replace(",1", ", 1 ").replace(",2", ",\t2"),
        table().replace(",1", ',"1"').replace(",2", ',"2 "'),
        table().replace(",1", ",+1").replace(",2", ",2."),
        table().replace(",1", ",\xa01").replace(",2", ",002"),
        table().replace(",1", ",1,,,").replace(",2", ",2,more,cells"),
    ],
)
def test_a_table_is_read_however_it_is_written(folder: Path, text: str) -> None:
    (folder / "photos.csv").write_text(text, newline="")
    assert counts_in(folder / "photos.csv") == PHOTOS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "needs path and count"),
        (b"\n\n", "needs path and count"),
        (b"\xff\xfe", "needs path and count"),
        (b"path\n", "needs path and count"),
        (b"file,number\na.jpg,1\n", "file,number"),
        (b"a.jpg,1\nb c.jpg,2\n", "a.jpg,1"),
        (b"path:count\n", "path:count"),
        (b"path,count,Path\n", "two columns path"),
        (b"path,count,count\n", "two columns count"),
        ("path,count\né.jpg,1\n".encode("cp1252"), "UTF-8"),
        ("path,count\nx.jpg,1\n".encode("utf-16-le"), "needs path and count"),
        (b"\xff\xfepath,count\n", "UTF-8"),
        (b'path,count\n"a.jpg,1\nb c.jpg,2\n', "line 3"),
        (b'path,count\n"a"b.jpg,1\n', "line 2"),
        (b"path,count\n" + b"x" * 200_000 + b",1\n", "line 2"),
        (b"PK\3\4\x14\0\6\0\x08\0\0\0!\0", "needs path and count"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        (b"path,count\n", "1 or 2"),
        (b"path,count\nnowhere.jpg,1\n", "nowhere.jpg: the photo is missing"),
        (b"path,count\na.jpg,1\na.jpg,2\n", "under 1 and under 2"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(folder: Path, data: bytes, reason: str) -> None:
    (folder / "photos.csv").write_bytes(data)
    with pytest.raises(DataError) as error:
        read_source(folder / "photos.csv", COUNTS)
    assert reason in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "1.5",
        "1e0",
        "²",
        "1_0",
        "10001",
        "9" * 5000,
        "nan",
        "0x1",
        "1.0.0",
        "1..",
        "True",
        "1/2",
        "=",
    ],
)
def test_a_count_that_is_none_leaves_out_its_photo(folder: Path, text: str) -> None:
    (folder / "more.jpg").write_bytes(b"photo")
    (folder / "photos.csv").write_text(table() + f"more.jpg,{text}\n")
    inventory = read_source(folder / "photos.csv", COUNTS)
    assert [photo.id for photo in inventory.skipped] == ["more.jpg"]
    assert repr(text) in inventory.skipped[0].reason


@pytest.mark.parametrize(
    "path",
    [
        "./more.jpg",
        " more.jpg ",
        "more.jpg\t",
        "sub/../more.jpg",
        "sub\\deep\\more.jpg",
        ".\\sub\\deep/more.jpg",
        "sub/deep/more.jpg",
        "sub//deep///more.jpg",
        "{folder}/more.jpg",
        "{folder}/sub/../more.jpg",
        "{link}/more.jpg",
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_path_is_found_however_it_is_written(
    folder: Path, path: str, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub/deep").mkdir()
    for name in ("more.jpg", "sub/deep/more.jpg"):
        (folder / name).write_bytes(b"photo")
    (folder / "link").symlink_to(folder)
    written = path.format(folder=folder, link=folder / "link")
    (folder / "photos.csv").write_text(table() + f"{written},1\n")
    monkeypatch.chdir(folder)
    source = Path("photos.csv") if relative else folder / "photos.csv"
    (photo,) = (photo for photo in read_source(source, COUNTS).photos if "more" in photo.id)
    assert photo.path.read_bytes() == b"photo"
    assert photo.path.is_relative_to(source.parent)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/hostname", "outside"),
        ("../{parent}x.jpg", "outside"),
        ("sub/../../x.jpg", "outside"),
        ("outside/hostname", "outside"),
        ("C:\\photos\\x.jpg", "missing"),
        ("\\\\server\\share\\x.jpg", "missing"),
        ("file:///x.jpg", "missing"),
        ("sub", "missing"),
        (".", "missing"),
        ("", "missing"),
        ("gone", "missing"),
        ("loop", "outside|cannot be read|missing"),
        ("broken.jpg", "missing"),
        ("empty.jpg", "0 bytes"),
        ("pipe.jpg", "missing"),
        ("x" * 5000, "too long"),
        ("x/" * 5000, "too long"),
        ("a.jpg/x.jpg", "missing|Not a directory"),
        ("a\0b.jpg", "null character"),
        ('"a\nb.jpg"', "line break"),
        ('"a\rb.jpg"', "line break"),
        ('"a\u2028b.jpg"', "line break"),
    ],
)
def test_a_path_that_leads_to_no_photo_is_left_out_with_the_reason(folder: Path, path: str, reason: str) -> None:
    (folder / "outside").symlink_to("/etc")
    (folder / "loop").symlink_to("loop")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "photos.csv").write_text(table() + f"{path.format(parent='')},1\n", newline="")
    inventory = read_source(folder / "photos.csv", COUNTS)
    assert len(inventory.photos) == len(PHOTOS)
    (skipped,) = inventory.skipped
    assert any(part in skipped.reason for part in reason.split("|")), skipped
    assert f"{skipped.id}{skipped.reason}".isprintable()


NAMES = [
    "a b.jpg",
    " leading.jpg",
    "trailing .jpg",
    "comma,comma.jpg",
    "semi;colon.jpg",
    'quote".jpg',
    "apostrophe'.jpg",
    "back\\slash.jpg",
    "tab\t.jpg",
    "-dash.jpg",
    "--data.jpg",
    "$HOME.jpg",
    "*.jpg",
    "[x].jpg",
    "%s%d.jpg",
    "{}.jpg",
    "#.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "照片.jpg",
    "📦.jpg",
    "\u202etxt.jpg",
    "UPPER.JPG",
    "x.JpEg",
    "x.png",
    "x" * 251 + ".jpg",
    "é" * 125 + "x.jpg",
]
ODD_NAMES = {
    "a\nb.jpg": "line break",
    "a\rb.jpg": "line break",
    "a\u2028b.jpg": "line break",
    "a\x85b.jpg": "line break",
    "a\x0bb.jpg": "line break",
    os.fsdecode(b"\xff\xfe.jpg"): "not UTF-8",
    os.fsdecode("é.jpg".encode("latin-1")): "not UTF-8",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "1" / name, tmp_path / "2" / "y.jpg"):
        path.parent.mkdir()
        path.write_bytes(b"photo")
    assert counts_in(tmp_path) == {f"1/{name}": 1, "2/y.jpg": 2}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_lists_cannot_hold_is_left_out(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "1" / "x.jpg", tmp_path / "2" / "y.jpg"):
        path.parent.mkdir()
        path.write_bytes(b"photo")
    (tmp_path / "1" / name).write_bytes(b"photo")
    inventory = read_source(tmp_path, COUNTS)
    assert len(inventory.photos) == 2
    (skipped,) = inventory.skipped
    assert ODD_NAMES[name] in skipped.reason
    assert skipped.id.isprintable()


def put(source: Path, photo_id: str, record: bytes) -> None:
    for name in ("bin-images", "metadata"):
        (source / name).mkdir(exist_ok=True, parents=True)
    (source / "metadata" / f"{photo_id}.json").write_bytes(record)
    (source / "bin-images" / f"{photo_id}.jpg").write_bytes(b"photo")


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    """Two photos in the layout of the Amazon Bin Image Dataset."""
    source = tmp_path / "data" / "bins"
    put(source, "00010", b'{"EXPECTED_QUANTITY": 1}')
    put(source, "00020", b'{"EXPECTED_QUANTITY": 2}')
    return source


RECORD = '{"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": {"é": {}}}'


@pytest.mark.parametrize(
    "record",
    [
        codecs.BOM_UTF8 + RECORD.encode(),
        RECORD.encode("utf-16"),
        RECORD.encode("utf-16-be"),
        RECORD.encode("utf-32"),
        RECORD.replace(" ", "\r\n").encode(),
        b'{"EXPECTED_QUANTITY": 2.0}',
        b'{"EXPECTED_QUANTITY": 2e0, "BIN_FCSKU_DATA": null}',
        b'{"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": [1]}',
    ],
)
def test_a_record_is_read_as_programs_write_it(bins: Path, record: bytes) -> None:
    put(bins, "00030", record)
    assert counts_in(bins)["00030"] == 2


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\0" * 100,
        RECORD.encode("latin-1"),
        RECORD[:-5].encode(),
        b"null",
        b"[]",
        b'"2"',
        b'{"EXPECTED_QUANTITY": "2"}',
        b'{"EXPECTED_QUANTITY": NaN}',
        b'{"EXPECTED_QUANTITY": Infinity}',
        b'{"EXPECTED_QUANTITY": 2.5}',
        b'{"EXPECTED_QUANTITY": -2}',
        b'{"EXPECTED_QUANTITY": [2]}',
        b'{"EXPECTED_QUANTITY": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xd8\xff",
        b"<html></html>",
    ],
)
def test_a_record_that_says_no_count_leaves_out_its_photo(bins: Path, record: bytes) -> None:
    put(bins, "00030", record)
    inventory = read_source(bins, COUNTS)
    assert [photo.id for photo in inventory.skipped] == ["00030"]
    assert inventory.skipped[0].reason.isprintable()
    assert len(inventory.skipped[0].reason) < 300


def test_odd_things_among_the_records_are_left_out(bins: Path) -> None:
    (bins / "metadata" / "folder.json").mkdir()
    (bins / "metadata" / "loop.json").symlink_to("loop.json")
    (bins / "metadata" / "broken.json").symlink_to("nowhere.json")
    (bins / "metadata" / os.fsdecode(b"\xff.json")).touch()
    (bins / "metadata" / "a\nb.json").touch()
    (bins / "metadata" / f"{'x' * 250}.json").touch()
    put(bins, "00030", RECORD.encode())
    (bins / "bin-images" / "00030.jpg").unlink()
    (bins / "bin-images" / "00030.jpg").mkdir()
    inventory = read_source(bins, COUNTS)
    assert len(inventory.photos) == 2
    assert len(inventory.skipped) == 7
    assert all(f"{photo.id}{photo.reason}".isprintable() for photo in inventory.skipped)


FILE_LIST = '{"1": ["data/metadata/00010.json"], "2": ["data/metadata/00020.json"]}'


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + FILE_LIST.encode(),
        FILE_LIST.encode("utf-16"),
        FILE_LIST.replace("/", "\\\\").encode(),
        b'{"1": ["00010"], "2": ["C:\\\\bins\\\\00020.jpg"]}',
        b'{"1": ["00010.json", "00010.json"], "2": ["00020.json"], "7": []}',
    ],
)
def test_a_file_list_is_read_as_programs_write_it(bins: Path, data: bytes) -> None:
    (bins / "file_list.json").write_bytes(data)
    assert counts_in(bins) == {"00010": 1, "00020": 2}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"3",
        b'"1"',
        b'{"1": "00010"}',
        b'{"1": {"00010": 1}}',
        b'{"1": [null]}',
        b'{"1": [10]}',
        b'{"1": null}',
        b'{"one": []}',
        b'{"1.5": []}',
        b'{"' + b"9" * 5000 + b'": []}',
        b"[" * 100_000,
    ],
)
def test_a_file_list_that_cannot_be_read_says_so(bins: Path, data: bytes) -> None:
    (bins / "file_list.json").write_bytes(data)
    with pytest.raises(DataError, match=r"file_list\.json") as error:
        read_source(bins, COUNTS)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "bins_of"),
    [
        ("id,bin_group\n00010,x\n00020,x\n", {"x"}),
        ("\ufeffID;Bin_Group\r\n00010; x\r\n00020 ;x \r\n\r\n", {"x"}),
        ("id\tbin_group\n00010\tx\n00020\t\n", {"x", "00020"}),
        ("id,bin_group\n", {"00010", "00020"}),
    ],
)
def test_the_labels_are_read_as_spreadsheets_save_them(bins: Path, text: str, bins_of: set[str]) -> None:
    (bins / "labels.csv").write_bytes(text.encode())
    assert {photo.bin for photo in read_source(bins, COUNTS).photos} == bins_of


def test_labels_whose_zeros_a_spreadsheet_dropped_are_noticed(bins: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bins / "labels.csv").write_text("id,bin_group\n10,x\n20,x\n")
    read_source(bins, COUNTS)
    assert "'10'" in caplog.text
    assert "'00010'" in caplog.text


@pytest.mark.parametrize("name", ["labels.csv", "file_list.json"])
@pytest.mark.parametrize("kind", ["text", "loop"])
def test_an_optional_file_that_is_odd_is_a_sentence_or_left_out(bins: Path, name: str, kind: str) -> None:
    if kind == "loop":
        (bins / name).symlink_to(name)
        assert len(read_source(bins, COUNTS).photos) == 2
    else:
        (bins / name).write_bytes(b"\xff\xff")
        with pytest.raises(DataError, match=name):
            read_source(bins, COUNTS)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"id,count\na,3\nb,\n", {"a": 3, "b": None}),
        (b"\xef\xbb\xbfId;Count\r\na;3,0\r\nb; \r\n;\r\n", {"a": 3, "b": None}),
        ('"id"\t"count"\n"a"\t"3.0"\nb\t\n'.encode("utf-16"), {"a": 3, "b": None}),
        (b"id,count\na,3\na,3\nb\n", {"a": 3, "b": None}),
    ],
)
def test_corrections_are_read_as_spreadsheets_save_them(
    tmp_path: Path, data: bytes, content: dict[str, int | None]
) -> None:
    (tmp_path / "relabel.csv").write_bytes(data)
    assert corrections.read_relabel_file(tmp_path / "relabel.csv") == content


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"id\na\n", b"id,count\na,x\n", b"id,count\na,-1\n", b"id,count\na,1\na,2\n", b'id,count\n"a,1'],
)
def test_corrections_that_cannot_be_read_are_refused_before_the_work(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "relabel.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"relabel\.csv"):
        DataSpec(tmp_path, relabel_file=path)


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 0},
        {"limit": -1},
        {"train_share": 0.0},
        {"train_share": 1.01},
        {"train_share": float("nan")},
        {"drop_suspects": -0.1},
        {"drop_suspects": 1.0},
        {"drop_suspects": float("nan")},
        {"seed": -1},
        {"seed": 2**32},
        {"relabel_file": Path("nowhere.csv")},
        {"relabel_file": Path("/")},
    ],
)
def test_a_spec_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"\d|nan|nowhere|/"):
        replace(DataSpec(tmp_path), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *product(("limit", "data_seed"), ("x", "1.5", "1e3", "0x10", "²", "nan", "9" * 5000)),
        *product(("train_share", "drop_suspects"), ("x", "1,5", "half", "2", "nan", "-1", "inf")),
        *product(("counts",), ("x", "1", "5-1", "1-", "1;2", "-1-2", "1-2-3", "99999-100000", "1.0-2.0", "一-五")),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises((SettingsError, DataError)) as error:
        data_spec({"data": str(tmp_path), name: text}, tmp_path / "drawn")
    assert str(error.value).isprintable()


@contextmanager
def stranger() -> Iterator[None]:
    """Be an ordinary user, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can list."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("name", ["home/bins", "1/x.jpg", "1", "bins/metadata", "bins/bin-images", "train/1"])
def test_what_may_not_be_read_is_one_sentence(public: Path, name: str) -> None:
    """A folder that forbids what it holds: the parent of a source, a count, the records, the photos."""
    bins = public / "bins"
    put(bins, "00010", b'{"EXPECTED_QUANTITY": 1}')
    (public / name).parent.mkdir(exist_ok=True, parents=True)
    (public / name).mkdir(exist_ok=True)
    closed = public / name.partition("/")[0] if "bins/" not in name or "home" in name else public / name
    closed.chmod(0)
    source = public / "home/bins" if "home" in name else bins if "bins/" in name else public
    with stranger(), pytest.raises(DataError) as error:
        read_source(source, COUNTS)
    closed.chmod(0o755)
    assert "ermission denied" in str(error.value)


def test_a_closed_folder_beside_the_counts_does_not_matter(public: Path) -> None:
    for path in (public / "1" / "x.jpg", public / "2" / "y.jpg", public / "lost+found" / "z"):
        path.parent.mkdir()
        path.write_bytes(b"photo")
    (public / "lost+found").chmod(0)
    with stranger():
        assert [path.name for path in count_folders(public)] == ["1", "2"]
        assert not is_prepared(public / "lost+found")
    (public / "lost+found").chmod(0o755)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere", "nowhere"),
        ("a.jpg/x", "Not a directory"),
        ("empty", "bin-images"),
        ("empty/", "bin-images"),
        ("loop", "symbolic links"),
        ("broken", "broken"),
        ("pipe", "pipe"),
        ("x" * 300, "too long"),
        ("x/" * 3000, "too long"),
        ("a\0b", "null character"),
        ("a\nb", "line break"),
        (os.fsdecode(b"\xff"), "not UTF-8"),
        ("flat", "bin-images"),
        ("a.jpg", "needs path and count"),
        ("file/bins", "bin-images"),
        ("half/bins", "metadata"),
    ],
)
def test_a_source_that_is_none_is_one_sentence(folder: Path, source: str, reason: str) -> None:
    (folder / "empty").mkdir()
    (folder / "flat").mkdir()
    (folder / "flat" / "x.jpg").write_bytes(b"photo")
    (folder / "loop").symlink_to("loop")
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    for path in ("file/bins", "half/bins"):
        (folder / path).mkdir(parents=True)
    (folder / "file/bins/bin-images").touch()
    (folder / "half/bins/bin-images").mkdir()
    assert not is_prepared(folder / source)
    with pytest.raises(DataError) as error:
        read_source(folder / source, COUNTS)
    assert reason in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("key", "data", "whole"),
    [
        ("metadata/1.json", b"{}", True),
        ("metadata/1.json", b"\xef\xbb\xbf{}", True),
        ("metadata/1.json", b"", False),
        ("metadata/1.json", b"{", False),
        ("metadata/1.json", b"\xff", False),
        ("metadata/1.json", b"[" * 100_000, False),
    ],
)
def test_a_fetched_record_is_checked(key: str, data: bytes, whole: bool) -> None:
    assert (transfer.damage(key, data) is None) == whole


def test_records_of_ids_that_are_no_names_of_files_are_left_out(bins: Path) -> None:
    (bins / "file_list.json").write_text(
        json.dumps({"1": ["00010", "x" * 5000, "a\0b", "..", "/", ""], "2": ["00020"]})
    )
    inventory = read_source(bins, COUNTS)
    assert len(inventory.photos) == 2
    assert not abid.is_usable(bins, "x" * 5000, COUNTS)


@dataclass
class Listing:
    """S3's answer to a request for the keys of a bucket; remembers the prefix that was asked for."""

    prefix: object = None

    def call(self, request: AwsRequest) -> dict[str, object]:
        """Answer one request."""
        self.prefix = request.parameters["Prefix"]
        return {"KeyCount": 1, "Contents": [{"Key": "metadata/1.json", "ETag": "x", "Size": 2}]}


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://b", ""),
        ("s3://b/", ""),
        ("s3://b//", ""),
        ("s3://b/x", "x/"),
        ("s3://b/x/", "x/"),
        ("s3://b/x/y", "x/y/"),
    ],
)
def test_a_bucket_without_a_prefix_is_listed_whole(uri: str, prefix: str) -> None:
    listing = Listing()
    assert len(data_version(listing, uri)) == 16  # type: ignore[arg-type]
    assert listing.prefix == prefix == s3.parse_uri(uri)[1]
