"""What is lost in MLflow, in the model store or in TorchServe: the champion serves on, and what can come back does."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import pytest
from mlflow import MlflowClient

from serve.archives import original
from serve.errors import ServerError, TrackingError
from serve.local.servers import mlflow_server
from serve.manifest import sha256
from tests import http_server
from tests import small_archives as small
from tests.integration.shelf import Shelf
from tests.integration.test_signed_archives import logged, unsigned
from trainer.artifacts import ARCHIVE, EVALUATION, PREDICTIONS, RECOVERS_TAG
from trainer.promotion.outcome import Upkeep
from trainer.promotion.promoter import Promoter
from trainer.promotion.promotion_loop import watch
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import SIGNATURE, fetch

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def keys(tmp_path: Path) -> signing.KeyPair:
    return signing.ensure_key_pair(tmp_path / "keys")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def promoter(registry: Registry, shelf: Shelf, keys: signing.KeyPair) -> Promoter:
    return Promoter(registry, shelf, shelf.folder / "accuracy.json", trusted=keys.public)


def approved(registry: Registry, keys: signing.KeyPair, folder: Path, compared_with: str = "") -> str:
    """A version with a signed archive and answers; returns its number."""
    run_id = logged(registry, keys, folder)
    registry.reopen_run(run_id).log_json({"id": []}, PREDICTIONS)
    return registry.register(run_id, Status.APPROVED, "because", compared_with).number


@pytest.fixture
def first(registry: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path) -> str:
    """A champion that serves."""
    number = approved(registry, keys, tmp_path / "one")
    assert promoter(registry, shelf, keys).reconcile().did == Status.PROMOTED
    assert shelf.version == number
    return number


def champion_of(registry: Registry) -> str:
    champion = registry.alias(CHAMPION)
    assert champion
    return champion.number


def test_an_archive_is_put_together_again_byte_by_byte(tmp_path: Path) -> None:
    archive = small.packed(tmp_path / "a.mar", small.contents())
    store = Shelf(tmp_path / "shelf").archives
    store.put("1", archive, "a run")
    assert sha256(store.path("1")) != sha256(archive)
    assert sha256(store.rebuild("1", tmp_path)) == sha256(archive)
    assert sum(len(part.content) for part in original.outline(archive)) < 5000


def test_artifacts_that_mlflow_has_lost_are_given_back(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    run_id = registry.version(first).run_id
    before = registry.artifacts(run_id)
    for name in ("archive", EVALUATION, PREDICTIONS):
        registry.delete_artifact(run_id, name)
    assert ARCHIVE not in registry.artifacts(run_id)
    assert promoter(registry, shelf, keys).reconcile().did == Upkeep.NOTHING
    assert {name: registry.artifacts(run_id)[name] for name in (ARCHIVE, SIGNATURE)} == {
        name: before[name] for name in (ARCHIVE, SIGNATURE)
    }
    assert {EVALUATION, PREDICTIONS} <= registry.artifacts(run_id).keys()
    assert fetch(registry, run_id, tmp_path / "fetched", keys.public).is_file()


def test_a_run_that_was_deleted_on_mlflows_page_is_restored(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str
) -> None:
    run_id, client = registry.version(first).run_id, MlflowClient(registry.uri, registry.uri)
    client.delete_run(run_id)
    promoter(registry, shelf, keys).reconcile()
    assert client.get_run(run_id).info.lifecycle_stage == "active"


def test_a_run_that_is_gone_for_good_gets_one_in_its_place(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path
) -> None:
    gone = "f" * 32
    archive = small.packed(tmp_path / "bin-counter.mar", small.contents(run_id=gone))
    signing.sign(archive, signing.private_key(keys.private))
    number = registry.register(gone, Status.PROMOTED, "because", "").number
    registry.set_champion(number)
    shelf.archives.put(number, archive, gone)
    shelf.switch(number)
    assert promoter(registry, shelf, keys).reconcile().did == Upkeep.NOTHING
    assert registry.tags(gone)[RECOVERS_TAG] == gone
    assert fetch(registry, gone, tmp_path / "fetched", keys.public).is_file()


def test_an_experiment_that_was_deleted_is_restored_with_its_runs(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str
) -> None:
    MlflowClient(registry.uri, registry.uri).delete_experiment(registry._experiment)
    for promoting in (registry, Registry(registry.uri)):  # one that runs, and one that starts
        assert promoter(promoting, shelf, keys).reconcile().did == Upkeep.NOTHING
    assert registry.deployments()[0].version == first  # MLflow restores the runs of earlier tests, too


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An MLflow that does not answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Registry(AWAY)


@pytest.mark.usefixtures("first")
def test_without_mlflow_torchserve_gets_the_champion_back_from_the_store_alone(
    away: Registry, shelf: Shelf, keys: signing.KeyPair
) -> None:
    serving, shelf.version = shelf.version, ""
    with pytest.raises(TrackingError):
        promoter(away, shelf, keys).reconcile_once()
    assert shelf.version == serving


@pytest.mark.usefixtures("first")
def test_the_champion_is_back_before_mlflow_is_asked_which_may_be_silent_for_minutes(
    shelf: Shelf, keys: signing.KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    expected, shelf.version = shelf.version, ""
    serving_when_asked = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            serving_when_asked.append(shelf.version)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    with http_server.serving(Asked) as url, pytest.raises(TrackingError):
        promoter(Registry(url), shelf, keys).reconcile_once()
    assert serving_when_asked[0] == expected


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("damage", ["flipped", "other-keys", "no-origin", "empty", "unreadable"])
def test_without_mlflow_nothing_is_served_that_is_not_signed_here(
    away: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path, damage: str
) -> None:
    shelf.version = ""
    path = next(shelf.folder.glob("*.mar"))
    if damage == "flipped":
        content = path.read_bytes()
        path.write_bytes(content.replace(b"raise SystemExit", b"print(SystemExit"))
    elif damage == "other-keys":
        keys = signing.ensure_key_pair(tmp_path / "others")
    elif damage == "unreadable":
        (shelf.folder / "serving.json").write_text('{"version": ')
    else:
        for file in shelf.folder.glob("*.origin" if damage == "no-origin" else "*"):
            file.unlink()
    with pytest.raises(TrackingError):
        promoter(away, shelf, keys).reconcile_once()
    assert shelf.version == ""


def test_a_database_of_yesterday_is_followed_if_its_champion_can_be_served(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    second = approved(registry, keys, tmp_path / "two", first)
    promoter(registry, shelf, keys).reconcile()
    MlflowClient(registry.uri, registry.uri).delete_model_version("bin-counter", second)
    assert shelf.version == second
    assert promoter(registry, shelf, keys).reconcile().did == Upkeep.KEPT  # its alias is gone, too
    assert shelf.version == second
    registry.set_champion(first)
    promoter(registry, shelf, keys).reconcile()
    assert shelf.version == first


def test_a_registry_that_numbers_from_1_again_does_not_get_the_old_archive(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    MlflowClient(registry.uri, registry.uri).delete_registered_model("bin-counter")
    again = approved(registry, keys, tmp_path / "two")
    assert again == first
    assert promoter(registry, shelf, keys).reconcile().did == Status.PROMOTED
    assert shelf.archives.run_of(again) == registry.version(again).run_id


def test_a_champion_that_cannot_be_served_leaves_the_one_that_serves_and_is_no_history(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    run_id = logged(registry, keys, tmp_path / "two", unsigned)
    by_hand = registry.register(run_id, Status.APPROVED, "because", first).number
    registry.set_champion(by_hand)
    outcome = promoter(registry, shelf, keys).reconcile()
    assert (outcome.did, outcome.version) == (Status.REJECTED, by_hand)
    assert (shelf.version, champion_of(registry)) == (first, first)
    assert [move.version for move in registry.deployments()] == [first]


def test_archive_lost_everywhere_the_champion_serves_on_and_the_next_one_is_promoted(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    registry.delete_artifact(registry.version(first).run_id, "archive")
    for file in shelf.folder.iterdir():
        file.unlink()
    mine = promoter(registry, shelf, keys)
    assert mine.reconcile().did == Upkeep.KEPT
    assert shelf.version == first
    second = approved(registry, keys, tmp_path / "two", first)
    assert mine.reconcile().did == Status.PROMOTED
    assert shelf.version == second


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Registry]:
    """An MLflow without workspaces, where experiments may name a place for their artifacts."""
    with mlflow_server(tmp_path / "mlflow") as url:
        yield Registry(url)


def test_a_version_whose_artifacts_are_elsewhere_is_marked_and_passed_over(
    own_registry: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path
) -> None:
    client = MlflowClient(own_registry.uri, own_registry.uri)
    good, foreign = approved(own_registry, keys, tmp_path / "one"), dict[str, str]()
    for location in ("gs://stranger/x", "wasbs://c@a.blob.core.windows.net/x", "s3://stranger/x", "dbfs:/x"):
        for status in (Status.UNDECIDED, Status.APPROVED):
            experiment = client.create_experiment(f"{len(foreign)}", location)
            run_id = client.create_run(experiment).info.run_id
            foreign[own_registry.register(run_id, status, "because", "").number] = location
    mine = promoter(own_registry, shelf, keys)
    while mine.reconcile().did == Status.REJECTED:
        pass
    assert shelf.version == good
    for number, location in foreign.items():
        version = own_registry.version(number)
        assert version.status in (Status.REFUSED, Status.REJECTED)
        assert location in version.reason


def test_a_lost_evaluation_is_said_once_and_the_promoter_stays_well_and_scales(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = logged(registry, keys, tmp_path / "one")
    registry.delete_artifact(run_id, EVALUATION)
    registry.register(run_id, Status.APPROVED, "because", "")
    stop, scaled = Event(), []

    def scale() -> None:
        scaled.append(heartbeat.exists())
        if len(scaled) == 4:
            stop.set()
        raise ServerError("the workers cannot be counted")

    heartbeat = tmp_path / "beat"
    with caplog.at_level(logging.WARNING):
        watch(promoter(registry, shelf, keys), heartbeat, 0.0, stop, scale)
    assert scaled == [False, True, True, True]
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("trainer.promotion")]
    assert [EVALUATION in warning for warning in warnings].count(True) == 1
    assert ["cannot be counted" in warning for warning in warnings].count(True) == 1


def test_a_promoter_without_mlflow_scales_but_is_not_well(
    away: Registry, shelf: Shelf, keys: signing.KeyPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop, scaled = Event(), []

    def scale() -> None:
        scaled.append(True)
        if len(scaled) == 3:
            stop.set()

    watch(promoter(away, shelf, keys), tmp_path / "beat", 0.0, stop, scale)
    assert not (tmp_path / "beat").exists()
    warnings = [record for record in caplog.records if record.name.startswith("trainer.promotion")]
    assert len(warnings) == 1


def test_an_unsigned_version_of_the_same_number_does_not_take_the_model_away(
    registry: Registry, shelf: Shelf, keys: signing.KeyPair, first: str, tmp_path: Path
) -> None:
    MlflowClient(registry.uri, registry.uri).delete_registered_model("bin-counter")
    run_id = logged(registry, keys, tmp_path / "two", unsigned)
    assert registry.register(run_id, Status.APPROVED, "because", "").number == first
    mine = promoter(registry, shelf, keys)
    assert [mine.reconcile().did, mine.reconcile().did] == [Status.REJECTED, Upkeep.KEPT]
    assert shelf.version == first
    assert shelf.archives.path(first).is_file()
