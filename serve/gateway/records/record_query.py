"""Records in a database, by a query of the user's own. Only this module needs SQLAlchemy, and PostgreSQL its driver.

Nothing is written: the transaction is read-only and rolled back, and SQLite's file is opened for reading. A query is
ended by the database itself after a time limit, so that it does not go on when nobody waits for it any more.
"""

import logging
import math
import sqlite3
import time
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from serve.errors import SettingsError
from serve.gateway.records.bin_record import COLUMNS, MAX_ROWS, BinRecord, broken_record, from_rows
from serve.gateway.refusal import Refusal, retry_later
from serve.settings import without_password

log = logging.getLogger(__name__)

DRIVER = "postgresql+psycopg2"
"""The driver in the image; SQLAlchemy's own default is another one."""
_ENDED = ("57014", "SQLITE_INTERRUPT")
"""PostgreSQL's code and SQLite's name for a statement that took too long."""
_NO_SUCH_VALUE = ("22P02", "22003")
"""PostgreSQL's codes for an id that the type of its column cannot have, such as a word where ids are numbers."""
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2, "tcp_user_timeout": 10_000}
"""In seconds, the last in ms: a server that vanishes during a query is noticed within about ten."""
_SQLITE_REFUSED = ("SQLITE_ERROR", "SQLITE_READONLY")
"""SQLite's names for an error in a statement and for one that writes; its driver has one class for these and others."""
_SQLITE_STEPS = 10_000
"""SQLite looks at the time after this many steps of its virtual machine, about a millisecond."""


class RecordQuery:
    """The records that ``query`` selects by ``:bin_id``. ``timeout_s``: for a connection, and for a query.

    Raises SettingsError for an address that SQLAlchemy cannot read.
    """

    def __init__(self, address: str, query: str, timeout_s: float, connections: int) -> None:
        self._statement, self._timeout_s = text(query), timeout_s
        self._engine = open_database(address, timeout_s, connections)

    def find(self, bin_id: str) -> BinRecord | None:
        """The record of a bin. Raises Refusal."""
        try:
            rows = self._select(bin_id)
        except SQLAlchemyError as error:
            code = _code(error)
            if code in _NO_SUCH_VALUE:
                return None
            log.warning("the database of records: %s", reason_of(error))
            raise _refusal(error, code) from error
        except ValueError as error:  # text that is not in the encoding that the database promises
            raise broken_record(bin_id, error) from error
        if rows and "quantity" not in rows[0]:
            shown = ", ".join(rows[0])[:200] or "none of those that are read"
            raise broken_record(bin_id, f"the query selects the columns {shown}; it needs quantity")
        return from_rows(bin_id, rows) if rows else None

    def _select(self, bin_id: str) -> list[dict[str, object]]:
        """The rows of a bin: column -> value, of the columns that are read."""
        options = {"postgresql_readonly": True} if self._engine.dialect.name == "postgresql" else {}
        with self._engine.connect().execution_options(**options) as connection:
            limit_time(connection, self._timeout_s)
            statement = self._statement.execution_options(stream_results=True, max_row_buffer=MAX_ROWS)
            rows = connection.execute(statement, {"bin_id": bin_id}).mappings().fetchmany(MAX_ROWS)
            connection.rollback()
        selected = [{str(name).casefold(): value for name, value in row.items()} for row in rows]
        return [{name: value for name, value in row.items() if name in COLUMNS} for row in selected]

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def open_database(address: str, timeout_s: float, connections: int) -> Engine:
    """A database that is only read. Raises SettingsError for an address that SQLAlchemy cannot read."""
    try:
        url = make_url(address)
        open_engine = _open_sqlite if url.get_backend_name() == "sqlite" else _open_postgresql
        return open_engine(url, timeout_s, connections)
    except (ArgumentError, ValueError, ImportError) as error:
        raise SettingsError(
            f"BINWATCH_RECORDS is {without_password(address)!r}; SQLAlchemy cannot open it ({type(error).__name__}), "
            "give an address such as postgresql://USER@HOST/DATABASE"
        ) from None  # its message shows the address, with the password


def _open_sqlite(url: URL, timeout_s: float, connections: int) -> Engine:
    file = f"file:{quote(url.database or '')}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(file, uri=True, timeout=timeout_s, check_same_thread=False)

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=connections)


def _open_postgresql(url: URL, timeout_s: float, connections: int) -> Engine:
    connect_s = max(2, math.ceil(timeout_s))  # libpq takes whole seconds, from 2
    return create_engine(
        url.set(drivername=DRIVER),
        connect_args={"connect_timeout": connect_s, "application_name": "binwatch", **_KEEPALIVE},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
    )


def limit_time(connection: Connection, timeout_s: float) -> None:
    """Let the database end what takes longer."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = {round(1000 * timeout_s)}"))
        return
    deadline, raw = time.monotonic() + timeout_s, connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.set_progress_handler(lambda: time.monotonic() > deadline, _SQLITE_STEPS)


def _code(error: SQLAlchemyError) -> str:
    """PostgreSQL's code or SQLite's name of an error; empty where there is none, as without a connection."""
    original = error.orig if isinstance(error, DBAPIError) else None
    return str(getattr(original, "pgcode", None) or getattr(original, "sqlite_errorname", None) or "")


def reason_of(error: SQLAlchemyError) -> str:
    """What the driver says, in one line: SQLAlchemy's own message has the query and its values, too."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return without_password(" ".join(f"{type(original).__name__}: {original}".split()))


def _refusal(error: SQLAlchemyError, code: str) -> Refusal:
    if code in _ENDED:
        return Refusal(504, "RecordsTimeout", "the database took too long to find the record; try again")
    if code in _SQLITE_REFUSED or (isinstance(error, DBAPIError) and not isinstance(error, OperationalError)):
        original = error.orig if isinstance(error, DBAPIError) else error
        message = f"the database refuses BINWATCH_RECORDS_QUERY ({type(original).__name__}); the gateway's log says why"
        return Refusal(502, "RecordsFailed", message)
    return retry_later("RecordsDown", "the database of records does not answer; the gateway's log says why")
