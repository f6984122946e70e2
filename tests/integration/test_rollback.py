"""Back to the version before: by hand, by itself, and the records of both."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.archives.archive import golden_photos
from serve.errors import DataError
from serve.local.servers import metrics_url
from serve.rollout.probation import ProbationPolicy
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Metrics
from tests.conftest import Served, rounds
from tests.integration.promoting import alias, ask_until, assert_only, challenger, moves, promoter
from tests.integration.test_serving import altered
from trainer.promotion.outcome import Upkeep
from trainer.registry.entities import PREVIOUS, Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

ROOT = Path(__file__).parents[2]


def registered(registry: Registry) -> str:
    with registry.run("train") as run:
        pass
    return registry.register(run.id, Status.APPROVED, "because", "").number


def test_deployments_are_runs_that_tell_what_served_since_when(registry: Registry) -> None:
    first, second = registered(registry), registered(registry)
    assert registry.deployments() == []
    registry.record_deployment(first, Status.PROMOTED, "the first")
    registry.record_deployment(second, Status.PROMOTED, "better")
    registry.record_deployment(first, Status.ROLLED_BACK, "it was not")
    deployments = registry.deployments()
    assert [(deployment.version, deployment.did, deployment.reason) for deployment in deployments] == [
        (first, "rolled-back", "it was not"),
        (second, "promoted", "better"),
        (first, Status.PROMOTED, "the first"),
    ]
    assert deployments[0].at_s > deployments[1].at_s > deployments[2].at_s
    assert all(deployment.ended for deployment in deployments)
    assert [deployment.train_run for deployment in deployments] == [
        registry.version(deployment.version).run_id for deployment in deployments
    ]


def watching(served: Served, policy: ProbationPolicy) -> Rollout:
    """A rollout with metrics and a probation."""
    metrics = Metrics(metrics_url(served.store.parent))
    return Rollout(served.inference, served.management, served.store, metrics=metrics, policy=policy)


@contextmanager
def traffic(served: Served, photo: bytes) -> Iterator[None]:
    """Two clients that send requests without a pause, whatever the answers are."""
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(ask_until, stop, served, photo)
        try:
            yield
        finally:
            stop.set()


TO_CLIENTS = b"            responses = []\n"
PROBED = b"any(request.probe for request in requests)"
ENTRIES = b"                entries = [answers.response_entry(outcome, self.version, form) for outcome in outcomes]\n"


def faults(golden: int) -> dict[str, dict[bytes, bytes]]:
    """Changes of a handler that make its answers bad after its canary; the key: what the fault's reason contains."""
    count = b"                self.requests = getattr(self, 'requests', 0) + 1\n"
    late = b"                if self.requests > %d:\n"
    empty = b"                    entries = [{**entry, 'probabilities': {}} for entry in entries]\n"
    return {
        "the model failed at": {
            TO_CLIENTS: b"            if not " + PROBED + b":\n                raise RuntimeError\n" + TO_CLIENTS
        },
        "on average": {TO_CLIENTS: b"            time.sleep(0.0 if " + PROBED + b" else 0.7)\n" + TO_CLIENTS},
        "golden photos did not get": {ENTRIES: ENTRIES + count + late % (2 * golden) + empty},
    }


@pytest.mark.parametrize("reason", list(faults(0))[: rounds(1, 3)])
def test_a_version_that_does_badly_on_live_traffic_is_taken_back_by_itself(
    registry: Registry, served: Served, trained: Trained, tmp_path: Path, reason: str
) -> None:
    first = challenger(registry, trained, 0.5)
    server = watching(served, ProbationPolicy(duration_s=120, least_requests=10))
    mine = promoter(registry, served, server)
    assert mine.reconcile_once().did == "promoted"  # nothing to return to: the first one is not watched
    change = faults(len(golden_photos(trained.archive)))[reason]
    bad = altered(trained.archive, tmp_path / "bin-counter.mar", "handler.py", change)
    second = challenger(registry, trained, 0.6, compared_with=first, archive=bad)
    begun = time.monotonic()
    has_traffic = "golden" not in reason  # without traffic, only the golden photos show the fault
    with traffic(served, trained.data.test.photos[0].path.read_bytes()) if has_traffic else threading.Lock():
        outcome = mine.reconcile()
    print(f"{outcome.did} after {time.monotonic() - begun:.1f} s with its loading: {outcome.reason}")
    assert (outcome.did, outcome.version) == ("rolled-back", second)
    assert reason in outcome.reason
    assert_only(registry, served, first)
    rolled_back = registry.version(second)
    assert (rolled_back.status, rolled_back.reason) == (Status.ROLLED_BACK, outcome.reason)
    assert alias(registry, PREVIOUS) is None
    assert moves(registry) == [("promoted", first), ("promoted", second), ("rolled-back", first)]
    assert mine.reconcile().did == "nothing"


def test_the_old_version_stays_loaded_until_the_watch_is_over_also_across_a_restart(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    second = challenger(registry, trained, 0.6, compared_with=first)
    before = promoter(registry, served, watching(served, ProbationPolicy(duration_s=600)))
    assert before.reconcile_once().did == Upkeep.WATCHED
    after = promoter(registry, served, watching(served, ProbationPolicy(duration_s=2)))
    assert after.reconcile_once().did == Upkeep.WATCHED
    assert served.rollout.serving() == second
    assert {version.version for version in served.management.loaded()} == {first, second}
    assert registry.version(second).status == Status.APPROVED
    assert after.reconcile().did == "promoted"
    assert_only(registry, served, second)
    assert (served.store / f"bin-counter-{first}.mar").is_file()
    assert moves(registry) == [("promoted", first), ("promoted", second)]


def script(served: Served, registry: Registry, *words: str) -> "subprocess.Popen[str]":
    reach = {
        "MLFLOW_TRACKING_URI": registry.uri,
        "BINWATCH_INFERENCE_URL": served.inference.url,
        "BINWATCH_MANAGEMENT_URL": served.management.url,
        "BINWATCH_MODEL_STORE": str(served.store),
        "BINWATCH_METRICS_URL": metrics_url(served.store.parent),
        "BINWATCH_WORKERS": "1",
        "BINWATCH_WATCH_S": "0",
    }
    return subprocess.Popen(
        [sys.executable, "scripts/promote.py", *words],
        cwd=ROOT,
        env={**os.environ, **reach},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_rollback_by_hand_takes_seconds_and_is_not_undone_by_a_promoter_that_watches(
    registry: Registry, served: Served, trained: Trained, tmp_path: Path
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    second = challenger(registry, trained, 0.6, compared_with=first)
    promoter(registry, served).reconcile()
    daemon = script(served, registry, "--watch", "--interval", "0.2", "--heartbeat", str(tmp_path / "beat"))
    try:
        while not (tmp_path / "beat").exists():
            assert daemon.poll() is None
            time.sleep(0.1)
        begun = time.monotonic()
        back = script(served, registry, "--rollback", "it counts too many")
        while served.rollout.serving() != first:
            assert time.monotonic() < begun + 300
            time.sleep(0.05)
        print(f"version {first} answers {time.monotonic() - begun:.1f} s after the script was started")
        assert "rolled-back version 2: it counts too many" in back.communicate()[0]
        assert back.returncode == 0
        again = script(served, registry, "--rollback")
        assert "no version served before version 1" in again.communicate()[1]
        assert again.returncode == 1
    finally:
        daemon.terminate()
        _, log = daemon.communicate()
    assert "error" not in log.lower(), log
    assert promoter(registry, served).reconcile().did == "nothing"
    assert_only(registry, served, first)
    rolled_back = registry.version(second)
    assert (rolled_back.status, rolled_back.reason) == (Status.ROLLED_BACK, "it counts too many")
    assert moves(registry) == [("promoted", first), ("promoted", second), ("rolled-back", first)]


def test_without_a_version_there_is_nothing_to_roll_back(registry: Registry, served: Served) -> None:
    with pytest.raises(DataError, match="nothing is deployed"):
        promoter(registry, served).roll_back("by hand")
