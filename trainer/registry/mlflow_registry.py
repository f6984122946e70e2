"""The registry: everything that this project keeps in one MLflow server.

Each move of the alias ``champion`` is a run ``deployment N`` of its own (``trainer/registry/deployments.py``).
"""

from trainer.registry.deployments import Deployment, deduplicate
from trainer.registry.runs import RunInfo, RunStore
from trainer.registry.versions import VersionStore

DEPLOYMENT = "deployment"


class Registry(RunStore, VersionStore):
    """Runs, versions and deployments. Raises TrackingError when MLflow does not answer."""

    def record_deployment(self, version: str, move: str, reason: str) -> None:
        """Record that ``version`` serves from now on: ``promoted``, or because a later one was ``rolled-back``."""
        tags = {
            "binwatch.kind": DEPLOYMENT,
            "version": version,
            "did": str(move),
            "reason": reason,
            "train_run": self.version(version).run_id,
        }
        with self.run(f"{DEPLOYMENT} {version}", tags=tags):
            pass  # the tags, which it is created with, are all of it

    def deployments(self) -> list[Deployment]:
        """What served since when, the newest first."""
        return deduplicate([_deployment(run) for run in self.runs(f"tags.`binwatch.kind` = '{DEPLOYMENT}'")])


def _deployment(run: RunInfo) -> Deployment:
    version, did, reason, train_run = (run.tags.get(name, "") for name in ("version", "did", "reason", "train_run"))
    return Deployment(version, did, reason, run.started_s, train_run, run.id, run.ended_s > 0)
