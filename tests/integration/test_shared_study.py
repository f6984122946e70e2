"""A study in a real PostgreSQL: several searches work on it at once, and one takes over what another one has left."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve.errors import DataError, SettingsError
from tests.integration.postgres import PostgreSQL, postgres_server
from tests.integration.test_tune import search
from trainer.experiments.runners import EPOCHS, Job
from trainer.experiments.study_store import DatabaseStore

ROOT = Path(__file__).parents[2]
START_S = 60
HANGING = """
import sys
from pathlib import Path
from tests.integration.test_shared_study import Hanging
from tests.integration.test_tune import search
search(Path(sys.argv[1]), Hanging, trials=4, parallel=2, database=sys.argv[2], study=sys.argv[3]).run()
"""


class Hanging:
    """A job that has begun and does not end."""

    def __init__(self, job: Job) -> None:
        self.code: int | None = None
        line = json.dumps({"number": 1, "validation_loss": 1.0}) + "\n"
        (job.base / "output" / EPOCHS).write_text(line)

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        self.code = 143


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgres_server() as server:
        yield server


def test_two_searches_at_once_share_the_trials(postgres: PostgreSQL, tmp_path: Path) -> None:
    searches = [search(tmp_path / name, trials=8, parallel=2, database=postgres.url(), study="two") for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda search: search.run(), searches)
    assert first == second
    assert len(first) == 8
    assert len({json.dumps(trial.params) for trial in first}) == 8, "no trial twice"
    folders = [len(list((tmp_path / name / "trials").iterdir())) for name in "ab"]
    assert sum(folders) == 8
    assert min(folders) > 0, "both worked"
    assert searches[0].importance().keys() == {"learning_rate", "batch_size", "architecture"}
    alone = search(tmp_path / "journal", trials=8, random_trials=8).run()
    again = search(tmp_path / "again", trials=8, random_trials=8, database=postgres.url(), study="again").run()
    assert [trial.params for trial in alone] == [trial.params for trial in again], "as in a journal"


def test_the_trials_of_a_search_that_was_killed_are_run_by_another_one(postgres: PostgreSQL, tmp_path: Path) -> None:
    words = [sys.executable, "-c", HANGING, str(tmp_path / "killed"), postgres.url(), "killed"]
    killed = subprocess.Popen(words, cwd=ROOT)
    deadline = time.monotonic() + START_S
    while len(list(tmp_path.glob("killed/trials/*/output/epochs.jsonl"))) < 2 and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    other = search(tmp_path / "other", trials=4, database=postgres.url(), study="killed")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(other.run)
        while len(list(tmp_path.glob("other/trials/*"))) < 2 and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        assert not result.done(), "two trials still belong to a search that lives"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        trials = result.result(START_S)
    assert Counter(trial.state for trial in trials).keys() <= {"complete", "pruned"}
    assert len(trials) == 4
    names = {path.name for path in (tmp_path / "killed" / "trials").iterdir()}
    assert names < {path.name for path in (tmp_path / "other" / "trials").iterdir()}, "with the same parameters"


def test_an_address_that_is_no_database_or_does_not_answer_is_one_sentence(
    postgres: PostgreSQL, tmp_path: Path
) -> None:
    for address in ("sqlite:///study.db", "mysql://user:secret@host/db"):
        with pytest.raises(SettingsError, match="postgresql://") as refused:
            search(tmp_path, database=address).run()
        assert "secret" not in str(refused.value)
    wrong = postgres.url(password="wrong-one")
    with pytest.raises(DataError, match=re.escape(f"127.0.0.1:{postgres.port}")) as failed:
        search(tmp_path, database=wrong).run()
    assert "wrong-one" not in str(failed.value)


def test_a_driver_lives_as_long_as_its_connection(postgres: PostgreSQL) -> None:
    first, second = (DatabaseStore(postgres.url(), "drivers") for _ in range(2))
    assert second.is_alive(first.driver)
    first.close()
    assert not second.is_alive(first.driver)
    assert not second.is_alive("")
    second.close()
