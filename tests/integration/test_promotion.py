from pathlib import Path

import pytest

from serve.errors import DataError
from tests.conftest import Served
from tests.integration.promoting import accuracy, alias, assert_only, challenger, moves, promoter
from tests.integration.test_serving import altered
from trainer.promotion import decisions
from trainer.registry.entities import PREVIOUS, Status
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained


def test_an_empty_registry_leaves_a_tenth_as_the_deployed_accuracy(registry: Registry, served: Served) -> None:
    assert promoter(registry, served).reconcile().did == "nothing"
    assert accuracy(served) == {"accuracy": 0.1, "version": None}


def test_promotes_one_after_the_other(registry: Registry, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5)
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, first)
    second = challenger(registry, trained, 0.6, compared_with=first)
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, second)
    assert alias(registry, PREVIOUS) == first
    assert accuracy(served) == {"accuracy": 0.6, "version": second}
    assert moves(registry) == [("promoted", first), ("promoted", second)]
    assert promoter(registry, served).reconcile().did == "nothing"


@pytest.mark.parametrize("deployed", [True, False])
def test_a_failed_canary_is_rejected_once_and_the_old_model_serves_on(
    registry: Registry, served: Served, trained: Trained, tmp_path: Path, deployed: bool
) -> None:
    first = challenger(registry, trained, 0.5) if deployed else ""
    promoter(registry, served).reconcile()
    broken = altered(
        trained.archive, tmp_path / "bin-counter.mar", "serve/counter.py", {b"softmax(logits / ": b"softmax(-logits / "}
    )
    second = challenger(registry, trained, 0.9, compared_with=first, archive=broken)
    outcome = promoter(registry, served).reconcile()
    assert outcome.did == "rejected"
    assert "golden photo" in outcome.reason
    assert registry.version(second).status == Status.REJECTED
    assert "golden photo" in registry.version(second).reason
    assert promoter(registry, served).reconcile().did == "nothing"
    if deployed:
        assert_only(registry, served, first)
    else:
        assert served.management.loaded() == []
        assert accuracy(served)["accuracy"] == 0.1


def test_an_undecided_version_goes_through_the_gate(registry: Registry, served: Served, trained: Trained) -> None:
    first = challenger(registry, trained, 0.5, status="")
    assert promoter(registry, served).reconcile().did == "promoted"
    same = challenger(registry, trained, 0.5, status="")
    assert promoter(registry, served).reconcile().did == "nothing"
    assert registry.version(same).status == Status.REFUSED
    assert "50.0% on 30" in registry.version(same).reason
    decision, text = decisions.find_and_explain(registry, decisions.NEWEST)
    assert (decision.promote, decision.p_value) == (False, 1.0)
    assert f"refused version {same} (policy: significant)" in text
    assert decisions.find(registry, registry.version(first)).first
    others = challenger(registry, trained, 0.9, status="", fingerprint="others")
    assert promoter(registry, served).reconcile().did == "nothing"
    assert "evaluated on different photos" in registry.version(others).reason
    assert "run the pipeline" in decisions.find_and_explain(registry, others)[1]
    assert_only(registry, served, first)


def test_a_decision_that_is_not_recorded_is_one_clear_error(registry: Registry, trained: Trained) -> None:
    with pytest.raises(DataError, match="no version"):
        decisions.find_and_explain(registry, decisions.NEWEST)
    old = challenger(registry, trained, 0.5)
    with pytest.raises(DataError, match=rf"decision\.json .*version {old}\b.* approved, because"):
        decisions.find_and_explain(registry, old)


def test_a_version_that_cannot_be_judged_is_refused_and_holds_up_nobody(
    registry: Registry, served: Served, trained: Trained
) -> None:
    good = challenger(registry, trained, 0.5)
    with registry.run("by hand") as run:
        pass
    odd = registry.register(run.id, "", "", "").number
    assert promoter(registry, served).reconcile().did == "promoted"
    assert_only(registry, served, good)
    assert registry.version(odd).status == Status.REFUSED
    assert "evaluation.json" in registry.version(odd).reason


def test_an_answer_of_another_shape_does_not_pass_the_canary(
    registry: Registry, served: Served, trained: Trained, tmp_path: Path
) -> None:
    odd = altered(trained.archive, tmp_path / "bin-counter.mar", "serve/counter.py", {b'"probabilities"': b'"p"'})
    number = challenger(registry, trained, 0.5, archive=odd)
    assert promoter(registry, served).reconcile().did == "rejected"
    assert "golden photo 0 with" in registry.version(number).reason


def test_an_approval_against_another_champion_is_withdrawn(
    registry: Registry, served: Served, trained: Trained
) -> None:
    stale = challenger(registry, trained, 0.5)
    newer = challenger(registry, trained, 0.6)
    promoter(registry, served).reconcile()
    assert_only(registry, served, newer)
    assert promoter(registry, served).reconcile().did == "nothing"
    assert registry.version(stale).status == Status.REFUSED
    assert "run the pipeline again" in registry.version(stale).reason
