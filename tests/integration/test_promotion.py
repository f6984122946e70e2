import json
import threading
from collections import Counter as Tally
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from serve.errors import CanaryError, ServerError
from serve.rollout import Rollout
from tests.conftest import Served
from tests.integration.test_serving import altered
from trainer import tracking
from trainer.evaluate import Evaluation, from_json
from trainer.job import EVALUATION, Trained
from trainer.promoter import Promoter
from trainer.tracking import Tracking


def evaluation(trained: Trained) -> Evaluation:
    return from_json(trained.archive.with_name(EVALUATION).read_text())


def challenger(
    registry: Tracking, trained: Trained, accuracy: float, status: str = tracking.APPROVED,
    compared_with: str = "", archive: Path | None = None,
) -> str:  # fmt: skip
    """Register an archive whose evaluation says ``accuracy``; returns its version."""
    with registry.run("train") as run:
        run.log_file(archive or trained.archive, "archive")
        run.log_json(replace(evaluation(trained), accuracy=accuracy).to_sagemaker(), EVALUATION)
    return registry.register(run.id, status, "because", compared_with).number


def promoter(registry: Tracking, served: Served, server: Any = None) -> Promoter:
    return Promoter(registry, server or served.rollout, served.store / "accuracy.json")


def accuracy(served: Served) -> dict[str, Any]:
    return dict(json.loads((served.store / "accuracy.json").read_text()))


def alias(registry: Tracking, name: str) -> str | None:
    found = registry.alias(name)
    return found.number if found else None


def assert_only(registry: Tracking, served: Served, version: str) -> None:
    """Registry, server, store and accuracy.json agree that ``version`` is the one champion."""
    assert alias(registry, tracking.CHAMPION) == version
    assert served.rollout.serving() == version
    assert [each.version for each in served.management.loaded()] == [version]
    assert sorted(path.name for path in served.store.iterdir()) == ["accuracy.json", f"bin-counter-{version}.mar"]
    assert accuracy(served)["version"] == version
    assert registry.version(version).status == tracking.PROMOTED


def test_an_empty_registry_leaves_a_tenth_as_the_deployed_accuracy(registry: Tracking, served: Served) -> None:
    assert promoter(registry, served).reconcile().did == "nothing"
    assert accuracy(served) == {"accuracy": 0.1, "version": None}


def test_promotes_one_after_the_other(registry: Tracking, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, first)
    second = challenger(registry, trained, 0.6, compared_with=first)
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, second)
    assert alias(registry, tracking.PREVIOUS) == first
    assert accuracy(served) == {"accuracy": 0.6, "version": second}
    assert promoter(registry, served).reconcile().did == "nothing"


def test_accuracy_json_is_rebuilt_when_missing_or_damaged(registry: Tracking, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    for damage in (Path.unlink, lambda path: path.write_text("{")):
        damage(served.store / "accuracy.json")
        promoter(registry, served).reconcile()
        assert accuracy(served) == {"accuracy": 0.5, "version": first}


def test_a_server_that_came_up_empty_gets_the_champion_back(
    registry: Tracking, served: Served, trained: Trained
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.management.unregister(first)
    (served.store / f"bin-counter-{first}.mar").unlink()
    assert served.rollout.serving() is None
    assert promoter(registry, served).reconcile().did == "restored"
    assert_only(registry, served, first)


def test_a_damaged_archive_in_the_store_is_fetched_again(registry: Tracking, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.management.unregister(first)
    path = served.store / f"bin-counter-{first}.mar"
    path.write_bytes(path.read_bytes()[:100_000])
    (served.store / f".bin-counter-{first}.mar.partial").write_bytes(b"cut off")
    with pytest.raises(CanaryError, match="does not load"):
        promoter(registry, served).reconcile()
    assert promoter(registry, served).reconcile().did == "restored"
    assert_only(registry, served, first)


def test_a_version_loaded_by_hand_is_unloaded(registry: Tracking, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    served.rollout.load("99", lambda: trained.archive)
    served.rollout.switch("99")
    assert promoter(registry, served).reconcile().did == "restored"
    assert_only(registry, served, first)


@pytest.mark.parametrize("deployed", [True, False])
def test_a_failed_canary_is_rejected_once_and_the_old_model_serves_on(
    registry: Tracking, served: Served, trained: Trained, tmp_path: Path, deployed: bool
) -> None:
    first = challenger(registry, trained, 0.5) if deployed else ""
    promoter(registry, served).reconcile()
    broken = altered(
        trained.archive, tmp_path / "bin-counter.mar", "serve/counter.py", {b".sum(axis=-1": b".max(axis=-1"}
    )
    second = challenger(registry, trained, 0.9, compared_with=first, archive=broken)
    outcome = promoter(registry, served).reconcile()
    assert outcome.did == "rejected"
    assert "golden photo" in outcome.reason
    assert registry.version(second).status == tracking.REJECTED
    assert "golden photo" in registry.version(second).reason
    assert promoter(registry, served).reconcile().did == "nothing"
    if deployed:
        assert_only(registry, served, first)
    else:
        assert served.management.loaded() == []
        assert accuracy(served)["accuracy"] == 0.1


def test_an_undecided_version_goes_through_the_gate(registry: Tracking, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5, status="")
    assert promoter(registry, served).reconcile().did == "promoted"
    worse = challenger(registry, trained, 0.4, status="")
    assert promoter(registry, served).reconcile().did == "nothing"
    assert registry.version(worse).status == tracking.REFUSED
    assert "not greater" in registry.version(worse).reason
    assert_only(registry, served, first)


def test_a_version_that_cannot_be_judged_is_refused_and_holds_up_nobody(
    registry: Tracking, served: Served, trained: Trained
) -> None:
    good = challenger(registry, trained, 0.5)
    with registry.run("by hand") as run:
        pass
    odd = registry.register(run.id, "", "", "").number
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, good)
    assert registry.version(odd).status == tracking.REFUSED
    assert "evaluation.json" in registry.version(odd).reason


def test_an_answer_of_another_shape_does_not_pass_the_canary(
    registry: Tracking, served: Served, trained: Trained, tmp_path: Path
) -> None:
    odd = altered(trained.archive, tmp_path / "bin-counter.mar", "serve/counter.py", {b'"probabilities"': b'"p"'})
    number = challenger(registry, trained, 0.5, archive=odd)
    assert promoter(registry, served).reconcile().did == "rejected"
    assert "golden photo 0 with" in registry.version(number).reason


def test_an_approval_against_another_champion_is_withdrawn(
    registry: Tracking, served: Served, trained: Trained
) -> None:
    stale = challenger(registry, trained, 0.5)
    newer = challenger(registry, trained, 0.6)
    promoter(registry, served).reconcile()
    assert_only(registry, served, newer)
    assert promoter(registry, served).reconcile().did == "nothing"
    assert registry.version(stale).status == tracking.REFUSED
    assert "run the pipeline again" in registry.version(stale).reason


def ask_until(stop: threading.Event, served: Served, photo: bytes) -> Tally[str]:
    """Ask without pause; the answers by model version, failures by status."""
    mine = Tally[str]()
    with requests.Session() as session:
        while not stop.is_set():
            response = session.post(f"{served.inference.url}/predictions/bin-counter", data=photo, timeout=60)
            mine[response.json()["model_version"] if response.ok else f"HTTP {response.status_code}"] += 1
    return mine


def test_no_request_fails_while_the_model_is_promoted_four_times(
    registry: Tracking, served: Served, trained: Trained
) -> None:
    photo, stop = trained.data.test.photos[0].path.read_bytes(), threading.Event()
    numbers = [challenger(registry, trained, 0.5)]
    promoter(registry, served).reconcile()
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_until, stop, served, photo) for _ in range(4)]
        try:
            for accuracy in (0.6, 0.7, 0.8):
                numbers.append(challenger(registry, trained, accuracy, compared_with=numbers[-1]))
                assert promoter(registry, served).reconcile().did == "promoted"
        finally:
            stop.set()
        answers = sum((client.result() for client in clients), Tally[str]())
    print(f"{answers.total()} requests of four clients while swapping three times, by version: {dict(answers)}")
    assert set(answers) == set(numbers)
    assert answers.total() > 50


class CutOff:
    """A server side that dies just before or just after one step, as a killed promoter does."""

    def __init__(self, real: Rollout, step: str, version: str, after: bool) -> None:
        self._real, self._cut, self._after = real, (step, version), after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            here = (name, *args[:1]) == self._cut
            if here and not self._after:
                raise ServerError("killed")
            result = getattr(self._real, name)(*args)
            if here:
                raise ServerError("killed")
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["load", "canary", "switch", "retire"])
def test_a_promotion_that_was_cut_off_is_finished_by_the_next_round(
    registry: Tracking, served: Served, trained: Trained, step: str, after: bool
) -> None:
    first = challenger(registry, trained, 0.5)
    promoter(registry, served).reconcile()
    second = challenger(registry, trained, 0.6, compared_with=first)
    with pytest.raises(ServerError, match="killed"):
        promoter(registry, served, CutOff(served.rollout, step, second, after)).reconcile()
    assert served.inference.predict(trained.data.test.photos[0].path.read_bytes())["model_version"] in (first, second)
    promoter(registry, served).reconcile()
    assert_only(registry, served, second)
    assert alias(registry, tracking.PREVIOUS) == first


def test_a_promoter_that_cannot_reach_the_server_rejects_nothing(
    registry: Tracking, served: Served, trained: Trained
) -> None:
    number = challenger(registry, trained, 0.5)
    for step in ("load", "canary"):
        with pytest.raises(ServerError):
            promoter(registry, served, CutOff(served.rollout, step, number, False)).reconcile()
        assert registry.version(number).status == tracking.APPROVED
