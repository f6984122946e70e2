"""Back to the version before: by hand, by itself, and the records of both."""

from trainer import tracking
from trainer.tracking import Tracking


def registered(registry: Tracking) -> str:
    with registry.run("train") as run:
        pass
    return registry.register(run.id, tracking.APPROVED, "because", "").number


def test_deployments_are_runs_that_tell_what_served_since_when(registry: Tracking) -> None:
    first, second = registered(registry), registered(registry)
    assert registry.deployments() == []
    registry.record_deployment(first, "promoted", "the first")
    registry.record_deployment(second, "promoted", "better")
    registry.record_deployment(first, "rolled-back", "it was not")
    found = registry.deployments()
    assert [(each.version, each.did, each.reason) for each in found] == [
        (first, "rolled-back", "it was not"), (second, "promoted", "better"), (first, "promoted", "the first"),
    ]  # fmt: skip
    assert found[0].at_s > found[1].at_s > found[2].at_s
    assert all(each.ended for each in found)
    assert [each.train_run for each in found] == [registry.version(each.version).run_id for each in found]
