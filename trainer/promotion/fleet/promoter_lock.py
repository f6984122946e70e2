"""A lock of promoters on several hosts: session advisory locks of PostgreSQL, which end with the connection.

A promoter that watches holds the first key as long as it runs, so that another one waits to take over. Each change,
also a rollback by hand, holds the second one. https://www.postgresql.org/docs/current/explicit-locking.html
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import URL, Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from serve.errors import LockHeldError, LockLostError

log = logging.getLogger(__name__)

WATCH_KEY, CHANGE_KEY = 0x62696E31, 0x62696E32
POLL_S = 0.5
SILENCE_S = 15
"""A connection without a sign of life ends after about this time, at both ends: the holder then stops, and the server
gives the lock to another promoter."""
_KEEPALIVE = {"tcp_keepalives_idle": 5, "tcp_keepalives_interval": 3, "tcp_keepalives_count": 3}


def driver_url(url: str) -> URL:
    """``url`` with the driver that is installed."""
    return make_url(url).set(drivername="postgresql+psycopg2")


class PromoterLock:
    """The lock at ``url``, of one promoter. ``watches``: whether it keeps others from watching."""

    def __init__(self, url: str, watches: bool) -> None:
        arguments = {
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 1000 * SILENCE_S,
            "application_name": "binwatch-promoter",
        }
        self._engine = create_engine(
            driver_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
        )
        self._watches = watches
        self._connection: Connection | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it for one round. Raises LockHeldError while another promoter watches, LockLostError where the database
        does not answer."""
        with self._answering():
            if self._connection is None:
                self._connection = self._connect()
            while not self._ask("SELECT pg_try_advisory_lock(:key)", CHANGE_KEY):
                time.sleep(POLL_S)
        try:
            yield
        finally:
            if self._connection is not None:
                with suppress(LockLostError), self._answering():
                    self._ask("SELECT pg_advisory_unlock(:key)", CHANGE_KEY)

    def check(self) -> None:
        """Raise LockLostError unless this promoter still holds the lock."""
        with self._answering():
            self._ask("SELECT :key", CHANGE_KEY)

    def close(self) -> None:
        """Give the lock to whoever waits for it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        for name, value in _KEEPALIVE.items():
            connection.exec_driver_sql(f"SET {name} = {value}")
        acquired = not self._watches or connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": WATCH_KEY})
        if not acquired:
            connection.close()
            raise LockHeldError("another promoter works; this one waits, and takes over when that one ends")
        if self._watches:
            log.info("this promoter holds the lock; others wait")
        return connection

    def _ask(self, query: str, key: int) -> object:
        if self._connection is None:
            raise LockLostError("the lock of promoters was lost in the middle of a round; the next one asks for it")
        return self._connection.scalar(text(query), {"key": key})

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            self.close()
            problem = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise LockLostError(
                f"the database with the lock of promoters does not answer: {problem}; nothing is changed until it does"
            ) from error
