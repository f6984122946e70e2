"""The promoter: makes TorchServe follow the registry's alias ``champion``, and moves that alias.

``Promoter.reconcile_once`` is idempotent: it can be run again after a kill at any point. A lock lets one promoter run
at a time. It takes these steps:

1. Record the champion as deployed, if a kill prevented that, and set the alias ``previous`` from the records.
2. If TorchServe does not serve the champion (it was restarted empty, a promotion was interrupted, or another version
   was loaded by hand), load it, run its canary and switch to it. If the champion's archive in the store is missing or
   damaged, fetch it again.
3. While the champion's status is ``approved`` it is on probation: observe it. After some time without a fault it is
   ``promoted``, and the other versions are drained and unloaded; a fault makes it ``rolled-back``, and ``previous``
   becomes the champion.
4. If a version has no status yet, let the gate decide, from what its training run recorded.
5. If a version is ``approved``, load it beside the champion, run its canary with golden photos and move the alias; then
   as in 2 and 3. A failed canary makes it ``rejected``, and the champion keeps serving.
6. Write ``accuracy.json``: the accuracy of the champion, or 0.1 where there is none.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event

from serve.errors import ArchiveError, BinwatchError, CanaryError, DataError
from serve.files import write_text
from trainer.artifacts import EVALUATION
from trainer.evaluation.evaluate import Evaluation, evaluation_from_json
from trainer.evaluation.policy import DEFAULT, UNDEPLOYED_ACCURACY, GatePolicy
from trainer.promotion import decisions
from trainer.promotion.server import Server
from trainer.registry import signed_archive
from trainer.registry.entities import CHAMPION, Status, Version
from trainer.registry.mlflow_registry import Registry

log = logging.getLogger(__name__)

OBSERVE_S = 1.0
"""Time between two observations of a champion on probation."""


class Upkeep(StrEnum):
    """The result of a reconciliation that gave no version a new status."""

    NOTHING = "nothing"
    RESTORED = "restored"
    WATCHED = "watched"
    """The champion is on probation."""


@dataclass(frozen=True)
class PromotionOutcome:
    """The result of a reconciliation or a rollback. ``did``: the new Status of ``version``, or an Upkeep."""

    did: str
    version: str
    reason: str


class Promoter:
    """Connects a registry, a server, and the file that holds the accuracy of the deployed version."""

    def __init__(
        self,
        registry: Registry,
        server: Server,
        accuracy_file: Path,
        policy: GatePolicy = DEFAULT,
        trusted: Path | None = None,
    ) -> None:
        """``trusted``: the keys whose archives are accepted (``trainer/registry/signed_archive.py``)."""
        self._registry = registry
        self._trusted = trusted
        self._policy = policy
        self._server = server
        self._accuracy_file = accuracy_file

    def reconcile(self) -> PromotionOutcome:
        """Reconcile until no version is on probation. Raises as ``reconcile_once`` does."""
        while (outcome := self.reconcile_once()).did == Upkeep.WATCHED:
            time.sleep(OBSERVE_S)
        return outcome

    def reconcile_once(self, idle: Callable[[], object] | None = None) -> PromotionOutcome:
        """Reconcile once and then call ``idle``, both under the server's lock.

        Raises TrackingError or ServerError; the next call resumes where this one stopped.
        """
        with self._server.lock():
            champion = self._registry.alias(CHAMPION)
            outcome = self._follow(champion) if champion else None
            if outcome is None or outcome.did == Upkeep.RESTORED:
                approved = self._next_approved(champion)
                outcome = self._promote(approved) if approved else outcome
            self._write_accuracy()
            if idle:
                idle()
        number = champion.number if champion else ""
        return outcome or PromotionOutcome(Upkeep.NOTHING, number, "no version waits to be promoted")

    def roll_back(self, reason: str) -> PromotionOutcome:
        """Return to the previous version now. Raises DataError where there is none."""
        with self._server.lock():
            champion = self._registry.alias(CHAMPION)
            if champion is None:
                raise DataError("nothing is deployed, so there is nothing to roll back")
            previous = self._registry.record_champion(champion)
            if previous is None:
                raise DataError(f"no version served before version {champion.number}, which keeps serving")
            outcome = self._return(champion, previous, reason)
            self._write_accuracy()
        return outcome

    def promote(self, version: str) -> PromotionOutcome:
        """Reconcile, for a pipeline in this process that waits for ``version``."""
        outcome = self.reconcile()
        if outcome.version == version:
            return outcome
        current = self._registry.version(version)
        return PromotionOutcome(current.status, version, current.reason)

    def _next_approved(self, champion: Version | None) -> Version | None:
        """The newest approved version. Approvals against another champion than the present one are withdrawn."""
        current = champion.number if champion else ""
        for version in self._registry.versions():
            if not version.status and int(version.number) > int(current or 0):
                version = decisions.decide(self._registry, version, champion, self._policy)
            if version.status != Status.APPROVED or version.number == current:
                continue
            if version.compared_with == current:
                return version
            compared_with = version.compared_with or "none"
            reason = (
                f"it was compared with version {compared_with}, but the champion is version {current}; "
                "run the pipeline again"
            )
            self._registry.mark(version.number, Status.REFUSED, reason)
        return None

    def _promote(self, version: Version) -> PromotionOutcome:
        try:
            with self._archive_of(version) as fetch:
                self._server.load(version.number, fetch)
            self._server.canary(version.number)
        except (CanaryError, ArchiveError) as error:
            self._server.discard(version.number)
            self._registry.mark(version.number, Status.REJECTED, str(error))
            return PromotionOutcome(Status.REJECTED, version.number, str(error))
        self._registry.set_champion(version.number)
        return self._follow(version) or PromotionOutcome(Status.PROMOTED, version.number, version.reason)

    def _follow(self, champion: Version) -> PromotionOutcome | None:
        """Make the server serve the champion, and nothing else after its probation; None where it did already."""
        previous = self._registry.record_champion(champion)
        if champion.status == Status.ROLLED_BACK and previous:  # the rollback was interrupted
            return self._return(champion, previous, champion.reason)
        try:
            served_already = self._serve(champion)
        except CanaryError as error:
            if champion.status == Status.PROMOTED or not previous:
                raise
            return self._return(champion, previous, str(error))
        if champion.status != Status.PROMOTED:
            return self._watch(champion, previous)
        self._server.retire_others(champion.number, previous.number if previous else None)
        if served_already:
            return None
        return PromotionOutcome(Upkeep.RESTORED, champion.number, "TorchServe did not serve the champion")

    def _serve(self, champion: Version) -> bool:
        """Make the server answer with the champion; returns whether it did already."""
        with self._archive_of(champion) as fetch:
            if self._server.serving() == champion.number:
                self._server.store_archive(champion.number, fetch)
                return True
            self._server.load(champion.number, fetch)
        self._server.canary(champion.number)
        self._server.switch(champion.number)
        return False

    def _watch(self, champion: Version, previous: Version | None) -> PromotionOutcome:
        """Observe a champion on probation. Without a version to return to, there is no probation."""
        observation = self._server.observe(champion.number)
        if observation.fault and previous:
            return self._return(champion, previous, observation.fault)
        if previous and not observation.over:
            return PromotionOutcome(Upkeep.WATCHED, champion.number, observation.summary)
        log.info("version %s was watched for %s", champion.number, observation.summary)
        self._server.retire_others(champion.number, previous.number if previous else None)
        self._registry.mark(champion.number, Status.PROMOTED, champion.reason)
        return PromotionOutcome(Status.PROMOTED, champion.number, champion.reason)

    def _return(self, champion: Version, previous: Version, reason: str) -> PromotionOutcome:
        """Roll back to the previous version, which must load and pass its canary first."""
        with self._archive_of(previous) as fetch:
            self._server.load(previous.number, fetch)
        self._server.canary(previous.number)
        self._registry.mark(champion.number, Status.ROLLED_BACK, reason)
        self._registry.set_champion(previous.number)
        self._server.switch(previous.number)
        fallback = self._registry.record_champion(previous)
        self._server.retire_others(previous.number, fallback.number if fallback else None)
        return PromotionOutcome(Status.ROLLED_BACK, champion.number, reason)

    def _write_accuracy(self) -> None:
        champion = self._registry.alias(CHAMPION)
        version = champion.number if champion else None
        if _recorded_version(self._accuracy_file) == {"version": version}:
            return
        accuracy = self._evaluation(champion).accuracy if champion else UNDEPLOYED_ACCURACY
        write_text(self._accuracy_file, json.dumps({"accuracy": accuracy, "version": version}))

    def _evaluation(self, version: Version) -> Evaluation:
        return evaluation_from_json(self._registry.read_text(version.run_id, EVALUATION) or "{}")

    @contextmanager
    def _archive_of(self, version: Version) -> Iterator[Callable[[], Path]]:
        """A function that fetches the version's archive into a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="binwatch-fetch-") as folder:
            yield lambda: signed_archive.fetch(self._registry, version.run_id, Path(folder), self._trusted)


def watch(
    promoter: Promoter, heartbeat: Path, interval_s: float, stop: Event, scale: Callable[[], object] | None = None
) -> None:
    """Reconcile every ``interval_s`` seconds until ``stop``, and touch ``heartbeat`` after each success.

    ``scale`` is called then, too, under the same lock. Errors are logged and retried: the next reconciliation finishes
    what a failed one left undone.
    """

    def idle() -> None:
        heartbeat.touch()
        if scale:
            scale()

    while not stop.is_set():
        wait_s = interval_s
        try:
            outcome = promoter.reconcile_once(idle)
            if outcome.did == Upkeep.WATCHED:
                wait_s = min(OBSERVE_S, interval_s)
            elif outcome.did != Upkeep.NOTHING:
                log.info("%s version %s: %s", outcome.did, outcome.version, outcome.reason)
        except BinwatchError as error:
            log.warning("%s; trying again in %.0f s", error, interval_s)
        stop.wait(wait_s)


def _recorded_version(accuracy_file: Path) -> dict[str, str | None] | None:
    """The version in ``accuracy.json``; None where the file is missing or damaged."""
    try:
        return {"version": json.loads(accuracy_file.read_text())["version"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
