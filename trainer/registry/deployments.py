"""Deployments: every move of the alias ``champion`` is recorded, and the records together form a stack.

A promotion pushes a version, a rollback pops everything above the version that it returns to; the next rollback returns
to the version below the top. Pure: ``trainer/registry/mlflow_registry.py`` stores the records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.registry.entities import Status


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """``version`` serves since ``at_s`` (seconds since 1970).

    ``did``: Status.PROMOTED, or Status.ROLLED_BACK where a later version was rolled back; ``train_run``: the training
    run of the version, since a registry that was deleted numbers its versions from 1 again; ``run_id``, ``ended``: the
    MLflow run that holds this record, and whether it was ended.
    """

    version: str
    did: str
    reason: str
    at_s: float
    train_run: str = ""
    run_id: str = ""
    ended: bool = True


def deduplicate(records: Sequence[Deployment]) -> list[Deployment]:
    """The records, newest first, each version's first record of several in a row.

    A request to MLflow whose answer was lost is retried, and may then have created two records.
    """
    distinct: list[Deployment] = []
    for record in reversed(records):
        if not distinct or (record.version, record.train_run) != (distinct[-1].version, distinct[-1].train_run):
            distinct.append(record)
    return distinct[::-1]


def previous_version(deployments: Sequence[Deployment], usable: Mapping[str, str]) -> str | None:
    """The version that a rollback returns to, if there is one.

    ``deployments``: newest first; ``usable``: the versions that may serve again, with their training runs.
    """
    stack: list[str] = []
    for deployment in reversed(deployments):
        if usable.get(deployment.version) != deployment.train_run:
            continue
        if deployment.did == Status.ROLLED_BACK:
            while stack and stack[-1] != deployment.version:
                stack.pop()
        if not stack or stack[-1] != deployment.version:
            stack.append(deployment.version)
    return stack[-2] if len(stack) > 1 else None
