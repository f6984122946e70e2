"""The bins of a database, by one query of the user's own that lists them all with their records."""

import logging
import re

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from serve.errors import DataError, SettingsError
from serve.gateway.records.location import check_location, parameters_of
from serve.gateway.records.record_query import limit_time, open_database, reason_of
from serve.settings import without_password

TIMEOUT_S = 600.0
_ROWS = 1000
"""Rows that are fetched at a time."""

log = logging.getLogger(__name__)


def check_listing(query: str) -> str:
    """A query that reads, and needs nothing to be filled in, without a semicolon at its end. Raises SettingsError."""
    statement = query.strip().removesuffix(";").rstrip()
    if not re.match(r"(?:SELECT|WITH)\b", statement, re.IGNORECASE) or ";" in statement or parameters_of(statement):
        raise SettingsError(
            f"--query is {query[:80]!r}; give one statement that starts with SELECT or WITH and lists all bins, "
            "without a semicolon inside and without parameters"
        )
    return statement


def read_rows(address: str, query: str) -> list[dict[str, object]]:
    """The rows that ``query`` selects: column, in small letters -> value. Raises SettingsError, DataError.

    Nothing is written: the transaction is read-only and rolled back, and SQLite's file is opened for reading.
    """
    try:
        check_location(address)
    except ValueError as error:
        raise SettingsError(f"--records is {without_password(address)!r}; {error}") from error
    engine = open_database(address, TIMEOUT_S, 1)
    options = {"postgresql_readonly": True} if engine.dialect.name == "postgresql" else {}
    try:
        with engine.connect().execution_options(**options) as connection:
            limit_time(connection, TIMEOUT_S)
            statement = text(check_listing(query)).execution_options(stream_results=True, max_row_buffer=_ROWS)
            rows = [
                {str(name).casefold(): value for name, value in row.items()}
                for row in connection.execute(statement).mappings()
            ]
            connection.rollback()
    except SQLAlchemyError as error:
        raise DataError(f"the database cannot list the bins: {reason_of(error)}; is --query right?") from error
    finally:
        engine.dispose()
    return rows
