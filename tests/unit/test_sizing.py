"""From measurements to a number of workers, a memory limit and lines for .env."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve.errors import DataError
from serve.local import sizing
from serve.local.open_load import Load
from serve.local.sizing import Measurement, decide, deployed_archive, memory_limit_mb, requests, search
from serve.photo import MAX_MB
from serve.rollout.model_store import ModelStore, StoredVersion

ROW = Measurement(workers=1, rate=30.0, answered=30.0, failed=0, p50_ms=40.0, p99_ms=150.0, memory_mb=400.0)


def machine(per_worker: float) -> Callable[[int, float], Measurement]:
    """A server whose workers count so many photos a second; above that requests fail."""

    def measure(workers: int, rate: float) -> Measurement:
        capacity, slow = workers * per_worker, rate > workers * per_worker
        return Measurement(
            workers=workers,
            rate=rate,
            answered=min(rate, capacity),
            failed=int(slow),
            p50_ms=40.0,
            p99_ms=math.inf if slow else 150.0,
            memory_mb=300.0 + 100 * workers,
        )

    return measure


def test_the_fewest_workers_that_hold_the_rate_are_enough() -> None:
    rows = list(search(machine(12), 30, 200, 8))
    assert [row.workers for row in rows] == [1, 2, 3]
    chosen = decide(rows, 30, 200, "int8")
    assert (chosen.workers, chosen.reached) == (3, 30)
    assert chosen.env()[:3] == ["BINWATCH_WORKERS=3", "BINWATCH_MIN_WORKERS=3", "BINWATCH_MAX_WORKERS=3"]
    assert "int8" in chosen.reason


def test_a_rate_that_cannot_be_reached_gets_the_greatest_one_that_holds() -> None:
    rows = list(search(machine(12), 30, 200, 2))
    assert [row.rate for row in rows] == [30, 30, pytest.approx(21.6)]
    chosen = decide(rows, 30, 200, "int8")
    assert (chosen.workers, chosen.env()) == (None, [])
    assert chosen.reached == pytest.approx(21.6)
    assert "cannot be reached" in chosen.reason


def test_where_no_rate_holds_it_says_so() -> None:
    rows = list(search(machine(12), 5, 100, 1))
    assert [row.rate for row in rows] == [5, *(pytest.approx(5 * share) for share in sizing.SLOWER)]
    chosen = decide(rows, 5, 100, "fp32")
    assert (chosen.workers, chosen.reached) == (None, 0)


def test_a_server_that_answers_nothing_is_measured_once_for_each_number_of_workers() -> None:
    assert [row.workers for row in search(machine(0), 30, 200, 2)] == [1, 2]


@pytest.mark.parametrize("wrong", [replace(ROW, failed=1), replace(ROW, p99_ms=200.1)])
def test_a_failure_or_a_slow_answer_does_not_hold(wrong: Measurement) -> None:
    assert sizing.holds(replace(ROW, p99_ms=200), 200)
    assert not sizing.holds(wrong, 200)


def test_memory_has_room_for_a_second_version_and_the_largest_photo_of_every_worker() -> None:
    for workers in (1, 3):
        row = replace(ROW, workers=workers)
        assert memory_limit_mb(row) >= 2 * row.memory_mb + workers * MAX_MB + sizing.HEAP_MB
    assert f"BINWATCH_SERVE_MEMORY={memory_limit_mb(ROW)}m" in decide([ROW], 30, 200, "int8").env()


def test_a_time_without_end_is_null_in_json() -> None:
    chosen = decide([replace(ROW, p99_ms=math.inf, failed=9)], 30, 200, "int8").to_json()
    assert isinstance(chosen["measurements"], list)
    assert chosen["measurements"][0]["p99_ms"] is None
    assert chosen["env"] == {}


def test_a_measurement_is_bounded_in_number_and_time() -> None:
    assert [requests(rate, 15) for rate in (0.01, 1, 10, 30, 1000)] == [1, 60, 200, 450, 3000]


def test_requests_without_an_answer_count_as_the_slowest() -> None:
    load = Load(tuple(number / 1000 for number in range(1, 99)), 2, 10.0)
    assert load.quantile_ms(0.5) == pytest.approx(50)
    assert load.quantile_ms(0.98) == pytest.approx(98)
    assert load.quantile_ms(0.99) == math.inf
    assert load.answered == pytest.approx(9.8)


def test_a_store_without_a_deployed_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        deployed_archive(tmp_path)


def test_the_deployed_version_is_measured(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.remember_serving(StoredVersion(version="4", run_id="a run"))
    with pytest.raises(DataError):
        deployed_archive(tmp_path)
    store.path("4").write_bytes(b"archive")
    assert deployed_archive(tmp_path) == tmp_path / "bin-counter-4.mar"
