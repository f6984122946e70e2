"""A trial on live traffic from end to end: a real TorchServe, a gateway, the promoter's door, and photos."""

import time
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pytest
import requests
from prometheus_client import CollectorRegistry

from serve.local.servers import free_port, gateway_server
from serve.rollout.probation import ProbationPolicy
from serve.routing.route_board import RouteBoard
from tests.conftest import Served
from tests.integration.promoting import alias, challenger
from tests.integration.test_serving import altered
from trainer.artifacts import ARCHIVE_FILE
from trainer.promotion.fleet.door import Door, opened
from trainer.promotion.outcome import PromotionOutcome, Upkeep
from trainer.promotion.promoter import Promoter
from trainer.promotion.rollout_policy import RolloutPolicy
from trainer.promotion.trials import Trials
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

ENTRIES = b"entries = [answers.response_entry(outcome, self.version, form) for outcome in outcomes]"
DEADLINE_S = 240.0


@dataclass
class Site:
    """A promoter whose board the gateway at ``url`` asks; version 1 serves."""

    registry: Registry
    served: Served
    board: RouteBoard
    url: str
    photos: list[bytes]

    def promoter(self, plan: str) -> Promoter:
        trials = Trials(self.registry, RolloutPolicy(plan=plan, photos=40), ProbationPolicy(duration_s=0), self.board)
        return Promoter(self.registry, self.served.rollout, self.served.store / "accuracy.json", trials=trials)

    def count(self, photo: bytes) -> dict[str, object]:
        """The answer to a photo; each must have one."""
        response = requests.post(
            f"{self.url}/predictions/bin-counter", data=photo, headers={"Content-Type": "image/jpeg"}, timeout=60
        )
        assert response.status_code == 200, response.text
        return dict(response.json())

    def until_decided(self, promoter: Promoter) -> tuple[PromotionOutcome, Tally[str]]:
        """Send photos while the trial goes on; its outcome, and how many answers each version gave."""
        versions, deadline, photos = Tally[str](), time.monotonic() + DEADLINE_S, cycle(self.photos)
        while (outcome := promoter.reconcile_once()).did == Upkeep.WATCHED:
            assert time.monotonic() < deadline, outcome
            versions.update(str(self.count(photo)["model_version"]) for photo in islice(photos, 5))
        return outcome, versions


@pytest.fixture
def site(registry: Registry, served: Served, trained: Trained, tmp_path: Path) -> Iterator[Site]:
    challenger(registry, trained, 0.5)
    photos = [photo.path.read_bytes() for photo in trained.data.test.photos]
    board, port = RouteBoard(), free_port()
    with opened(Door(board, served.store, CollectorRegistry()), "127.0.0.1", port):
        environ = {"BINWATCH_PROMOTER_URL": f"http://127.0.0.1:{port}", "BINWATCH_RATE": "0"}
        with gateway_server(tmp_path / "gateway", served.inference.url, environ=environ) as url:
            site = Site(registry, served, board, url, photos)
            assert site.promoter("shadow").reconcile().did == Status.PROMOTED
            board.publish((served.inference.url,), "1")
            yield site


def archive_that(trained: Trained, folder: Path, behaviour: bytes) -> Path:
    """The archive, in ``folder``, with a handler that also does ``behaviour``, but not for health checks."""
    folder.mkdir()
    return altered(trained.archive, folder / ARCHIVE_FILE, "handler.py", {ENTRIES: ENTRIES + b"; " + behaviour})


def test_what_is_worse_at_one_count_never_answers_and_what_is_slower_is_returned_at_its_first_share(
    site: Site, trained: Trained, tmp_path: Path
) -> None:
    counts = [site.count(photo)["count"] for photo in site.photos]
    ((count, _),) = Tally(counts).most_common(1)
    blind = f"[entry.update(count=entry['count'] % 5 + 1) for entry in entries if entry.get('count') == {count}]"
    behaviour = f"request.probe or {blind}".encode()
    worse = challenger(
        site.registry, trained, 0.5, compared_with="1", archive=archive_that(trained, tmp_path / "worse", behaviour)
    )
    outcome, versions = site.until_decided(site.promoter("shadow"))
    assert (outcome.did, outcome.version) == (Status.REJECTED, worse)
    assert f"where the champion counts {count} it gives another count at 100%" in outcome.reason
    assert set(versions) == {"1"}
    slower = challenger(
        site.registry,
        trained,
        0.5,
        compared_with="1",
        archive=archive_that(trained, tmp_path / "slower", b"request.probe or time.sleep(1.2)"),
    )
    outcome, versions = site.until_decided(site.promoter("canary:50,100"))
    assert (outcome.did, outcome.version) == (Status.REJECTED, slower)
    assert "half of its answers take more than" in outcome.reason
    assert 0 < versions[slower] < versions.total()
    assert [loaded.version for loaded in site.served.management.loaded()] == ["1"]
    assert alias(site.registry, CHAMPION) == "1"
