"""Records of bins in real databases: PostgreSQL and SQLite."""

import asyncio
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from serve.errors import SettingsError
from serve.gateway.records.lookup import THREADS, open_records
from serve.gateway.records.record_query import DRIVER, RecordQuery
from serve.gateway.refusal import Refusal
from serve.gateway.settings import GatewaySettings
from tests.integration.postgres import PASSWORD, PostgreSQL, postgres_server

TABLE = """CREATE TABLE stock (bin_id TEXT, id TEXT, name TEXT, quantity INTEGER, length NUMERIC, width NUMERIC,
    height NUMERIC, size_unit TEXT, weight NUMERIC, weight_unit TEXT)"""
ROWS = """INSERT INTO stock VALUES
    ('7', 'B00BALL', 'Ball', 2, 10, 4, 5, 'in', 2, 'lb'), ('7', 'B00CUP', 'Cup', 1, NULL, NULL, NULL, NULL, NULL, NULL),
    ('9', 'B00BAD', 'Bad', -1, NULL, NULL, NULL, NULL, NULL, NULL)"""
QUERY = "SELECT * FROM stock WHERE bin_id = :bin_id ORDER BY id"
HOSTILE = "7' OR '1'='1"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgres_server() as server:
        owner = create_engine(driver_url(server.url()))
        with owner.begin() as connection:
            connection.execute(text(TABLE))
            connection.execute(text(ROWS))
            connection.execute(text("CREATE TABLE numbered AS SELECT 7 AS bin_id, 3 AS quantity"))
        owner.dispose()
        yield server


@pytest.fixture(params=["postgresql", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with TABLE, whose user may write."""
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgres")
        return server.url()
    with sqlite3.connect(tmp_path / "stock.db") as connection:
        connection.execute(TABLE)
        connection.execute(ROWS)
    connection.close()
    return f"sqlite:///{tmp_path / 'stock.db'}"


def driver_url(address: str) -> str:
    return address.replace("postgresql:", f"{DRIVER}:")


def records_in(address: str, query: str = QUERY, timeout_s: float = 2) -> RecordQuery:
    return RecordQuery(address, query, timeout_s, THREADS)


def refusal_of(address: str, query: str, bin_id: str = "7", timeout_s: float = 2) -> Refusal:
    records = records_in(address, query, timeout_s)
    with pytest.raises(Refusal) as caught:
        records.find(bin_id)
    records.close()
    return caught.value


def number_of_rows(address: str) -> int:
    engine: Engine = create_engine(driver_url(address))
    with engine.connect() as connection:
        number = int(connection.execute(text("SELECT count(*) FROM stock")).scalar_one())
    engine.dispose()
    return number


def test_a_record_is_found_by_its_bin(database: str) -> None:
    records = records_in(database)
    found = records.find("7")
    assert found is not None
    ball, cup = found.record.products
    assert (found.record.quantity, ball.id, ball.quantity, cup.sides_cm) == (3, "B00BALL", 2, None)
    assert ball.sides_cm == pytest.approx((25.4, 12.7, 10.16))
    assert ball.weight_kg == pytest.approx(0.907185)
    assert records.find("8") is None
    for _ in range(3 * THREADS):  # more than there are connections
        assert records.find("7") is not None
    records.close()


def test_a_broken_row_or_a_query_without_quantities_is_502(database: str) -> None:
    broken = refusal_of(database, QUERY, "9")
    assert (broken.status, broken.kind) == (502, "BadRecord")
    assert "-1" in broken.message
    shapeless = refusal_of(database, "SELECT id, name FROM stock WHERE bin_id = :bin_id")
    assert (shapeless.status, shapeless.kind) == (502, "BadRecord")
    assert "quantity" in shapeless.message


def test_an_id_is_a_value_and_never_part_of_the_query(database: str) -> None:
    records = records_in(database)
    for bin_id in (HOSTILE, "7; DROP TABLE stock", '7"', "7\\", "%s", ":bin_id", "7--"):
        assert records.find(bin_id) is None
    records.close()
    assert number_of_rows(database) == 3


@pytest.mark.parametrize(
    "query",
    [
        "WITH gone AS (DELETE FROM stock RETURNING *) SELECT * FROM gone WHERE bin_id = :bin_id",
        "DELETE FROM stock WHERE bin_id = :bin_id RETURNING *",
        "SELECT *, :bin_id AS other INTO copied FROM stock",
        "SELECT 1 AS quantity, :bin_id; DELETE FROM stock",
    ],
)
def test_nothing_is_written(database: str, query: str) -> None:
    refusal = refusal_of(database, query)
    assert (refusal.status, refusal.kind) == (502, "RecordsFailed")
    assert "BINWATCH_RECORDS_QUERY" in refusal.message
    assert number_of_rows(database) == 3


def test_a_query_that_the_database_refuses_is_502(database: str, caplog: pytest.LogCaptureFixture) -> None:
    refusal = refusal_of(database, "SELECT quantity FROM stocks WHERE bin_id = :bin_id")
    assert (refusal.status, refusal.kind) == (502, "RecordsFailed")
    assert "stocks" in caplog.text
    assert PASSWORD not in caplog.text + refusal.message


def test_a_slow_query_is_ended_by_the_database(database: str) -> None:
    endless = """WITH RECURSIVE numbers AS (SELECT 1 AS number UNION ALL SELECT number + 1 FROM numbers)
        SELECT count(*) AS quantity, :bin_id AS id FROM numbers"""
    start = time.monotonic()
    refusal = refusal_of(database, endless, timeout_s=0.3)
    assert (refusal.status, refusal.kind) == (504, "RecordsTimeout")
    assert time.monotonic() - start < 5


def test_a_query_for_a_whole_table_reads_no_more_than_a_record(database: str) -> None:
    many = """WITH RECURSIVE numbers AS
        (SELECT 1 AS number UNION ALL SELECT number + 1 FROM numbers WHERE number < 1000000)
        SELECT number AS id, 1 AS quantity FROM numbers WHERE :bin_id <> ''"""
    refusal = refusal_of(database, many, timeout_s=20)
    assert (refusal.status, refusal.kind) == (502, "BadRecord")


def test_an_id_that_its_column_cannot_have_is_unknown(postgres: PostgreSQL) -> None:
    records = records_in(postgres.url(), "SELECT quantity FROM numbered WHERE bin_id = :bin_id")
    found = records.find("7")
    assert found is not None
    assert found.fields == {"expected_quantity": 3}
    assert [records.find(bin_id) for bin_id in ("A7", "9" * 40, "8")] == [None] * 3
    records.close()


def test_a_wrong_password_and_an_absent_server_are_503_without_the_password(
    postgres: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = postgres.url(password="secret-but-wrong")
    absent = f"postgresql://owner:{PASSWORD}@127.0.0.1:1/postgres"
    for address in (wrong, absent, f"sqlite:///{tmp_path}/none.db"):
        refusal = refusal_of(address, QUERY)
        assert (refusal.status, refusal.kind) == (503, "RecordsDown")
        assert int(refusal.headers["Retry-After"]) > 0
        assert not {"secret-but-wrong", PASSWORD} & set((refusal.message + caplog.text).split())
        assert "secret" not in refusal.message + caplog.text
        assert PASSWORD not in refusal.message + caplog.text
    assert not (tmp_path / "none.db").exists()


def test_it_goes_on_after_a_restart_of_the_database(postgres: PostgreSQL) -> None:
    records = records_in(postgres.url())
    assert records.find("7") is not None
    postgres.stop()
    with pytest.raises(Refusal) as caught:
        records.find("7")
    assert caught.value.status == 503
    postgres.start()
    assert records.find("7") is not None
    records.close()


def test_a_server_that_never_answers_keeps_no_request_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = GatewaySettings(records=f"postgresql://u@127.0.0.1:{port}/d", records_query=QUERY, timeout_s=0.5)
        records = open_records(settings)

        async def look_up_many() -> list[BaseException]:
            searches = (records.find("7") for _ in range(3 * THREADS))
            return [error for error in await asyncio.gather(*searches, return_exceptions=True) if error]  # type: ignore[misc]

        start = time.monotonic()
        errors = asyncio.run(look_up_many())
        assert {error.status for error in errors if isinstance(error, Refusal)} == {504}
        assert len(errors) == 3 * THREADS
        assert time.monotonic() - start < 10
        records.close()


def test_an_address_that_sqlalchemy_cannot_read_is_named_without_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        records_in(f"postgresql://u:{PASSWORD}@h:x/d")
    assert "BINWATCH_RECORDS" in str(caught.value)
    assert PASSWORD not in str(caught.value)
