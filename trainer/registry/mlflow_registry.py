"""The registry: everything that this project stores in one MLflow server.

Each move of the alias ``champion`` is recorded as a run ``deployment N`` (``trainer/registry/deployments.py``).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.artifacts import DEPLOYMENT_KIND, KIND_TAG
from trainer.registry.deployments import Deployment, deduplicate, previous_version
from trainer.registry.entities import PREVIOUS, RunInfo, Status, Version
from trainer.registry.runs import RunStore
from trainer.registry.versions import VersionStore


@dataclass(frozen=True, kw_only=True)
class ChampionRecord:
    """What is to be recorded about a champion. ``previous``: the version that a rollback returns to, if any.

    ``missing``: its deployment, unless that is recorded; ``unended``: the run of a deployment that was not ended;
    ``move_alias``: whether the alias ``previous`` names another version so far.
    """

    missing: Deployment | None
    unended: str
    previous: Version | None
    move_alias: bool


class Registry(RunStore, VersionStore):
    """Runs, versions and deployments. Raises TrackingError when MLflow does not answer."""

    def record_deployment(self, version: str, status: str, reason: str) -> None:
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
        return self.record(self.plan_record(champion))

    def plan_record(self, champion: Version) -> ChampionRecord:
        """What is to be recorded once the champion serves. Changes nothing."""
        versions = {version.number: version for version in self.versions()}
        records = self.deployments()
        newest = records[0] if records else None
        recorded = newest and (newest.version, newest.train_run) == (champion.number, champion.run_id)
        replaced = versions.get(newest.version) if newest else None
        missing = None if recorded else _next_deployment(champion, replaced)
        if missing:
            records.insert(0, missing)
        alias = self.alias(PREVIOUS)
        previous = self._previous(champion, records, alias, versions)
        return ChampionRecord(
            missing=missing,
            unended="" if missing or records[0].ended else records[0].run_id,
            previous=previous,
            move_alias=(previous.number if previous else None) != (alias.number if alias else None),
        )

    def record(self, plan: ChampionRecord) -> Version | None:
        """Carry out what ``plan_record`` has planned; returns the version to return to, if any."""
        if plan.missing:
            self.record_deployment(plan.missing.version, plan.missing.did, plan.missing.reason)
        elif plan.unended:
            self.end(plan.unended, "FINISHED")
        if plan.move_alias:
            self.set_previous(plan.previous.number if plan.previous else None)
        return plan.previous

    def _previous(
        self,
        champion: Version,
        records: Sequence[Deployment],
        alias: Version | None,
        versions: Mapping[str, Version],
    ) -> Version | None:
        if len(records) == 1 and alias and alias.number != champion.number:
            return alias  # deployed by a version of binwatch that did not record deployments
        usable = {version.number: version.run_id for version in versions.values() if version.status == Status.PROMOTED}
        number = previous_version(records, {**usable, champion.number: champion.run_id})
        return versions.get(number) if number else None

    def deployments(self) -> list[Deployment]:
        """The deployments, newest first."""
        return deduplicate([_deployment(run) for run in self.runs(f"tags.`{KIND_TAG}` = '{DEPLOYMENT_KIND}'")])


def _next_deployment(champion: Version, replaced: Version | None) -> Deployment:
    """The record that the champion serves, after ``replaced`` did."""
    rolled_back = replaced is not None and replaced.status == Status.ROLLED_BACK
    return Deployment(
        version=champion.number,
        did=Status.ROLLED_BACK if rolled_back else Status.PROMOTED,
        reason=replaced.reason if replaced and rolled_back else champion.reason,
        at_s=time.time(),
        train_run=champion.run_id,
    )


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
