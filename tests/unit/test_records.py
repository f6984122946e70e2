"""Where records of bins come from: files, and the settings that name them."""

import asyncio
import codecs
import json
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest

from serve.errors import SettingsError
from serve.gateway.metrics import Metrics
from serve.gateway.records import bin_record, record_files
from serve.gateway.records.bin_record import BinRecord, from_json, from_rows
from serve.gateway.records.location import check_location, check_query, path_problems
from serve.gateway.records.lookup import RecordLookup, open_records
from serve.gateway.records.record_files import RecordFiles
from serve.gateway.schemas import RecordedContent, Refusal
from serve.gateway.settings import GatewaySettings
from serve.settings import problems_of, read, without_password
from tests.records import entry

QUERY = "SELECT id, quantity FROM stock WHERE bin_id = :bin_id"
SECRET = "hunter2"
BALL = entry("Ball", 2, (10, 4, 5), 2)
DATASET = {"EXPECTED_QUANTITY": 2, "BIN_FCSKU_DATA": {"B00BALL": BALL}}
CSV = """bin_id,id,name,quantity,length,width,height,size_unit,weight,weight_unit
7,B00BALL,"Ball, red",2,10,4,5,in,2,lb
7,B00CUP,Cup,1,,,,,0,kg
8,B00CUP,Cup,3,12.5,8,8,CM,300,g
"""


def look_up(records: RecordLookup, bin_id: str) -> BinRecord:
    return asyncio.run(records.find(bin_id))


def refusal_of(records: RecordLookup, bin_id: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        look_up(records, bin_id)
    return caught.value


def records_at(path: Path) -> RecordLookup:
    return open_records(GatewaySettings(records=str(path)))


def test_a_folder_holds_a_file_for_each_bin(tmp_path: Path) -> None:
    (tmp_path / "00007.json").write_text(json.dumps(DATASET))
    found = look_up(records_at(tmp_path), "00007")
    assert found.fields == {"expected_quantity": 2, "record": DATASET}
    answer = found.to_json()
    assert RecordedContent.model_validate(answer).model_dump() == answer
    assert answer == {
        "quantity": 2,
        "products": [
            {"id": "B00BALL", "name": "Ball", "quantity": 2, "sides_cm": [25.4, 12.7, 10.16], "weight_kg": 0.9072}
        ],
    }


def test_real_records_are_read(abid: Path) -> None:
    records = records_at(abid / "metadata")
    for path in sorted((abid / "metadata").iterdir())[:300]:
        content = json.loads(path.read_bytes())
        assert look_up(records, path.stem).record.quantity == content["EXPECTED_QUANTITY"]


def test_a_record_without_products_is_a_quantity(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"EXPECTED_QUANTITY": 4}')
    found = look_up(records_at(tmp_path), "1")
    assert (found.fields, found.to_json()) == ({"expected_quantity": 4}, {"quantity": 4, "products": []})


def test_an_unknown_bin_is_404_and_a_missing_folder_503(tmp_path: Path) -> None:
    unknown = refusal_of(records_at(tmp_path), "12345")
    assert (unknown.status, unknown.kind) == (404, "NoSuchBin")
    assert "12345" in unknown.message
    missing = refusal_of(records_at(tmp_path / "gone"), "12345")
    assert (missing.status, missing.kind) == (503, "RecordsUnreadable")
    assert "BINWATCH_RECORDS" in missing.message
    assert int(missing.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "bin_id", ["", ".", "..", ".hidden", "../7", "a/b", "a\\b", "7\n", "\x00", "%2e", "ü", "x" * 65, "7;", "7 ", "'"]
)
def test_an_id_names_a_file_of_the_folder_and_nothing_else(tmp_path: Path, bin_id: str) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for path in (tmp_path / "7.json", folder / ".hidden.json", folder / "7.json"):
        path.write_text('{"EXPECTED_QUANTITY": 1}')
    refusal = refusal_of(records_at(folder), bin_id)
    assert (refusal.status, refusal.kind) == (422, "BadField")


@pytest.mark.parametrize("bin_id", ["7", "A-1.b:C_2", "x" * 64, "-", "a..b"])
def test_ids_of_labels_pass(tmp_path: Path, bin_id: str) -> None:
    (tmp_path / f"{bin_id}.json").write_text('{"EXPECTED_QUANTITY": 1}')
    assert look_up(records_at(tmp_path), bin_id).record.quantity == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"EXPECTED_QUANTITY": -1}',
        '{"EXPECTED_QUANTITY": 1e400}',
        '{"EXPECTED_QUANTITY": 3, "EXPECTED_QUANTITY": 4}',
        '{"EXPECTED_QUANTITY": ' + "9" * 5000 + "}",
        '{"EXPECTED_QUANTITY": 1, "BIN_FCSKU_DATA": {"B": {"quantity": 2}}}',
        '{"BIN_FCSKU_DATA": {"B": {"quantity": 2, "length": {"value": "long", "unit": "IN"}}}}',
        "\udcff",
        '{"EXPECTED_QUANTITY": 1, "x": "' + "x" * record_files.MAX_RECORD_BYTES + '"}',
    ],
)
def test_a_broken_record_is_502_and_names_its_bin(tmp_path: Path, text: str) -> None:
    (tmp_path / "00007.json").write_bytes(text.encode(errors="surrogateescape"))
    refusal = refusal_of(records_at(tmp_path), "00007")
    assert (refusal.status, refusal.kind) == (502, "BadRecord")
    assert "00007" in refusal.message
    assert len(refusal.message) < 400


def test_a_pipe_or_folder_in_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.json")
    (tmp_path / "2.json").mkdir()
    records = records_at(tmp_path)
    assert [refusal_of(records, name).status for name in ("1", "2")] == [502, 502]


def encodings() -> dict[str, bytes]:
    return {
        "plain": CSV.encode(),
        "mark": codecs.BOM_UTF8 + CSV.encode(),
        "utf-16": CSV.encode("utf-16"),
        "utf-32": CSV.encode("utf-32"),
        "a spreadsheet's first line": b"sep=,\r\n" + CSV.encode(),
        "lines of commas": b"\n,,\n" + CSV.replace("8,B00CUP", ",,\n8,B00CUP").encode(),
        "utf-16-be": codecs.BOM_UTF16_BE + CSV.encode("utf-16-be"),
        "crlf": CSV.replace("\n", "\r\n").encode(),
        "semicolons": CSV.replace('"Ball, red"', "Ball").replace(",", ";").encode(),
        "tabs": CSV.replace('"Ball, red"', "Ball").replace(",", "\t").encode(),
        "capitals": CSV.replace("bin_id,id,name,quantity", "Bin_ID, ID ,Name, Quantity").encode(),
        "empty lines": CSV.replace("\n", "\n\n").encode(),
    }


@pytest.mark.parametrize("name", encodings())
def test_a_csv_has_a_row_for_each_product(tmp_path: Path, name: str) -> None:
    (tmp_path / "stock.csv").write_bytes(encodings()[name])
    records = records_at(tmp_path / "stock.csv")
    found = look_up(records, "7")
    first, second = found.record.products
    assert (found.record.quantity, first.id, first.name[:4], first.quantity) == (3, "B00BALL", "Ball", 2)
    assert first.sides_cm == pytest.approx((25.4, 12.7, 10.16))
    assert first.weight_kg == pytest.approx(0.907185)
    assert (second.sides_cm, second.weight_kg, len(second.problems)) == (None, None, 1)  # 0 kg cannot be
    assert json.loads(json.dumps(found.fields))["products"][1]["weight"] == 0
    assert look_up(records, "8").record.products[0].sides_cm == (12.5, 8, 8)
    assert refusal_of(records, "9").status == 404


def test_a_csv_of_quantities_alone_has_one_row_a_bin(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("bin_id,quantity,note\n1,4,\n2,0,\n3,1,\n3,1,\n4,,\n5,many,\n")
    records = records_at(tmp_path)  # a folder with records.csv stands for the file
    assert [look_up(records, name).fields for name in ("1", "2")] == [
        {"expected_quantity": 4},
        {"expected_quantity": 0},
    ]
    assert {name: refusal_of(records, name).status for name in ("3", "4", "5")} == dict.fromkeys("345", 502)
    assert "many" in refusal_of(records, "5").message


def test_a_changed_csv_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text("bin_id,quantity\n1,4\n")
    records = records_at(path)
    assert look_up(records, "1").record.quantity == 4
    status = path.stat()
    path.write_text("bin_id,quantity\n1,5\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look_up(records, "1").record.quantity == 4
    os.utime(path)
    assert look_up(records, "1").record.quantity == 5
    path.unlink()
    assert refusal_of(records, "1").status == 503
    path.write_text("bin_id,quantity\n1,6\n")
    assert look_up(records, "1").record.quantity == 6


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "bin_id and quantity"),
        (b"id,quantity\n1,2\n", "'id,quantity'"),
        (b"bin_id,quantity,bin_id\n", "two columns bin_id"),
        (b'bin_id,quantity\n1,"2\n', "line 2"),
        (b"bin_id,quantity\n\xff,2\n", "UTF-8"),
        (b"bin_id,quantity\n" + b"1" * 200_000 + b",2\n", "line 2"),
        (b"x" * (record_files.MAX_TABLE_BYTES + 1), str(record_files.MAX_TABLE_BYTES)),
    ],
)
def test_a_csv_that_cannot_be_read_is_503_and_says_why(tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "stock.csv").write_bytes(data)
    refusal = refusal_of(records_at(tmp_path / "stock.csv"), "1")
    assert (refusal.status, refusal.kind) == (503, "RecordsUnreadable")
    assert part in refusal.message


def test_cells_of_a_database_are_read_like_those_of_a_csv() -> None:
    row: dict[str, object] = {"id": 17, "name": None, "quantity": Decimal("2"), "weight": Decimal("1.25")}
    found = from_rows(
        "7", [{**row, "weight_unit": "kg", "length": 3, "width": 2.5, "height": " 1 ", "size_unit": "cm"}]
    )
    (product,) = found.record.products
    assert (product.id, product.name, product.quantity) == ("17", "", 2)
    assert (product.sides_cm, product.weight_kg) == ((3, 2.5, 1), 1.25)
    assert json.loads(json.dumps(found.fields)) == found.fields
    for value in (True, Decimal("NaN"), "1,5", b"3", None, "inf", [3], -1, 2.5):
        with pytest.raises(Refusal) as caught:
            from_rows("7", [{**row, "quantity": value}])
        assert caught.value.status == 502


def test_more_products_than_a_record_can_have_are_refused() -> None:
    with pytest.raises(Refusal) as caught:
        from_rows("7", [{"id": str(number), "quantity": 1} for number in range(bin_record.MAX_ROWS)])
    assert str(bin_record.MAX_ROWS) in caught.value.message


def test_the_same_product_twice_is_refused() -> None:
    with pytest.raises(Refusal, match="'a'"):
        from_rows("7", [{"id": "a", "quantity": 1}, {"id": "a", "quantity": 2}])


class SlowSource:
    """A source that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def find(self, bin_id: str) -> BinRecord:
        time.sleep(self.seconds)
        return from_json(bin_id, DATASET)

    def close(self) -> None:
        pass


def test_a_slow_source_is_504_and_the_event_loop_goes_on() -> None:
    async def look_up_twice() -> tuple[list[object], int]:
        records = RecordLookup(SlowSource(0.5), wait_s=0.1)
        searches = asyncio.gather(*(records.find("7") for _ in range(8)), return_exceptions=True)
        turns = 0
        while not searches.done():
            await asyncio.sleep(0.01)
            turns += 1
        records.close()
        return list(await searches), turns

    errors, turns = asyncio.run(look_up_twice())
    assert [(error.status, error.kind) for error in errors if isinstance(error, Refusal)] == [
        (504, "RecordsTimeout")
    ] * 8
    assert turns >= 3


def test_without_records_it_says_which_setting_to_set() -> None:
    refusal = refusal_of(open_records(GatewaySettings()), "7")
    assert (refusal.status, refusal.kind) == (409, "NoRecords")
    assert "BINWATCH_RECORDS" in refusal.message


@pytest.mark.parametrize(
    "address",
    [
        "mysql://u@h/d",
        "postgres://u@h/d",
        "postgresql+asyncpg://u@h/d",
        "http://h/",
        "s3://bins",
        "sqlite://",
        "sqlite:///",
        "postgresql://h:port/d",
        f"mssql://u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:99999/d",
        f"mysql://u:{SECRET}@x/{SECRET}@h/d",
        f"mysql://h/d?user=u&password={SECRET}",
    ],
)
def test_an_address_that_is_no_database_is_named_without_its_password(address: str) -> None:
    (problem,) = problems_of(GatewaySettings, {"BINWATCH_RECORDS": address, "BINWATCH_RECORDS_QUERY": QUERY})
    assert problem.startswith("BINWATCH_RECORDS is ")
    assert SECRET not in problem
    with pytest.raises(SettingsError) as caught:
        read(GatewaySettings, {"BINWATCH_RECORDS": address})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "/srv/bins",
        "records.csv",
        "C:/bins",
        "postgresql://u:p@h/d",
        "postgresql://h",
        "postgresql+psycopg2://u@h:5432/d?sslmode=require",
        "sqlite:////srv/stock.db",
    ],
)
def test_a_place_of_records_passes(location: str) -> None:
    assert check_location(location) == location
    environ = {"BINWATCH_RECORDS": location, "BINWATCH_RECORDS_QUERY": QUERY}
    assert read(GatewaySettings, environ).records == location
    assert ":p@" not in repr(read(GatewaySettings, environ))


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM stock WHERE bin_id = :bin_id",
        "UPDATE stock SET quantity = 0 WHERE bin_id = :bin_id",
        "SELECT 1",
        "SELECT * FROM stock WHERE bin_id = :id",
        "SELECT * FROM stock WHERE bin_id = :bin_id AND site = :site",
        "SELECT * FROM stock WHERE bin_id = ':bin_id'::text; DROP TABLE stock",
        "SELECTED :bin_id",
        "EXPLAIN SELECT :bin_id",
        "-- SELECT :bin_id",
        ";",
    ],
)
def test_a_query_that_is_not_one_select_is_named(query: str) -> None:
    environ = {"BINWATCH_RECORDS": "postgresql://h/d", "BINWATCH_RECORDS_QUERY": query}
    (problem,) = problems_of(GatewaySettings, environ)
    assert problem.startswith(f"BINWATCH_RECORDS_QUERY is {query!r}; ")


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        f" {QUERY} ;",
        "with stocked as (select * from stock) select * from stocked where bin_id = :bin_id",
        "SELECT id, quantity::int, name, '12:30' FROM stock WHERE bin_id::text = :bin_id",
    ],
)
def test_a_query_with_the_bin_passes(query: str) -> None:
    assert check_query(query) == query.strip().removesuffix(";").rstrip()


def test_a_database_needs_a_query() -> None:
    (problem,) = problems_of(GatewaySettings, {"BINWATCH_RECORDS": f"postgresql://u:{SECRET}@h/d"})
    assert "BINWATCH_RECORDS_QUERY" in problem
    assert SECRET not in problem
    assert problems_of(GatewaySettings, {"BINWATCH_RECORDS": "/srv/bins"}) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p@p:/@h/d", "postgresql://u:***@h/d"),
        ("https://u:p@h", "https://u:***@h"),
        ("postgresql://h/d?password=p&sslmode=require", "postgresql://h/d?password=***&sslmode=require"),
        ("http://h:8080/a", "http://h:8080/a"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("/srv/bins", "/srv/bins"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_requests_for_all_bins_share_a_label() -> None:
    metrics = Metrics(frozenset({"/records", "/records/{bin_id}", "/static/{name}"}))
    for path in ("/records", "/records/7", "/records/8", "/recordings", "/static/main.js"):
        with metrics.request(path):
            pass
    text = metrics.text().decode()
    assert 'route="/records/{bin_id}",status="500"} 2.0' in text
    assert 'route="/records",status="500"} 1.0' in text
    assert 'route="other",status="500"} 1.0' in text


def test_a_folder_and_a_file_can_be_given_before_they_are_there(tmp_path: Path) -> None:
    records = RecordLookup(RecordFiles(tmp_path / "later"))
    assert refusal_of(records, "7").status == 503
    (tmp_path / "later").mkdir()
    assert refusal_of(records, "7").status == 404
    (tmp_path / "later" / "7.json").write_text(json.dumps(DATASET))
    assert look_up(records, "7").record.quantity == 2


def test_files_that_cannot_be_read_are_named_before_a_start(tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("bin_id,quantity\n")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert path_problems(tmp_path) == path_problems(tmp_path / "stock.csv") == []
    for name in ("none", "loop", "stock.csv/x", "x" * 300):
        (sentence,) = path_problems(tmp_path / name)
        assert sentence.startswith("BINWATCH_RECORDS: ")
        assert name in sentence


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_records_of_somebody_else_are_named_before_a_start(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir(mode=0)
    assert str(os.getuid()) in path_problems(tmp_path / "records")[0]
    assert str(os.getuid()) in path_problems(tmp_path / "records" / "stock.csv")[0]
