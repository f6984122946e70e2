"""Recounts in a bucket: a real S3 server, several gateways on one prefix, and what the trainer reads of it."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from serve.errors import EventError, SettledError, UnavailableError
from serve.links import s3_client
from serve.local.servers import free_port, gateway_server, s3_server
from serve.objects.bucket_objects import BucketObjects
from serve.objects.folder_objects import FolderObjects
from serve.objects.object_store import ObjectStore
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import Outcome
from tests.integration.recounting import JPEG, RecountGateway, event
from tests.integration.upstream import Upstream, upstream_server
from tests.recounting import picture, put_recount, recount_in
from tests.unit.test_capture import until
from tests.unit.test_recount_store import NOW, PHOTO, candidate, files, lease_all, offer
from trainer.data.counts import Counts
from trainer.data.mirrors import recount_mirror
from trainer.data.recounts import read_recounts

pytestmark = pytest.mark.usefixtures("no_credentials")

NAMES = itertools.count()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with upstream_server() as server:
        yield server


@pytest.fixture
def place(s3: str) -> str:
    """A prefix of its own in the S3 server."""
    name = f"recounts-{next(NAMES)}"
    s3_client(s3, 20, 1).create_bucket(Bucket=name)
    return f"s3://{name}/recounts"


@pytest.fixture
def bucket(s3: str, place: str) -> BucketObjects:
    return BucketObjects(place, s3)


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return FolderObjects(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")


def pending(url: str) -> int | None:
    """How many bins wait at a gateway; None while its store is away."""
    number = requests.get(f"{url}/recounts", timeout=30).json().get("pending")
    return number if number is None else int(number)


def names(objects: ObjectStore) -> set[str]:
    """All objects of a store of recounts but the leases."""
    folders = ("queue", "settled", "metadata", "bin-images")
    return {f"{folder}/{name}" for folder in folders for name in objects.entries(folder)}


def test_a_folder_and_a_bucket_do_the_same(objects: ObjectStore) -> None:
    assert (objects.read("a/b.json"), objects.entries("a"), objects.copy("a/b.json", "c")) == (None, {}, False)
    with objects.exclusive():
        assert objects.replace("a/b.json", b"1", None)
        assert not objects.replace("a/b.json", b"2", None), "it is there"
        first = objects.read("a/b.json")
        assert first is not None
        assert objects.replace("a/b.json", b"33", first.stamp)
        assert not objects.replace("a/b.json", b"4", first.stamp), "it has changed"
        assert not objects.replace("a/none.json", b"4", first.stamp), "it is gone"
    assert objects.copy("a/b.json", "a/c/d.json")
    objects.write("a/e.json", b"5")
    assert set(objects.entries("a")) == {"b.json", "e.json"}
    keys = ["a/e.json", "a/none.json", "a/b.json"]
    assert list(objects.read_all(keys)) == [("a/e.json", b"5"), ("a/b.json", b"33")]
    second = objects.read("a/b.json")
    assert second is not None
    assert (second.content, objects.entries("a")["b.json"].stamp) == (b"33", second.stamp)
    objects.remove("a/b.json", "a/none.json")
    assert set(objects.entries("a")) == {"e.json"}


def test_a_bin_is_settled_undone_and_settled_again(objects: ObjectStore) -> None:
    store = RecountStore(objects)
    offer(store, candidate(1), candidate(2, link="s3://bins/2.jpg"))
    assert store.lease("anna", NOW) == candidate(1)
    store.settle("event-1", Outcome.COUNT, 3, "anna", NOW)
    assert names(objects) == {
        "settled/event-1.json",
        "metadata/event-1.json",
        "bin-images/event-1.jpg",
        "queue/event-2.json",
        "queue/event-2.jpg",
    }
    assert store.settle("event-1", Outcome.COUNT, 3, "ben", NOW).settled_by == "anna", "the same again"
    with pytest.raises(SettledError):
        store.settle("event-1", Outcome.COUNT, 4, "ben", NOW)
    store.undo("event-1", "anna", NOW)
    assert store.photo("event-1") == PHOTO + b"event-1"
    store.settle("event-1", Outcome.BAD_PHOTO, None, "anna", NOW)
    assert {"settled/event-1.json", "settled/event-1.jpg"} == {name for name in names(objects) if "event-1" in name}
    with pytest.raises(EventError):
        store.photo("event-3")
    assert store.offer(candidate(9, bin_id="bin-2"), b"")  # a newer photo of the bin
    assert {item.event_id for item in store.pending()} == {"event-9"}


def test_gateways_that_share_a_bucket_hand_each_bin_out_once(s3: str, place: str) -> None:
    first = RecountStore(BucketObjects(place, s3))
    offer(first, *map(candidate, range(12)))
    stores = [first, *(RecountStore(BucketObjects(place, s3)) for _ in range(2))]
    with ThreadPoolExecutor(3) as pool:
        lists = list(pool.map(lambda item: list(lease_all(item[1], f"client-{item[0]}")), enumerate(stores)))
    handed_out = [event_id for one in lists for event_id in one]
    assert len(handed_out) == len(set(handed_out)) == 12
    assert sorted(item.event_id for item in first.settled()) == sorted(handed_out)


def test_of_two_people_at_two_gateways_who_settle_one_bin_one_is_refused(s3: str, place: str) -> None:
    stores = [RecountStore(BucketObjects(place, s3)) for _ in range(2)]
    for number in range(4):
        offer(stores[0], candidate(number))

        def settle(who: int, event_id: str = f"event-{number}") -> int | None:
            try:
                return stores[who].settle(event_id, Outcome.COUNT, who + 1, f"person {who}", NOW).count
            except SettledError:
                return None

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(settle, range(2)))
        (count,) = [result for result in results if result]
        (label,) = [content for _, content in BucketObjects(place, s3).read_all([f"metadata/event-{number}.json"])]
        assert f'"EXPECTED_QUANTITY": {count},'.encode() in label


def test_a_recount_that_a_killed_gateway_left_half_is_finished_by_the_next(bucket: BucketObjects) -> None:
    store = RecountStore(bucket)
    offer(store, candidate(1))
    queued = {name: bucket.read(f"queue/event-1.{name}") for name in ("json", "jpg")}
    store.settle("event-1", Outcome.COUNT, 3, "anna", NOW)
    after = names(bucket)
    for name, stored in queued.items():  # as if it had been killed before these went
        assert stored
        bucket.write(f"queue/event-1.{name}", stored.content)
    bucket.remove("metadata/event-1.json")
    assert RecountStore(bucket).pending() == []
    assert names(bucket) == after


def test_a_store_that_is_away_is_503_and_candidates_wait_for_it(tmp_path: Path, upstream: Upstream) -> None:
    port = free_port()
    with ExitStack() as stack:
        environ = {
            "BINWATCH_RECOUNTS": "s3://bins/recounts",
            "BINWATCH_S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "BINWATCH_RECOUNT_RANDOM": "0",
        }
        url = stack.enter_context(gateway_server(tmp_path, upstream.url, environ=environ))
        gateway = RecountGateway(url, upstream, tmp_path)
        assert gateway.verify(1)["verdict"] == "mismatch", "an answer does not wait for the store"
        answer = requests.get(f"{url}/recounts", timeout=30)
        assert (answer.status_code, answer.json()["type"], answer.headers["Retry-After"]) == (503, "StoreAway", "5")
        endpoint = stack.enter_context(s3_server(tmp_path / "s3", port))
        s3_client(endpoint, 20, 1).create_bucket(Bucket="bins")
        until(lambda: pending(url) == 1, timeout_s=60)
        assert gateway.next() == event(1)
        assert gateway.settle(1, count=4).status_code == 201
        assert requests.get(f"{url}/recounts/{event(1)}/photo", timeout=30).content == JPEG + b"\x01"
        objects = BucketObjects("s3://bins/recounts", endpoint)
        assert {"settled", "metadata", "bin-images"} == {name.partition("/")[0] for name in names(objects)}


def test_the_photo_of_a_link_into_an_allowed_bucket_is_fetched_and_gets_its_label(
    s3: str, place: str, tmp_path: Path, upstream: Upstream
) -> None:
    own = place.removeprefix("s3://").partition("/")[0]
    s3_client(s3, 20, 1).put_object(Bucket=own, Key="today/1.jpg", Body=JPEG)
    environ = {
        "BINWATCH_RECOUNTS": place,
        "BINWATCH_S3_ENDPOINT": s3,
        "BINWATCH_S3_BUCKETS": own,
        "BINWATCH_RECOUNT_RANDOM": "0",
    }
    with gateway_server(tmp_path, upstream.url, environ=environ) as url:
        gateway = RecountGateway(url, upstream, tmp_path)
        for number, link in ((1, f"s3://{own}/today/1.jpg"), (2, "s3://elsewhere/2.jpg")):
            gateway.answers(number)
            body = {"uri": link, "expected_quantity": 3}
            assert requests.post(f"{url}/verify", json=body, timeout=30).status_code == 200
        gateway.pending(2)
        for number, status in ((1, 200), (2, 404)):
            assert requests.get(f"{url}/recounts/{event(number)}/photo", timeout=30).status_code == status
            assert gateway.settle(number, count=2).status_code == 201
    assert set(BucketObjects(place, s3).entries("metadata")) == {f"{event(1)}.json"}


def test_the_trainer_reads_recounts_of_a_bucket_as_of_a_folder(
    s3: str, place: str, bucket: BucketObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", s3)
    for number in range(3):
        put_recount(tmp_path / "made", f"event-{number}", picture(number), number + 1)
    for name in files(tmp_path / "made"):
        bucket.write(name, (tmp_path / "made" / name).read_bytes())
    folder = recount_mirror.recount_folder(place, tmp_path / "cache")
    assert [photo.count for photo in read_recounts(folder, Counts(), {}).photos] == [1, 2, 3]
    put_recount(tmp_path / "made", "event-0", picture(0), 5)  # corrected
    bucket.write("metadata/event-0.json", (tmp_path / "made" / "metadata" / "event-0.json").read_bytes())
    bucket.remove("metadata/event-1.json", "bin-images/event-1.jpg")  # undone
    assert [photo.count for photo in read_recounts(folder, Counts(), {}).photos] == [5, 3]
    assert recount_in(folder / "metadata" / "event-2.json").count == 3
    assert recount_mirror.recount_folder(place, tmp_path / "cache") == folder
    monkeypatch.setenv("BINWATCH_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    recount_mirror.refresh(folder, max_age_s=60.0)  # young enough
    with pytest.raises(UnavailableError):
        recount_mirror.refresh(folder)
    assert len(files(folder)) == 5, "the copy stays"
