"""A challenger on live traffic: the promoter's stages, with a real MLflow and gateways that report what a test says."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve.errors import TrackingError
from serve.rollout.probation import ProbationPolicy
from serve.routing.comparison import Comparison, Report, VersionTraffic
from serve.routing.route_board import RouteBoard
from serve.routing.route_table import Trial, TrialMode
from tests.integration.shelf import Shelf
from tests.integration.test_lost import approved
from trainer.promotion.outcome import PromotionOutcome, Upkeep
from trainer.promotion.promoter import Promoter
from trainer.promotion.rollout_policy import RolloutPolicy
from trainer.promotion.trial_decision import TrialStep
from trainer.promotion.trial_status import TrialStatus, status_from_text
from trainer.promotion.trials import Trials
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, Status
from trainer.registry.mlflow_registry import Registry

SLOW = VersionTraffic(answered=30, latencies=(0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0))
FAST = VersionTraffic(answered=100, latencies=(0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 0))
ALIKE = {"1>1": 60, "2>2": 60}
WORSE = {"1>1": 60, "2>2": 5, "2>1": 55}


@dataclass
class Site:
    """A promoter with its board, and a gateway. ``now_s``: the clock of the stages."""

    registry: Registry
    shelf: Shelf
    keys: signing.KeyPair
    folder: Path
    now_s: float = 0.0
    board: RouteBoard = field(default_factory=RouteBoard)

    def promoter(self, plan: str = "shadow", board: bool = True) -> Promoter:
        policy, limits = RolloutPolicy(plan=plan, photos=100), ProbationPolicy(duration_s=30)
        trials = Trials(self.registry, policy, limits, self.board if board else None, lambda: self.now_s)
        accuracy = self.shelf.folder / "accuracy.json"
        return Promoter(self.registry, self.shelf, accuracy, trusted=self.keys.public, trials=trials)

    def challenger(self, name: str, compared_with: str) -> str:
        return approved(self.registry, self.keys, self.folder / name, compared_with)

    @property
    def trial(self) -> Trial | None:
        self.board.publish(("http://127.0.0.1:8080",), self.champion)
        routes = self.board.routes()
        return routes.trial if routes else None

    @property
    def tries(self) -> bool:
        """Whether gateways are told of a trial."""
        return self.trial is not None

    @property
    def champion(self) -> str:
        champion = self.registry.alias(CHAMPION)
        return champion.number if champion else ""

    def report(self, counts: Mapping[str, int], challenger: VersionTraffic = FAST, passed_s: float = 31.0) -> None:
        """The gateway has compared photos, and some time has passed."""
        self.now_s += passed_s
        assert self.trial
        compared = Comparison(trial=self.trial.id, champion=FAST, challenger=challenger, counts=Counter(counts))
        self.board.receive(Report(gateway="g", comparison=compared), self.now_s)

    def status(self, number: str) -> TrialStatus:
        status = status_from_text(self.registry.version(number).trial)
        assert status
        return status


@pytest.fixture
def site(registry: Registry, tmp_path: Path) -> Site:
    """A champion, version 1, serves."""
    site = Site(registry, Shelf(tmp_path / "shelf"), signing.ensure_key_pair(tmp_path / "keys"), tmp_path)
    site.challenger("one", "")
    assert site.promoter().reconcile().did == Status.PROMOTED
    return site


def test_the_first_version_needs_no_trial(site: Site) -> None:
    assert site.champion == "1"
    assert site.trial is None


def test_a_challenger_in_shadow_becomes_the_champion_after_enough_photos(site: Site) -> None:
    promoter, number = site.promoter(), site.challenger("two", "1")
    assert promoter.reconcile_once().did == Upkeep.WATCHED
    trial = site.trial
    assert trial
    assert (trial.version, trial.mode, trial.share) == (number, TrialMode.SHADOW, 1.0)
    site.report({"1>1": 60})
    outcome = promoter.reconcile_once()
    assert outcome == PromotionOutcome(Upkeep.WATCHED, number, "60 of 100 photos are compared")
    assert site.shelf.version == "1"
    assert site.shelf.archives.path(number).is_file()  # beside the champion, and not retired
    assert site.status(number).comparison.counts == {"1>1": 60}
    site.report(ALIKE)
    assert promoter.reconcile_once().did == Status.PROMOTED
    assert site.shelf.version == site.champion == number
    assert site.trial is None
    assert site.status(number).step == TrialStep.PROCEED
    assert promoter.reconcile_once().did == Upkeep.NOTHING


def test_a_challenger_that_is_worse_at_one_count_never_answers_and_is_never_tried_again(site: Site) -> None:
    promoter, number = site.promoter(), site.challenger("two", "1")
    promoter.reconcile_once()
    site.report(WORSE)
    outcome = promoter.reconcile_once()
    assert outcome.did == Status.REJECTED
    assert "champion counts 2" in outcome.reason
    assert site.registry.version(number).status == Status.REJECTED
    assert (site.shelf.version, site.champion, site.trial) == ("1", "1", None)
    assert not site.shelf.archives.path(number).exists()
    assert promoter.reconcile_once().did == Upkeep.NOTHING
    status = site.status(number)
    assert status.step == TrialStep.RETURN
    assert "it was returned" in status.explain()


def test_a_canary_grows_from_share_to_share_and_a_slower_challenger_is_returned_at_the_first(site: Site) -> None:
    promoter, number = site.promoter("canary:10,50,100"), site.challenger("two", "1")
    shares = []
    while promoter.reconcile_once().did == Upkeep.WATCHED:
        assert site.trial
        shares.append(site.trial.share)
        site.report(ALIKE)
    assert shares == [0.1, 0.5, 1.0]
    assert site.champion == number
    assert sum(site.status(number).comparison.counts.values()) == 3 * 120
    slower = site.challenger("three", number)
    promoter.reconcile_once()
    assert site.trial
    assert (site.trial.version, site.trial.share) == (slower, 0.1)
    site.report({}, SLOW, passed_s=1)
    outcome = promoter.reconcile_once()
    assert outcome.did == Status.REJECTED
    assert "half of its answers take more than" in outcome.reason
    assert site.champion == number
    assert not site.tries


def test_a_promoter_that_was_killed_begins_the_stages_again(site: Site) -> None:
    number = site.challenger("two", "1")
    site.promoter().reconcile_once()
    before = site.trial
    site.report({"1>1": 60})
    promoter = site.promoter()
    assert promoter.reconcile_once().did == Upkeep.WATCHED
    after = site.trial
    assert before
    assert after
    assert (after.version, after.id != before.id) == (number, True)
    assert "0 of 100" in promoter.reconcile_once().reason
    site.report(ALIKE)
    assert promoter.reconcile_once().did == Status.PROMOTED


def test_without_a_gateway_a_challenger_waits_and_the_log_says_so_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    promoter, number = site.promoter(), site.challenger("two", "1")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            site.now_s += 1e6
            outcome = promoter.reconcile_once()
            assert outcome.did == Upkeep.WATCHED
    assert "no gateway reports" in outcome.reason
    assert len([line for line in caplog.messages if "no gateway reports" in line]) == 1
    assert "no gateway reports" in site.status(number).reason
    assert site.champion == "1"


def test_a_newer_approved_version_takes_the_place_of_the_one_on_trial(site: Site) -> None:
    promoter, older = site.promoter(), site.challenger("two", "1")
    promoter.reconcile_once()
    newer = site.challenger("three", "1")
    assert promoter.reconcile_once().version == newer
    assert site.trial
    assert site.trial.version == newer
    assert not site.shelf.archives.path(older).exists()
    site.report(WORSE)
    assert promoter.reconcile_once().did == Status.REJECTED
    assert promoter.reconcile_once().version == older  # its turn again
    assert site.trial
    assert site.trial.version == older


def test_a_champion_that_was_changed_by_hand_ends_the_trial(site: Site) -> None:
    number = site.challenger("two", "1")
    promoter = site.promoter()
    promoter.reconcile_once()
    site.report(ALIKE)
    promoter.reconcile_once()
    assert site.champion == number
    third = site.challenger("three", number)
    promoter.reconcile_once()
    assert site.trial
    site.registry.set_champion("1")
    promoter.reconcile_once()
    assert site.shelf.version == "1"
    assert not site.tries
    assert site.registry.version(third).status == Status.REFUSED


def test_while_mlflow_is_away_the_champion_answers_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    number = site.challenger("two", "1")
    promoter = site.promoter()
    promoter.reconcile_once()
    assert site.tries
    with monkeypatch.context() as patched:
        patched.setattr(site.registry, "_client", Registry("http://127.0.0.1:9")._client)
        with pytest.raises(TrackingError):
            promoter.reconcile_once()
    assert not site.tries
    assert promoter.reconcile_once().did == Upkeep.WATCHED
    assert site.trial
    assert site.trial.version == number


def test_a_process_without_gateways_leaves_the_challenger_to_the_promoter_that_watches(site: Site) -> None:
    number = site.challenger("two", "1")
    assert site.promoter(board=False).reconcile().did == Upkeep.WAITING
    assert (site.champion, site.registry.version(number).status) == ("1", Status.APPROVED)


def test_all_of_the_traffic_at_once_asks_no_gateway(site: Site) -> None:
    number = site.challenger("two", "1")
    assert site.promoter("all").reconcile().did == Status.PROMOTED
    assert (site.champion, site.registry.version(number).trial) == (number, "")
