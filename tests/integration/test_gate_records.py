"""Records with products in the gate of the promoter, which reads both models' answers from MLflow."""

from tests.unit.gating import side, votes
from trainer.artifacts import EVALUATION, PREDICTIONS
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.guards import GuardVerdict
from trainer.evaluation.policy import GatePolicy
from trainer.promotion import decisions
from trainer.registry.entities import Status, Version
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import columns_of

BETTER, GOOD = votes(80, 60, 20, 40)
OFTEN, SELDOM = ([number < photos for number in range(200)] for photos in (120, 40))
"""Which of 200 photos have a wrong record that is caught."""


def version(registry: Registry, evaluated: Evaluated) -> Version:
    """A version whose training run has recorded this evaluation."""
    with registry.run("train") as run:
        run.log_json(evaluated.evaluation.to_sagemaker(), EVALUATION)
        run.log_table(columns_of(evaluated.predictions), PREDICTIONS)
    return registry.register(run.id, "", "", "")


def caught_records(registry: Registry, challenger: Evaluated, champion: Evaluated) -> tuple[Status, GuardVerdict]:
    """What becomes of the challenger, and what the guard on caught records says."""
    second = version(registry, challenger)
    decided = decisions.decide(registry, second, version(registry, champion), GatePolicy())
    guards = {guard.name: guard.verdict for guard in decisions.find(registry, decided).guards}
    return Status(decided.status), guards["caught records"]


def test_a_challenger_that_catches_fewer_wrong_records_is_refused(registry: Registry) -> None:
    result = caught_records(registry, side(BETTER, caught=SELDOM), side(GOOD, caught=OFTEN))
    assert result == (Status.REFUSED, GuardVerdict.TRIPPED)
    assert "10.0% of wrong records" in registry.versions()[1].reason


def test_a_champion_that_judges_no_records_is_compared_on_the_same_photos(registry: Registry) -> None:
    result = caught_records(registry, side(BETTER, caught=SELDOM), side(GOOD))
    assert result == (Status.APPROVED, GuardVerdict.NOT_JUDGED)
