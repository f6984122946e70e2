"""The registry: everything that this project stores in one MLflow server.

Each move of the alias ``champion`` is recorded as a run ``deployment N`` (``trainer/registry/deployments.py``).
"""

from collections.abc import Mapping

from trainer.artifacts import DEPLOYMENT_KIND, KIND_TAG
from trainer.registry.deployments import Deployment, deduplicate, previous_version
from trainer.registry.entities import PREVIOUS, RunInfo, Status, Version
from trainer.registry.runs import RunStore
from trainer.registry.versions import VersionStore


class Registry(RunStore, VersionStore):
    """Runs, versions and deployments. Raises TrackingError when MLflow does not answer."""

    def record_deployment(self, version: str, status: Status, reason: str) -> None:
        """Record that ``version`` serves from now on: PROMOTED, or ROLLED_BACK where a later version was."""
        tags = {
            KIND_TAG: DEPLOYMENT_KIND,
            "version": version,
            "did": str(status),
            "reason": reason,
            "train_run": self.version(version).run_id,
        }
        with self.run(f"{DEPLOYMENT_KIND} {version}", tags=tags):
            pass  # the run consists of the tags that it is created with

    def record_champion(self, champion: Version) -> Version | None:
        """Record that the champion serves, and set the alias ``previous``; returns the version to return to, if any.

        Idempotent: a deployment that is recorded is not recorded again, so it can be repeated after a kill.
        """
        versions = {version.number: version for version in self.versions()}
        records = self._records_up_to(champion, versions)
        alias = self.alias(PREVIOUS)
        if len(records) == 1 and alias and alias.number != champion.number:
            return alias  # deployed by a version of binwatch that did not record deployments
        usable = {version.number: version.run_id for version in versions.values() if version.status == Status.PROMOTED}
        previous = previous_version(records, {**usable, champion.number: champion.run_id})
        if previous != (alias.number if alias else None):
            self.set_previous(previous)
        return versions[previous] if previous else None

    def _records_up_to(self, champion: Version, versions: Mapping[str, Version]) -> list[Deployment]:
        """All deployments, newest first; the champion's is added if it is not the newest."""
        records = self.deployments()
        newest = records[0] if records else None
        if newest and (newest.version, newest.train_run) == (champion.number, champion.run_id):
            if not newest.ended:
                self.end(newest.run_id, "FINISHED")
            return records
        replaced = versions.get(newest.version) if newest else None
        if replaced and replaced.status == Status.ROLLED_BACK:
            self.record_deployment(champion.number, Status.ROLLED_BACK, replaced.reason)
        else:
            self.record_deployment(champion.number, Status.PROMOTED, champion.reason)
        return self.deployments()

    def deployments(self) -> list[Deployment]:
        """The deployments, newest first."""
        return deduplicate([_deployment(run) for run in self.runs(f"tags.`{KIND_TAG}` = '{DEPLOYMENT_KIND}'")])


def _deployment(run: RunInfo) -> Deployment:
    return Deployment(
        version=run.tags.get("version", ""),
        did=run.tags.get("did", ""),
        reason=run.tags.get("reason", ""),
        at_s=run.started_s,
        train_run=run.tags.get("train_run", ""),
        run_id=run.id,
        ended=run.ended_s > 0,
    )
