"""What served when: every move of the alias ``champion`` is a record, and the records together are a stack.

A promotion puts a version on it, a rollback takes off what lies above the version that it returns to. So the version
to return to next is the one below the top. Pure: ``trainer/tracking.py`` keeps the records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROMOTED, ROLLED_BACK = "promoted", "rolled-back"


@dataclass(frozen=True)
class Deployment:
    """``version`` serves since ``at_s`` (seconds since 1970), because it was promoted, or because a later version was
    rolled back.

    ``did``: ``promoted`` or ``rolled-back``; ``train_run``: the run that made the version, as numbers begin again in
    a registry that was deleted; ``run_id``, ``ended``: the run in MLflow that says so, and whether it was closed.
    """

    version: str
    did: str
    reason: str
    at_s: float
    train_run: str = ""
    run_id: str = ""
    ended: bool = True


def deduplicate(records: Sequence[Deployment]) -> list[Deployment]:
    """The records, newest first, without those that say again what the one before them said.

    A request to MLflow that got no answer is sent again, and then is there twice.
    """
    kept: list[Deployment] = []
    for each in reversed(records):
        if not kept or (each.version, each.train_run) != (kept[-1].version, kept[-1].train_run):
            kept.append(each)
    return kept[::-1]


def previous_version(deployments: Sequence[Deployment], usable: Mapping[str, str]) -> str | None:
    """The version to return to from the one that serves, if there is one.

    ``deployments``: newest first; ``usable``: of each version that may serve again, the run that made it.
    """
    stack: list[str] = []
    for each in reversed(deployments):
        if usable.get(each.version) != each.train_run:
            continue
        if each.did == ROLLED_BACK:
            while stack and stack[-1] != each.version:
                stack.pop()
        if not stack or stack[-1] != each.version:
            stack.append(each.version)
    return stack[-2] if len(stack) > 1 else None
