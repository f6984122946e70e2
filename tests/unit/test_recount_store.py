import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from serve.errors import DataError, EventError, SettledError
from serve.files import exclusive_lock
from serve.objects.folder_objects import FolderObjects
from serve.recount.leases import LEASE_S
from serve.recount.queue_order import RANDOM_EVERY
from serve.recount.queue_store import MAX_CANDIDATES, RecountStore
from serve.recount.recount_entities import Candidate, Outcome, Recount, parse_candidate, settle, to_json
from tests.recounting import recount_in
from trainer.data.abid import read_inventory
from trainer.data.counts import Counts

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PRODUCT = {
    "id": "B00BALL",
    "name": "ball",
    "quantity": 2,
    "length": 9.0,
    "width": 9.0,
    "height": 9.0,
    "size_unit": "cm",
}
PHOTO = b"\xff\xd8\xff photo "


def candidate(number: int, **fields: object) -> Candidate:
    """A candidate with an alarm; the lower its number, the less its record fits."""
    values = {
        "event_id": f"event-{number}",
        "bin_id": f"bin-{number}",
        "seen_at": (NOW + timedelta(seconds=number)).isoformat().replace("+00:00", "Z"),
        "recorded_quantity": 2,
        "p_value": number / 1000,
        "alarm": True,
        **fields,
    }
    return Candidate(**values)  # type: ignore[arg-type]


def open_store(folder: Path, max_candidates: int = MAX_CANDIDATES) -> RecountStore:
    return RecountStore(FolderObjects(folder), max_candidates)


def offer(store: RecountStore, *candidates: Candidate) -> list[bool]:
    return [store.offer(item, PHOTO + item.event_id.encode()) for item in candidates]


def lease_all(store: RecountStore, client: str, now: datetime = NOW) -> Iterator[str]:
    """What a client is handed out, bin after bin, each of which it settles as unclear."""
    while (item := store.lease(client, now)) is not None:
        yield item.event_id
        store.settle(item.event_id, Outcome.CANNOT_TELL, None, client, now)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"leases.json"}


@pytest.fixture
def store(tmp_path: Path) -> RecountStore:
    return open_store(tmp_path)


def test_a_count_becomes_a_photo_with_its_label_in_the_layout_of_the_dataset(
    store: RecountStore, tmp_path: Path
) -> None:
    offer(store, candidate(1, products=(PRODUCT,)), candidate(2, products=(PRODUCT,)), candidate(3), candidate(4))
    store.settle("event-1", Outcome.COUNT, 2, "anna", NOW)
    store.settle("event-2", Outcome.COUNT, 5, "anna", NOW)
    store.settle("event-3", Outcome.BAD_PHOTO, None, "ben", NOW)
    assert files(tmp_path) == {
        *("bin-images/event-1.jpg", "metadata/event-1.json", "settled/event-1.json"),
        *("bin-images/event-2.jpg", "metadata/event-2.json", "settled/event-2.json"),
        *("settled/event-3.jpg", "settled/event-3.json"),
        *("queue/event-4.jpg", "queue/event-4.json"),
    }
    right, wrong = (json.loads((tmp_path / "metadata" / f"event-{number}.json").read_text()) for number in (1, 2))
    assert (right["EXPECTED_QUANTITY"], right["BIN_FCSKU_DATA"]) == (2, {"B00BALL": PRODUCT})
    assert (wrong["EXPECTED_QUANTITY"], wrong["BIN_FCSKU_DATA"]) == (5, {})
    recount = recount_in(tmp_path / "settled" / "event-2.json")
    assert recount == recount_in(tmp_path / "metadata" / "event-2.json")
    assert (recount.outcome, recount.count, recount.settled_by, recount.record_was_right) == ("count", 5, "anna", False)
    assert (tmp_path / "bin-images" / "event-2.jpg").read_bytes() == PHOTO + b"event-2"
    inventory = read_inventory(tmp_path, Counts(), require_each=False)
    assert [(photo.id, photo.count, photo.products) for photo in inventory.photos] == [
        ("event-1", 2, frozenset({"B00BALL"})),
        ("event-2", 5, frozenset()),
    ]


def test_products_without_an_id_have_one_that_no_other_bin_shares(store: RecountStore) -> None:
    nameless = {**PRODUCT, "id": "", "quantity": 1}
    offer(store, candidate(1, products=(nameless, nameless)))
    label = store.settle("event-1", Outcome.COUNT, 2, "", NOW).to_metadata()
    assert set(label["BIN_FCSKU_DATA"]) == {"event-1-1", "event-1-2"}  # type: ignore[call-overload]


def test_the_least_likely_record_comes_first_and_two_clients_never_get_the_same(store: RecountStore) -> None:
    offer(store, *(candidate(number) for number in (3, 1, 2)))
    first = [store.lease(client, NOW) for client in ("anna", "ben", "anna")]
    assert [item and item.event_id for item in first] == ["event-1", "event-2", "event-1"]
    second = store.lease("anna", NOW, shown=("event-1",))
    assert second is not None
    assert second.event_id == "event-3"
    assert store.lease("cleo", NOW) is None


def test_a_lease_runs_out_unless_it_is_renewed(store: RecountStore) -> None:
    offer(store, candidate(1), candidate(2))
    assert store.lease("anna", NOW) is not None
    late = NOW + timedelta(seconds=LEASE_S - 1)
    store.lease("anna", late, shown=("event-1",))  # takes the second one, too
    later = NOW + timedelta(seconds=LEASE_S + 1)
    assert store.lease("ben", later) is None
    latest = late + timedelta(seconds=LEASE_S + 1)
    taken = store.lease("ben", latest)
    assert taken is not None
    assert taken.event_id == "event-1"
    store.lease("anna", latest, shown=("event-1",))  # what ben has now is not taken from him
    assert store.lease("ben", latest) == taken


def test_clients_at_the_same_time_share_the_list(store: RecountStore, tmp_path: Path) -> None:
    offer(store, *(candidate(number) for number in range(40)))
    with ThreadPoolExecutor(4) as pool:
        lists = list(pool.map(lambda client: list(lease_all(open_store(tmp_path), client)), "abcd"))
    handed_out = [event_id for events in lists for event_id in events]
    assert sorted(handed_out) == sorted(f"event-{number}" for number in range(40))


def test_the_random_share_is_mixed_in_by_time_whatever_its_verdict(store: RecountStore) -> None:
    drawn = [candidate(200 + number, random=True, alarm=number == 3) for number in range(4)]
    offer(store, *(candidate(number) for number in range(16)), *drawn)
    order = list(lease_all(store, "anna"))
    assert [event_id for event_id in order if event_id.startswith("event-20")] == [item.event_id for item in drawn]
    assert order[RANDOM_EVERY - 1 :: RANDOM_EVERY] == [item.event_id for item in drawn]


def test_a_random_bin_that_somebody_chose_does_not_count_as_random(store: RecountStore) -> None:
    offer(store, candidate(1, random=True), candidate(2, random=True))
    assert not store.settle("event-2", Outcome.COUNT, 2, "", NOW).random
    assert store.lease("anna", NOW) is not None
    assert store.settle("event-1", Outcome.COUNT, 2, "", NOW).random


def test_station_and_day_select(store: RecountStore) -> None:
    offer(
        store, candidate(1, station="dock 1"), candidate(2, station="dock 2"), candidate(3, seen_at="2026-12-01T00:00Z")
    )
    chosen = [
        store.lease("anna", NOW, station="dock 2"),
        store.lease("ben", NOW, day="2026-12-01"),
        store.lease("cleo", NOW, station="dock 2"),
        store.lease("anna", NOW, station="dock 1", day="2026-11-30"),
    ]
    assert [item and item.event_id for item in chosen] == ["event-2", "event-3", None, "event-1"]


def test_a_full_queue_loses_its_least_likely_bins_and_the_oldest_random_ones(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_candidates=4)
    assert offer(store, *(candidate(number) for number in (5, 1, 4, 2))) == [True] * 4
    assert offer(store, candidate(9), candidate(3)) == [False, True]
    assert {item.event_id for item in store.pending()} == {"event-1", "event-2", "event-3", "event-4"}
    offer(store, *(candidate(100 + number, random=True) for number in range(3)))
    assert {item.event_id for item in store.pending()} == {"event-1", "event-2", "event-101", "event-102"}
    assert len(list((tmp_path / "queue").iterdir())) == 8


def test_a_newer_photo_of_a_bin_or_its_recount_replaces_the_older_ones(store: RecountStore) -> None:
    photos = [candidate(number, bin_id="A") for number in (1, 2)]
    offer(store, photos[0], candidate(5, bin_id="A", random=True), candidate(7, bin_id="B"), photos[1])
    assert {item.event_id for item in store.pending()} == {"event-2", "event-5", "event-7"}
    offer(store, candidate(8, bin_id=""), candidate(9, bin_id=""))
    store.settle("event-5", Outcome.COUNT, 1, "", NOW)
    assert {item.event_id for item in store.pending()} == {"event-7", "event-8", "event-9"}


def test_an_undone_recount_waits_again_at_the_one_who_undid_it(store: RecountStore, tmp_path: Path) -> None:
    offer(store, candidate(1), candidate(2))
    before = files(tmp_path)
    for outcome, count in ((Outcome.COUNT, 4), (Outcome.CANNOT_TELL, None)):
        store.settle("event-2", outcome, count, "anna", NOW)
        assert store.undo("event-2", "anna", NOW) == candidate(2)
        assert files(tmp_path) == before
        assert store.photo("event-2") == PHOTO + b"event-2"
    assert store.lease("anna", NOW) == candidate(2)
    with pytest.raises(EventError, match="event-2"):
        store.undo("event-2", "anna", NOW)


def test_the_same_recount_twice_is_one_and_another_one_is_refused(store: RecountStore) -> None:
    offer(store, candidate(1))
    first = store.settle("event-1", Outcome.COUNT, 3, "anna", NOW)
    assert store.settle("event-1", Outcome.COUNT, 3, "ben", NOW + timedelta(hours=1)) == first
    with pytest.raises(SettledError, match="count 3 by anna"):
        store.settle("event-1", Outcome.COUNT, 4, "ben", NOW)
    with pytest.raises(SettledError):
        store.settle_or_correct("event-1", 4, "ben", NOW)
    assert store.settle_or_correct("event-1", 4, "anna", NOW).count == 4
    for call in (partial(store.settle, "event-9", Outcome.COUNT, 1, "", NOW), partial(store.photo, "event-9")):
        with pytest.raises(EventError, match="event-9"):
            call()


def test_a_photo_that_came_as_a_link_is_settled_without_a_label(store: RecountStore, tmp_path: Path) -> None:
    store.offer(candidate(1, link="s3://bins/1.jpg"), b"")
    assert store.photo("event-1") is None
    assert store.settle("event-1", Outcome.COUNT, 3, "", NOW).link == "s3://bins/1.jpg"
    assert files(tmp_path) == {"settled/event-1.json"}
    store.undo("event-1", "", NOW)
    assert files(tmp_path) == {"queue/event-1.json"}


def recount_of(item: Candidate, outcome: Outcome = Outcome.COUNT, count: int | None = 3) -> Recount:
    return settle(item, outcome, count, "anna", NOW)


@pytest.mark.parametrize("files_written", range(4))
def test_a_process_that_was_killed_while_it_settled_leaves_no_half_recount(tmp_path: Path, files_written: int) -> None:
    offer(open_store(tmp_path), candidate(1))
    recount = recount_of(candidate(1))
    steps = [
        ("bin-images/event-1.jpg", PHOTO + b"event-1"),
        ("settled/event-1.json", json.dumps(to_json(recount)).encode()),
        ("metadata/event-1.json", json.dumps(recount.to_metadata()).encode()),
    ]
    for name, content in steps[:files_written]:
        FolderObjects(tmp_path).write(name, content)
    (tmp_path / "queue" / ".event-1.json.partial").write_bytes(b"{")
    store = open_store(tmp_path)
    finished = files_written >= 2
    assert (len(store.pending()), len(store.settled())) == (not finished, finished)
    assert (tmp_path / "metadata" / "event-1.json").exists() == finished
    if not finished:
        store.settle("event-1", Outcome.CANNOT_TELL, None, "ben", NOW)
        assert not (tmp_path / "metadata" / "event-1.json").exists()
    assert store.photo("event-1") == PHOTO + b"event-1"


@pytest.mark.parametrize("files_removed", range(3))
def test_a_process_that_was_killed_while_it_undid_leaves_the_recount_or_the_bin(
    tmp_path: Path, files_removed: int
) -> None:
    store = open_store(tmp_path)
    offer(store, candidate(1))
    before = files(tmp_path)
    store.settle("event-1", Outcome.COUNT, 3, "anna", NOW)
    after = files(tmp_path)
    offer(store, candidate(1))  # as the first step of an undo writes it
    for name in ("metadata/event-1.json", "settled/event-1.json")[:files_removed]:
        (tmp_path / name).unlink()
    open_store(tmp_path)
    assert files(tmp_path) in ((after,) if files_removed < 2 else (before, before | {"bin-images/event-1.jpg"}))


def test_a_file_that_cannot_be_read_is_named_and_costs_no_label(
    store: RecountStore, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    offer(store, candidate(1), candidate(2), candidate(3))
    store.settle("event-3", Outcome.COUNT, 3, "", NOW)
    (tmp_path / "queue" / "event-1.json").write_text('{"event_id": 7}')
    (tmp_path / "settled" / "event-3.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        again = open_store(tmp_path)
        assert [item.event_id for item in again.pending()] == ["event-2"]
        assert again.pending() == [candidate(2)]
    assert [record.getMessage().count("event-1.json") for record in caplog.records].count(1) == 1
    assert (tmp_path / "metadata" / "event-3.json").exists()
    assert (tmp_path / "queue" / "event-1.jpg").exists()


def test_readers_ignore_what_they_do_not_know_and_fill_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"event_id": "a", "seen_at": "2026-11-30T12:00:00Z", "recorded_quantity": 2, "colour": "blue"}')
    assert parse_candidate(str(path), path.read_bytes()) == Candidate(
        event_id="a", seen_at="2026-11-30T12:00:00Z", recorded_quantity=2
    )
    with pytest.raises(DataError, match=re.escape(str(path))):
        recount_in(path)
    recount = recount_of(replace(candidate(1), random=True))
    path.write_text(json.dumps({**recount.to_metadata(), "binwatch": {**to_json(recount), "new": 1}}))
    assert recount_in(path) == recount


def test_damaged_leases_only_cost_leases(store: RecountStore, tmp_path: Path) -> None:
    offer(store, candidate(1))
    store.lease("anna", NOW)
    (tmp_path / "leases.json").write_text("{")
    assert store.lease("ben", NOW) == candidate(1)


def test_a_disk_that_is_full_takes_no_candidate(tmp_path: Path) -> None:
    store = RecountStore(FolderObjects(tmp_path, max_disk_use=-1.0))
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        offer(store, candidate(1))
    assert files(tmp_path) == set()


def test_another_process_that_writes_is_waited_for(store: RecountStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with exclusive_lock(tmp_path):
            waiting = pool.submit(offer, store, candidate(1))
            assert not waiting.done()
            assert files(tmp_path) == set()
        assert waiting.result(10) == [True]
