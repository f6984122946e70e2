"""The promoter repairs server, store and registry after kills, restarts and manual changes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve.archives.archive import unpacked
from serve.errors import ServerError
from serve.manifest import read_manifest
from serve.rollout.rollout import Rollout
from tests.conftest import Served, rounds
from tests.integration.promoting import accuracy, alias, assert_only, challenger, moves, promoter
from trainer.registry.entities import PREVIOUS, Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

PROMOTION, ROLLBACK = 16, 12
"""How many calls that change something a promotion and a rollback make; `make proof` counts them."""


def test_accuracy_json_is_rebuilt_when_missing_or_damaged(registry: Registry, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    for damage in (Path.unlink, lambda path: path.write_text("{")):
        damage(served.store / "accuracy.json")
        promoter(registry, served).reconcile()
        assert accuracy(served) == {"accuracy": 0.5, "version": first}


def test_a_server_that_came_up_empty_gets_the_champion_back_though_its_archive_in_the_store_is_damaged(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.management.unregister(first)
    flipped(served.store / f"bin-counter-{first}.mar")
    assert served.rollout.serving() is None
    assert promoter(registry, served).reconcile().did == "restored"
    assert_only(registry, served, first)
    assert moves(registry) == [("promoted", first)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_archive_that_went_from_the_store_is_fetched_again_while_its_model_answers(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    mine = promoter(registry, served)
    mine.reconcile()
    path = served.store / f"bin-counter-{first}.mar"
    loaded = served.management.loaded()
    for damage in (Path.unlink, cut, flipped):
        damage(path)
        (served.store / f".bin-counter-{first}.mar.partial").write_bytes(b"cut off")
        assert mine.reconcile().did == "nothing"
        with unpacked(path) as folder:
            read_manifest(folder)  # whole, by its checksums
        assert_only(registry, served, first)
    assert served.management.loaded() == loaded


def test_another_archive_under_the_champions_number_is_replaced(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.management.unregister(first)
    by_hand = Path(shutil.copy(served.store / f"bin-counter-{first}.mar", served.store / "by-hand.mar"))
    served.management.register("by-hand.mar")
    served.management.scale(first, 1)
    assert [version.version for version in served.management.loaded()] == [first]
    assert promoter(registry, served).reconcile().did == "restored"
    by_hand.unlink()
    assert_only(registry, served, first)


def test_a_version_loaded_by_hand_is_unloaded(registry: Registry, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    for default in (False, True):
        served.rollout.load("99", lambda: trained.archive)
        if default:
            served.rollout.switch("99")
        assert promoter(registry, served).reconcile().did == ("restored" if default else "nothing")
        assert_only(registry, served, first)


def test_a_champion_whose_workers_were_taken_away_is_loaded_again_beside_another_version(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.rollout.load("99", lambda: trained.archive)
    served.management.scale(first, 0)
    assert served.rollout.serving() is None
    assert promoter(registry, served).reconcile().did == "restored"
    assert_only(registry, served, first)


def dying(
    registry: Registry, served: Served, step: int, action: str = "reconcile"
) -> "subprocess.CompletedProcess[str]":
    """A promoter in a process of its own that is killed before its change number ``step``."""
    addresses = [registry.uri, served.inference.url, served.management.url, str(served.store)]
    command = [sys.executable, "-m", "tests.integration.dying", *addresses, str(step), action]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True)


def sample(steps: int, number: int) -> list[int]:
    return sorted(random.Random(7).sample(range(steps), rounds(number, steps)))


def assert_settled(registry: Registry, served: Served, version: str, previous: str | None, step: int) -> None:
    """After a kill before change number ``step`` and a round, everything agrees and nothing is left to do."""
    assert_only(registry, served, version)
    assert alias(registry, PREVIOUS) == previous, step
    assert all(deployment.ended for deployment in registry.deployments()), step
    assert promoter(registry, served).reconcile().did == "nothing", step


def test_a_promotion_that_was_killed_anywhere_is_finished_by_the_next_round(
    registry: Registry, served: Served, trained: Trained
) -> None:
    photo = trained.data.test.photos[0].path.read_bytes()
    numbers = [challenger(registry, trained, 0.5)]
    promoter(registry, served).reconcile()
    for step in sample(PROMOTION, 2):
        before = numbers[-1]
        numbers.append(challenger(registry, trained, 0.6, compared_with=before))
        assert dying(registry, served, step).returncode == -signal.SIGKILL, step
        assert served.inference.predict(photo)["model_version"] in numbers[-2:], step
        promoter(registry, served).reconcile()
        assert_settled(registry, served, numbers[-1], before, step)
        assert moves(registry) == [("promoted", number) for number in numbers], step
    if rounds(0, 1):  # no change was left out
        challenger(registry, trained, 0.6, compared_with=numbers[-1])
        assert dying(registry, served, 1000).stdout.split() == [str(PROMOTION)]


def test_a_rollback_that_was_killed_anywhere_is_finished_or_never_was(
    registry: Registry, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    champion = first
    for step in sample(ROLLBACK, 1):
        if champion == first:
            champion = challenger(registry, trained, 0.6, compared_with=first)
            promoter(registry, served).reconcile()
        known = moves(registry)
        assert dying(registry, served, step, "roll_back").returncode == -signal.SIGKILL, step
        marked = registry.version(champion).status == Status.ROLLED_BACK
        promoter(registry, served).reconcile()
        champion = first if marked else champion
        assert_settled(registry, served, champion, None if marked else first, step)
        assert moves(registry) == known + [("rolled-back", first)] * marked, step
    if rounds(0, 1):
        challenger(registry, trained, 0.6, compared_with=champion)
        promoter(registry, served).reconcile()
        assert dying(registry, served, 1000, "roll_back").stdout.split() == [str(ROLLBACK)]


class BlockedLoad:
    """A rollout whose ``load`` reports that it was ``entered`` and waits until it is ``released``."""

    def __init__(self, real: Rollout) -> None:
        self._real, self.entered, self.released = real, threading.Event(), threading.Event()

    def load(self, version: str, fetch: Callable[[], Path], run_id: str) -> None:
        self.entered.set()
        self.released.wait(60)
        self._real.load(version, fetch, run_id)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._real, name)
        return method


def test_of_two_promoters_one_works_and_the_other_waits(registry: Registry, served: Served, trained: Trained) -> None:
    number = challenger(registry, trained, 0.5)
    working, waiting = BlockedLoad(served.rollout), BlockedLoad(served.rollout)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(promoter(registry, served, working).reconcile)
        assert working.entered.wait(60)
        second = pool.submit(promoter(registry, served, waiting).reconcile)
        assert not waiting.entered.wait(0.5)
        working.released.set()
        waiting.released.set()
        assert [first.result().did, second.result().did] == ["promoted", "nothing"]
    assert not waiting.entered.is_set()
    assert_only(registry, served, number)
    assert moves(registry) == [("promoted", number)]


def test_a_promoter_that_is_killed_lets_the_other_one_work(
    registry: Registry, served: Served, trained: Trained
) -> None:
    number = challenger(registry, trained, 0.5)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys, time\nfcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 2)\n"
            "print(flush=True)\ntime.sleep(600)",
            str(served.store),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(promoter(registry, served).reconcile)
        with pytest.raises(TimeoutError):
            waiting.result(1)
        os.kill(holder.pid, signal.SIGKILL)
        assert waiting.result(60).did == "promoted"
    holder.wait()
    holder.stdout.close()
    assert_only(registry, served, number)


class Unreachable:
    """A rollout whose server does not answer at one step."""

    def __init__(self, real: Rollout, step: str) -> None:
        self._real, self._step = real, step

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fail(*_: object) -> object:
            raise ServerError("TorchServe does not answer")

        method: Callable[..., object] = getattr(self._real, name)
        return fail if name == self._step else method


def test_a_promoter_that_cannot_reach_the_server_rejects_nothing(
    registry: Registry, served: Served, trained: Trained
) -> None:
    number = challenger(registry, trained, 0.5)
    for step in ("load", "canary"):
        with pytest.raises(ServerError):
            promoter(registry, served, Unreachable(served.rollout, step)).reconcile()
        assert registry.version(number).status == Status.APPROVED
    assert promoter(registry, served).reconcile().did == "promoted"
