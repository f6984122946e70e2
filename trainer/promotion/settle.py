"""What must hold once the alias ``champion`` was moved: the move is recorded, and ``previous`` names the one before."""

from trainer.registry.deployments import Deployment, previous_version
from trainer.registry.mlflow_registry import Registry
from trainer.registry.versions import PREVIOUS, Status, Version


def record_champion(registry: Registry, champion: Version) -> Version | None:
    """Record that the champion serves, where that is not done; returns the version to return to, if there is one.

    It can be run again after a kill: what is recorded already is not recorded twice.
    """
    versions = {each.number: each for each in registry.versions()}
    records = _recorded(registry, champion, versions)
    named = registry.alias(PREVIOUS)
    if len(records) == 1 and named and named.number != champion.number:
        return named  # deployed before there were records
    served = {each.number: each.run_id for each in versions.values() if each.status == Status.PROMOTED}
    previous = previous_version(records, {**served, champion.number: champion.run_id})
    if previous != (named.number if named else None):
        registry.set_previous(previous)
    return versions[previous] if previous else None


def _recorded(registry: Registry, champion: Version, versions: dict[str, Version]) -> list[Deployment]:
    """All deployments, newest first, of which the newest is the champion's."""
    records = registry.deployments()
    last = records[0] if records else None
    if last and (last.version, last.train_run) == (champion.number, champion.run_id):
        if not last.ended:
            registry.end(last.run_id, "FINISHED")
        return records
    left = versions.get(last.version) if last else None
    if left and left.status == Status.ROLLED_BACK:
        registry.record_deployment(champion.number, Status.ROLLED_BACK, left.reason)
    else:
        registry.record_deployment(champion.number, Status.PROMOTED, champion.reason)
    return registry.deployments()
