"""Where the trials of a search are recorded: a journal in the study's folder, or a PostgreSQL of several drivers.

A driver is a process that runs a search. Both stores tell whether the driver of a trial still lives, so that the trials
of a killed one are run again.
"""

import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from serve.errors import DataError, SettingsError
from serve.settings import without_password

DRIVER = "postgresql+psycopg2:"
"""SQLAlchemy's default is another driver, which is not installed."""
KEEPALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
"""The server notices within 25 s that a driver's host has vanished; the end of a process it notices at once."""
log = logging.getLogger(__name__)


class StudyStore(Protocol):
    """A store of trials. ``driver``: the name of this process in it."""

    driver: str
    storage: BaseStorage

    def lock(self) -> AbstractContextManager[object]:
        """A lock that one thread of one driver has at a time: who holds it may start a trial."""

    def is_alive(self, driver: str) -> bool:
        """Whether a driver still runs."""

    def close(self) -> None:
        """End this driver."""


class JournalStore:
    """The file ``study.log`` in a folder that one driver uses at a time. Raises DataError if it is damaged."""

    def __init__(self, folder: Path) -> None:
        self.driver, self._lock = uuid.uuid4().hex, threading.Lock()
        self.storage: BaseStorage = read_journal(folder)

    def lock(self) -> AbstractContextManager[object]:
        """Only the threads of this process need it."""
        return self._lock

    def is_alive(self, driver: str) -> bool:
        """Of all drivers, this one alone."""
        return driver == self.driver

    def close(self) -> None:
        """Nothing is open."""


class DatabaseStore:
    """A PostgreSQL database. Each driver holds an advisory lock, which its end releases, however it ends.

    Raises SettingsError for another address, DataError if the database does not answer.
    """

    def __init__(self, url: str, study: str) -> None:
        if not url.startswith("postgresql://"):
            raise SettingsError(
                f"a study is at postgresql://USER@HOST/DATABASE, not at {without_password(url)!r}; or give none"
            )
        self.driver, self._lock, self._url = uuid.uuid4().hex, threading.Lock(), url
        self._study_key = _key(f"study {study}")
        address = url.replace("postgresql:", DRIVER, 1)
        self._engine: Engine = create_engine(address, pool_pre_ping=True, connect_args={"options": KEEPALIVE})
        try:
            self._session = self._hold()
            with self.lock():  # two drivers that create the tables at once would stumble over each other
                self.storage: BaseStorage = RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
        except SQLAlchemyError as error:
            reason = without_password(str(error.__cause__ or error)).strip()
            raise DataError(f"{without_password(url)} does not answer: {reason}; check the address") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One thread of all drivers. Raises DataError if the database does not answer."""
        with self._lock:
            self._keep_alive()
            with self._engine.begin() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._study_key})
                yield

    def is_alive(self, driver: str) -> bool:
        """Whether the driver's lock is held."""
        if driver == self.driver:
            return True
        with self._engine.begin() as connection:
            query = text("SELECT pg_try_advisory_xact_lock(:key)")
            return not connection.execute(query, {"key": _key(driver)}).scalar_one()

    def close(self) -> None:
        """Release the driver's lock."""
        with suppress(SQLAlchemyError):  # the end of the connection releases it, too
            self._session.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _key(self.driver)})
        self._session.close()
        self._engine.dispose()
        self.storage.remove_session()

    def _hold(self) -> Connection:
        session = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _key(self.driver)})
        return session

    def _keep_alive(self) -> None:
        """Take the driver's lock again, if the connection that held it was lost."""
        try:
            self._session.execute(text("SELECT 1"))
        except SQLAlchemyError:
            log.warning("the connection to %s was lost; it is opened again", without_password(self._url))
            self._session.invalidate()
            self._session = self._hold()


def _key(name: str) -> int:
    """The key of an advisory lock, 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(f"binwatch {name}".encode()).digest()[:8], signed=True)


def read_journal(folder: Path) -> JournalStorage:
    """The journal of a study. Raises DataError if it is damaged."""
    path = folder / "study.log"
    _drop_partial_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        problem = f"{type(error).__name__}: {str(error)[:100]}"
        raise DataError(
            f"{path} is not the journal of a study ({problem}); restore it, or use another folder"
        ) from error


def _drop_partial_line(path: Path) -> None:
    """Remove what a killed search or a full disk left of the last line of a journal: Optuna appends to it otherwise."""
    if not path.is_file():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        log.warning("%s was cut off in a line; its last %d bytes are removed", path, len(data) - end)
        os.truncate(path, end)
