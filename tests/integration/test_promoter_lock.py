"""One promoter of several hosts works: a real PostgreSQL holds the lock."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from serve.errors import LockHeldError, LockLostError
from tests.integration.postgres import PASSWORD, PostgreSQL, postgres_server
from trainer.promotion.fleet.promoter_lock import PromoterLock, driver_url

HOLDER = """
import sys, time
from trainer.promotion.fleet.promoter_lock import PromoterLock
with PromoterLock(sys.argv[1], watches=True).hold():
    print("holds", flush=True)
    time.sleep(600)
"""
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgres_server() as server:
        yield server


def acquired(lock: PromoterLock) -> bool:
    """Whether this promoter may work now."""
    try:
        with lock.hold():
            return True
    except LockHeldError:
        return False


def test_of_two_promoters_one_works_and_the_other_takes_over_when_it_is_killed(postgres: PostgreSQL) -> None:
    command = [sys.executable, "-c", HOLDER, postgres.url()]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    waiting = PromoterLock(postgres.url(), watches=True)
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"holds\n"
        assert not acquired(waiting)
        holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while not acquired(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    waiting.close()


def test_a_command_changes_something_between_two_rounds_of_the_promoter_that_watches(postgres: PostgreSQL) -> None:
    watching, command = PromoterLock(postgres.url(), watches=True), PromoterLock(postgres.url(), watches=False)
    assert acquired(watching)
    assert acquired(command)
    assert acquired(watching)
    watching.close()
    command.close()


def test_a_holder_whose_connection_is_lost_notices_before_the_next_change(postgres: PostgreSQL) -> None:
    holder, following = PromoterLock(postgres.url(), watches=True), PromoterLock(postgres.url(), watches=True)
    owner = create_engine(driver_url(postgres.url()))
    with holder.hold():
        holder.check()
        with owner.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": "binwatch-promoter"},
            )
        with pytest.raises(LockLostError) as caught:
            holder.check()
        assert PASSWORD not in str(caught.value)
        assert acquired(following)
        with pytest.raises(LockLostError):
            holder.check()  # also when the database answers again: the lock was lost in between
    assert not acquired(holder)
    following.close()
    assert acquired(holder)
    holder.close()
    owner.dispose()


def test_without_the_database_nothing_is_changed(postgres: PostgreSQL) -> None:
    lock = PromoterLock(postgres.url(password="wrong"), watches=True)
    with pytest.raises(LockLostError) as caught, lock.hold():
        pass
    assert "wrong" not in str(caught.value).replace("is wrong", "")
