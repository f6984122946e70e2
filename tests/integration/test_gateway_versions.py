"""The gateway in front of a real TorchServe with two versions, where a promoter says which of them answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from serve.local.servers import gateway_server
from serve.routing.route_table import Routes, Trial, TrialMode
from tests.conftest import Served, emptied
from tests.integration.model_servers import Promoter, promoter_door, wait_for
from tests.integration.test_serving import deploy
from trainer.training.run import Trained

CHAMPION, CHALLENGER = "3", "4"


@pytest.fixture
def serving_two(torchserve: Served, trained: Trained) -> Iterator[Served]:
    deploy(torchserve, trained.archive, CHAMPION)
    torchserve.rollout.load(CHALLENGER, lambda: trained.archive)
    yield torchserve
    emptied(torchserve)


def tell(promoter: Promoter, url: str, champion: str, trial: Trial | None = None) -> None:
    promoter.routes = Routes(servers=(url,), champion=champion, trial=trial)
    heard = len(promoter.reports)
    wait_for(lambda: len(promoter.reports) >= heard + 2)


def test_the_version_that_the_promoter_names_answers(serving_two: Served, trained: Trained, tmp_path: Path) -> None:
    photo, server = trained.data.test.photos[0].path.read_bytes(), serving_two.inference.url
    with (
        promoter_door() as promoter,
        gateway_server(tmp_path, server, environ={"BINWATCH_PROMOTER_URL": promoter.url}) as url,
    ):

        def version() -> object:
            return requests.post(f"{url}/verify?expected_quantity=2", data=photo, timeout=60).json()["model_version"]

        tell(promoter, server, CHAMPION)
        assert version() == CHAMPION
        tell(promoter, server, CHALLENGER)
        assert version() == CHALLENGER
        tell(promoter, server, "7")  # no server has it: the default answers
        assert version() == CHAMPION
        for mode, answering in ((TrialMode.CANARY, CHALLENGER), (TrialMode.SHADOW, CHAMPION)):
            tell(promoter, server, CHAMPION, Trial(id=mode, version=CHALLENGER, mode=mode, share=1.0))
            assert [version() for _ in range(3)] == [answering] * 3
            wait_for(lambda: sum((promoter.comparison().verdicts or {}).values()) == 3)
            comparison = promoter.comparison()
            assert (comparison.champion.answered, comparison.challenger.answered) == (3, 3)
            assert all(first == second for first, _, second in (pair.partition(">") for pair in comparison.counts))
        assert requests.get(f"{url}/healthz", timeout=60).json()["model_version"] == CHAMPION
