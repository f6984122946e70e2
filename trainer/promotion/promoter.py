"""The promoter: makes TorchServe follow the registry's alias ``champion``, and moves that alias.

``Promoter.reconcile_once`` is idempotent: it can be run again after a kill at any point. A lock lets one promoter run
at a time. It takes these steps:

1. If TorchServe serves nothing (it was restarted), restore the version that served last from the model store. If it
   does not serve the champion (a promotion was interrupted, or another version was loaded by hand), load it, run its
   canary and switch to it. If the champion's archive in the store is missing or damaged, fetch it again.
2. Record the champion as deployed, and set the alias ``previous`` from the records.
3. While the champion's status is ``approved`` it is on probation: observe it. After some time without a fault it is
   ``promoted``, and the other versions are drained and unloaded; a fault makes it ``rolled-back``, and ``previous``
   becomes the champion.
4. If a version has no status yet, let the gate decide, from what its training run recorded.
5. If a version is ``approved``, load it beside the champion, run its canary with golden photos, try it on live traffic
   if BINWATCH_ROLLOUT asks for that, and move the alias; then as in 2 and 3. A failed canary or trial makes it
   ``rejected``, and the champion keeps serving.
6. Write ``accuracy.json``: the accuracy of the champion, or 0.1 where there is none.

Nothing that MLflow says takes the model away. A champion that cannot be served (its archive is lost, or not signed)
leaves the version that serves. A version that cannot be used is marked, and one that MLflow does not give at the moment
is passed over for a while: both hold up no other version.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve.errors import ArchiveError, CanaryError, DataError, TrackingError
from serve.rollout.model_store import StoredVersion
from trainer.evaluation.policy import DEFAULT, GatePolicy
from trainer.promotion import decisions
from trainer.promotion.accuracy_file import AccuracyFile
from trainer.promotion.notices import Notices
from trainer.promotion.outcome import PromotionOutcome, Upkeep
from trainer.promotion.patience import Patience
from trainer.promotion.recovery import Recovery
from trainer.promotion.server import Server
from trainer.promotion.trial_decision import TrialStep
from trainer.promotion.trials import Trials
from trainer.registry import signed_archive
from trainer.registry.entities import CHAMPION, Status, Version
from trainer.registry.mlflow_registry import Registry

log = logging.getLogger(__name__)

OBSERVE_S = 1.0
"""Time between two observations of a champion on probation."""


class Promoter:
    """Connects a registry, a server, and the file that holds the accuracy of the deployed version."""

    def __init__(
        self,
        registry: Registry,
        server: Server,
        accuracy_file: Path,
        policy: GatePolicy = DEFAULT,
        trusted: Path | None = None,
        trials: Trials | None = None,
    ) -> None:
        """``trusted``: the keys whose archives are accepted (``trainer/registry/signed_archive.py``); ``trials``: of
        challengers on live traffic; without, a challenger gets all of the traffic at once."""
        self._registry, self._server = registry, server
        self._trusted, self._policy = trusted, policy
        notices = Notices()
        self._accuracy = AccuracyFile(accuracy_file, registry, notices)
        self._recovery = Recovery(registry, server, trusted, notices)
        self._patience = Patience()
        self._trials = trials or Trials(registry)

    def reconcile(self) -> PromotionOutcome:
        """Reconcile until no version is on probation or on trial. Raises as ``reconcile_once`` does."""
        while (outcome := self.reconcile_once()).did == Upkeep.WATCHED:
            time.sleep(OBSERVE_S)
        return outcome

    def reconcile_once(self, idle: Callable[[], object] | None = None) -> PromotionOutcome:
        """Reconcile once and then call ``idle``, both under the server's lock.

        Raises TrackingError or ServerError; ``idle`` is called all the same, and the next call resumes where this one
        stopped.
        """
        with self._server.lock():
            try:
                with self._trials.round():
                    return self._reconcile()
            finally:
                if idle:
                    idle()

    def _reconcile(self) -> PromotionOutcome:
        # before MLflow is asked: a request to one that is silent takes minutes
        restored = self._server.serving() is None and self._recovery.restore_server() is not None
        champion = self._registry.alias(CHAMPION)
        outcome = self._follow(champion) if champion else self._go_on()
        if outcome is None or outcome.did in (Upkeep.RESTORED, Upkeep.KEPT):
            outcome = self._promote_next(champion) or outcome
        self._update_accuracy()
        number = champion.number if champion else ""
        if restored and outcome is None:
            outcome = PromotionOutcome(Upkeep.RESTORED, number, "TorchServe served no version")
        return outcome or PromotionOutcome(Upkeep.NOTHING, number, "no version waits to be promoted")

    def _go_on(self) -> PromotionOutcome | None:
        """Without a champion, the version that served last goes on."""
        stored = self._recovery.restore_server()
        if stored is None:
            return None
        return PromotionOutcome(Upkeep.KEPT, stored.version, "MLflow names no champion; this version serves on")

    def roll_back(self, reason: str) -> PromotionOutcome:
        """Return to the previous version now. Raises DataError where there is none."""
        with self._server.lock():
            champion = self._registry.alias(CHAMPION)
            if champion is None:
                raise DataError("nothing is deployed, so there is nothing to roll back")
            plan = self._registry.plan_record(champion)
            if self._server.serving() == champion.number:
                self._registry.record(plan)
            previous = plan.previous
            if previous is None:
                raise DataError(f"no version served before version {champion.number}, which keeps serving")
            outcome = self._return(champion, previous, reason)
            self._update_accuracy()
        return outcome

    def promote(self, version: str) -> PromotionOutcome:
        """Reconcile, for a pipeline in this process that waits for ``version``."""
        outcome = self.reconcile()
        if outcome.version == version:
            return outcome
        current = self._registry.version(version)
        return PromotionOutcome(current.status, version, current.reason)

    def _promote_next(self, champion: Version | None) -> PromotionOutcome | None:
        """Promote the newest approved version that can be promoted; None where there is none.

        A version that MLflow does not give at the moment is passed over, for longer each time.
        """
        for version in self._registry.versions():
            if self._patience.waits(version.number):
                continue
            try:
                result = self._try(version, champion)
            except (TrackingError, DataError) as error:
                self._registry.alias(CHAMPION)  # raises where MLflow is away altogether
                wait_s = self._patience.fail(version.number)
                log.warning("version %s is passed over for %.0f s: %s", version.number, wait_s, error)
                continue
            self._patience.succeed(version.number)
            if isinstance(result, Version):
                return self._try_on_traffic(result, champion) or self._crown(result)
            if result:
                return result
        return None

    def _try(self, version: Version, champion: Version | None) -> Version | PromotionOutcome | None:
        """Decide about a version, and load it if it is approved: it is returned if it may become the champion.

        Approvals against another champion are withdrawn.
        """
        current = champion.number if champion else ""
        if not version.status and int(version.number) > int(current or 0):
            version = decisions.decide(self._registry, version, champion, self._policy)
        if version.status != Status.APPROVED or version.number == current:
            return None
        if version.compared_with == current:
            return self._load_or_reject(version, champion)
        compared_with = version.compared_with or "none"
        reason = (
            f"it was compared with version {compared_with}, but the champion is version {current}; "
            "run the pipeline again"
        )
        self._registry.mark(version.number, Status.REFUSED, reason)
        return None

    def _try_on_traffic(self, version: Version, champion: Version | None) -> PromotionOutcome | None:
        """The trial of a loaded version beside the champion; None where it may become the champion."""
        decision = self._trials.step(version, champion)
        if decision.step == TrialStep.WAIT:
            did = Upkeep.WATCHED if self._trials.version else Upkeep.WAITING
            return PromotionOutcome(did, version.number, decision.reason)
        if decision.step == TrialStep.RETURN and champion:
            self._registry.mark(version.number, Status.REJECTED, decision.reason)
            self._end_trial(champion)
            return PromotionOutcome(Status.REJECTED, version.number, decision.reason)
        return None

    def _end_trial(self, champion: Version) -> None:
        """Drain and unload a challenger that was on trial."""
        self._trials.end()
        previous = self._registry.plan_record(champion).previous
        self._retire_others(champion, previous)

    def _retire_others(self, champion: Version, previous: Version | None) -> None:
        """Drain and unload what does not serve, unless it is on trial."""
        if not self._trials.version:
            self._server.retire_others(champion.number, previous.number if previous else None)

    def _crown(self, version: Version) -> PromotionOutcome:
        """Make a loaded version the champion."""
        self._registry.set_champion(version.number)
        self._trials.end()
        return self._follow(version) or PromotionOutcome(Status.PROMOTED, version.number, version.reason)

    def _load_or_reject(self, version: Version, champion: Version | None) -> Version | PromotionOutcome:
        if champion and self._trials.version not in ("", version.number):
            self._end_trial(champion)
        try:
            self._prepare(version, canary=self._trials.version != version.number)
        except (CanaryError, ArchiveError) as error:
            replaced = self._server.archives.run_of(version.number) == version.run_id
            if replaced or self._server.serving() != version.number:  # else another run's model has this number
                self._server.discard(version.number)
            self._registry.mark(version.number, Status.REJECTED, str(error))
            return PromotionOutcome(Status.REJECTED, version.number, str(error))
        return version

    def _follow(self, champion: Version) -> PromotionOutcome | None:
        """Make the server serve the champion, and nothing else after its probation; None where it did already."""
        plan = self._registry.plan_record(champion)
        if champion.status == Status.ROLLED_BACK and plan.previous:  # the rollback was interrupted
            return self._try_return(champion, plan.previous, champion.reason)
        try:
            served_already = self._serve(champion)
        except (CanaryError, ArchiveError, DataError) as error:
            if champion.status == Status.PROMOTED or not plan.previous:
                return self._keep(champion, plan.previous, str(error))
            status = Status.REJECTED if plan.missing else Status.ROLLED_BACK
            return self._try_return(champion, plan.previous, str(error), status)
        previous = self._registry.record(plan)
        self._recovery.check_artifacts(champion)
        if champion.status != Status.PROMOTED:
            return self._watch(champion, previous)
        self._retire_others(champion, previous)
        if served_already:
            return None
        return PromotionOutcome(Upkeep.RESTORED, champion.number, "TorchServe did not serve the champion")

    def _serve(self, champion: Version) -> bool:
        """Make the server answer with the champion; returns whether it did already."""
        number, run_id = champion.number, champion.run_id
        if self._server.serving() == number and not self._server.archives.is_of_another_run(number, run_id):
            with self._archive_of(champion) as fetch:
                self._server.store_archive(number, fetch, run_id)
            self._server.archives.remember_serving(StoredVersion(version=number, run_id=run_id))
            return True
        self._prepare(champion)
        self._switch(champion)
        return False

    def _prepare(self, version: Version, canary: bool = True) -> None:
        """Load a version beside the others, and run its canary, unless ``canary`` is false: it has passed it before."""
        with self._archive_of(version) as fetch:
            self._server.load(version.number, fetch, version.run_id)
        if canary:
            self._server.canary(version.number)

    def _switch(self, version: Version) -> None:
        self._server.switch(version.number)
        self._server.archives.remember_serving(StoredVersion(version=version.number, run_id=version.run_id))

    def _keep(self, champion: Version, previous: Version | None, problem: str) -> PromotionOutcome:
        """A champion that cannot be served leaves the version that serves, or the one that did last."""
        stored = self._recovery.restore_server()
        if stored is None and previous:
            with suppress(CanaryError, ArchiveError, DataError):
                self._serve(previous)
                stored = StoredVersion(version=previous.number, run_id=previous.run_id)
        serving = f"version {stored.version} serves" if stored else "no version serves"
        reason = f"version {champion.number}, the champion, cannot be served: {problem}; {serving}"
        return PromotionOutcome(Upkeep.KEPT, stored.version if stored else "", reason)

    def _watch(self, champion: Version, previous: Version | None) -> PromotionOutcome:
        """Observe a champion on probation. Without a version to return to, there is no probation."""
        observation = self._server.observe(champion.number)
        if observation.fault and previous:
            return self._try_return(champion, previous, observation.fault)
        if previous and not observation.over:
            return PromotionOutcome(Upkeep.WATCHED, champion.number, observation.summary)
        log.info("version %s was watched for %s", champion.number, observation.summary)
        self._server.retire_others(champion.number, previous.number if previous else None)
        self._registry.mark(champion.number, Status.PROMOTED, champion.reason)
        return PromotionOutcome(Status.PROMOTED, champion.number, champion.reason)

    def _try_return(
        self, champion: Version, previous: Version, reason: str, status: Status = Status.ROLLED_BACK
    ) -> PromotionOutcome:
        """Return to the previous version, or keep what serves where that one cannot be served."""
        try:
            return self._return(champion, previous, reason, status)
        except (CanaryError, ArchiveError, DataError) as error:
            problem = f"{reason}; version {previous.number}, which served before, cannot return: {error}"
            return self._keep(champion, None, problem)

    def _return(
        self, champion: Version, previous: Version, reason: str, status: Status = Status.ROLLED_BACK
    ) -> PromotionOutcome:
        """Return to the previous version, which must load and pass its canary first; ``status``: of the champion."""
        self._prepare(previous)
        self._registry.mark(champion.number, status, reason)
        self._registry.set_champion(previous.number)
        self._switch(previous)
        fallback = self._registry.record_champion(previous)
        self._server.retire_others(previous.number, fallback.number if fallback else None)
        return PromotionOutcome(status, champion.number, reason)

    def _update_accuracy(self) -> None:
        champion = self._registry.alias(CHAMPION)
        records = self._server.archives.records(champion.number) if champion else {}
        self._accuracy.update(champion, records)

    @contextmanager
    def _archive_of(self, version: Version) -> Iterator[Callable[[], Path]]:
        """A function that fetches the version's archive into a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="binwatch-fetch-") as folder:
            yield lambda: signed_archive.fetch(self._registry, version.run_id, Path(folder), self._trusted)
