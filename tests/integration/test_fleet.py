"""Several TorchServe servers: one champion on all of them, whatever fails meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serve.archives.archive import golden_photos
from serve.errors import CanaryError, ServerError
from serve.rollout.model_store import StoredVersion
from serve.routing.route_table import ROUTES, Routes
from tests.integration.fleets import HOST, Fleeted, fleeted
from trainer.promotion.fleet.door import LARGEST_REPORT
from trainer.promotion.fleet.fleet import Fleet

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "data" / "bin-counter-8ed89dd.mar"
"""A small one that needs no training."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleeted]:
    """Two servers."""
    with fleeted(tmp_path_factory.mktemp("fleet"), 2) as view:
        yield view


@pytest.fixture
def servers(started: Fleeted) -> Iterator[Fleeted]:
    """Two servers without a model."""
    yield started
    for host in started.hosts:
        host.start()
        for version in sorted(host.management.loaded(), key=lambda version: version.default):
            host.management.unregister(version.version)
        for archive in (host.state / "models").glob("*.mar"):
            archive.unlink()  # TorchServe leaves one that it could not unpack until it is restarted
    for path in started.store.iterdir():
        path.unlink()


def promote(fleet: Fleet, version: str) -> None:
    """What a promoter does with an approved version, without probation."""
    with fleet.lock():
        fleet.load(version, lambda: ARCHIVE)
        fleet.canary(version)
        fleet.switch(version)
        fleet.archives.remember_serving(StoredVersion(version=version, run_id=""))
        fleet.retire_others(version, None)


def test_a_champion_is_on_all_servers_which_fetch_it_from_the_promoter(servers: Fleeted) -> None:
    fleet = servers.fleet()
    promote(fleet, "1")
    promote(fleet, "2")
    photo = golden_photos(ARCHIVE)[0][0]
    for host in servers.hosts:
        assert host.loaded() == {"2": True}
        assert host.archives() == {"bin-counter-2.mar"}
        url = f"{host.inference}/predictions/bin-counter/2"
        assert requests.post(url, data=photo, timeout=60).json()["model_version"] == "2"
    assert servers.routed() == ({host.inference for host in servers.hosts}, "2")
    with fleet.lock():
        assert fleet.serving() == "2"
        assert fleet.observe("2").fault == ""


def test_a_server_that_was_down_gets_the_champion_before_it_gets_requests(
    servers: Fleeted, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = servers.fleet()
    promote(fleet, "1")
    up, down = servers.hosts
    down.stop()
    promote(fleet, "2")
    with fleet.lock():
        assert fleet.serving() == "2"
    assert servers.routed() == ({up.inference}, "2")
    assert caplog.text.count(f"{HOST}:{down.port} is left out") == 1
    down.start()
    assert down.loaded() == {}
    assert down.archives() == set()  # what was fetched before it went down
    with fleet.lock():
        assert down.loaded() == {"2": True}
        assert servers.routed() == ({up.inference, down.inference}, "2")


def test_a_version_that_one_server_refuses_is_on_none(servers: Fleeted) -> None:
    fleet = servers.fleet()
    promote(fleet, "1")
    models = servers.hosts[1].state / "torchserve-work" / "models"
    away = models.rename(models.with_name("models-away"))
    models.write_text("no folder, so that nothing can be unpacked")
    try:
        with pytest.raises(CanaryError, match=f"server {HOST}:{servers.hosts[1].port}: "):
            promote(fleet, "2")
    finally:
        models.unlink()
        away.rename(models)
    assert [host.loaded() for host in servers.hosts] == [{"1": True}] * 2
    assert servers.routed() == ({host.inference for host in servers.hosts}, "1")


def test_a_promoter_that_was_killed_between_two_servers_is_followed_by_one_that_repairs_them(servers: Fleeted) -> None:
    promote(servers.fleet(), "1")
    first, second = servers.hosts
    fleet = servers.fleet()
    with fleet.lock():
        fleet.load("2", lambda: ARCHIVE)
        first.management.set_default("2")  # and then it was killed
    second.management.unregister("2")
    promote(servers.fleet(), "2")
    assert [host.loaded() for host in servers.hosts] == [{"2": True}] * 2
    first.management.unregister("2")
    with servers.fleet().lock():
        assert [host.loaded() for host in servers.hosts] == [{"2": True}] * 2


def test_without_any_server_a_round_fails_and_the_routes_stay(servers: Fleeted) -> None:
    fleet = servers.fleet()
    promote(fleet, "1")
    for host in servers.hosts:
        host.stop()
    with fleet.lock(), pytest.raises(ServerError, match="none of the servers answers"):
        fleet.serving()
    assert servers.routed() == ({host.inference for host in servers.hosts}, "1")
    for host in servers.hosts:
        host.start()


@pytest.mark.parametrize(
    "name", ["accuracy.json", "..%2Fstore%2Faccuracy.json", "bin-counter-9.mar", "bin-counter-1.mar.origin"]
)
def test_the_door_gives_archives_of_the_store_and_nothing_else(servers: Fleeted, name: str) -> None:
    (servers.store / "accuracy.json").write_text("{}")
    (servers.store / "bin-counter-1.mar.origin").write_text("{}")
    (servers.store / "bin-counter-1.mar").write_bytes(b"an archive")
    assert requests.get(f"{servers.url}/archives/bin-counter-1.mar", timeout=10).content == b"an archive"
    assert requests.get(f"{servers.url}/archives/{name}", timeout=10).status_code == 404


def test_the_door_takes_reports_and_tells_the_routes(servers: Fleeted) -> None:
    report = {"gateway": "a gateway of this test", "comparison": {"trial": "of-this-test", "counts": {"2>3": 4}}}
    servers.board.publish(("http://10.0.0.2:8080",), "7")
    answer = requests.post(f"{servers.url}/routes", json=report, timeout=10)
    assert ROUTES.validate_json(answer.content) == Routes(servers=("http://10.0.0.2:8080",), champion="7")
    assert servers.board.comparison("of-this-test").counts == {"2>3": 4}
    assert servers.board.gateways(time.monotonic()) >= 1
    assert requests.post(f"{servers.url}/routes", data="[]", timeout=10).status_code == 422
    assert requests.post(f"{servers.url}/routes", data=b"x" * (LARGEST_REPORT + 1), timeout=10).status_code == 413
    assert requests.get(f"{servers.url}/livez", timeout=10).ok
    assert 'binwatch_champion_info{version="7"} 1.0' in requests.get(f"{servers.url}/metrics", timeout=10).text
