"""The promoter: makes TorchServe follow the registry's alias ``champion``, and moves that alias.

``round`` is the whole of it, and safe to run again after a kill at any point. One promoter at a time does it:

1. The alias was moved and a kill prevented the record: write it. ``previous`` follows from the records.
2. TorchServe does not serve the champion (it came up empty, a promotion was cut off, or somebody loaded another
   version): load it, try it, switch to it. Its archive in the store is damaged or gone: fetch it again.
3. The champion is new, its status still ``approved``: look how it does. After a while without a fault it is
   ``promoted``, and the rest is drained and unloaded; a fault makes it ``rolled-back``, and ``previous`` the champion.
4. A version carries no decision yet: the gate decides, from what its run recorded.
5. A version waits as ``approved``: load it beside the champion, try it with its golden photos,
   move the alias, then as in 2 and 3. A failed canary makes it ``rejected``; the champion serves on.
6. ``accuracy.json`` says the accuracy of what is deployed, 0.1 where nothing is.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Protocol

from serve.errors import ArchiveError, BinwatchError, CanaryError, DataError
from serve.rollout.probation import Observation
from trainer.artifacts import EVALUATION
from trainer.evaluation import gate
from trainer.evaluation.evaluate import Evaluation, from_json
from trainer.evaluation.policy import DEFAULT, UNDEPLOYED_ACCURACY, GatePolicy
from trainer.promotion import decisions
from trainer.promotion.settle import record_champion
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.registry.versions import CHAMPION, Status, Version

log = logging.getLogger(__name__)

WATCHED = "watched"
LOOK_S = 1.0
"""Between two looks at a new champion."""


class Server(Protocol):
    """What the promoter needs of a server; ``serve.rollout.Rollout`` is the real one."""

    def hold(self) -> AbstractContextManager[None]:
        """Keep other promoters away."""

    def serving(self) -> str | None:
        """The version that answers, if one does."""

    def keep(self, version: str, fetch: Callable[[], Path]) -> None:
        """Have a version's archive at hand; ``fetch`` gives it where it is missing or damaged."""

    def load(self, version: str, fetch: Callable[[], Path]) -> None:
        """Load a version beside the others; ``fetch`` gives its archive."""

    def canary(self, version: str) -> None:
        """Try a loaded version. Raises CanaryError."""

    def switch(self, version: str) -> None:
        """Let a loaded version answer."""

    def observe(self, version: str) -> Observation:
        """Look how the version that answers does."""

    def retire(self, version: str, spare: str | None) -> None:
        """Drain and unload all others; the archive of ``spare`` stays at hand."""

    def discard(self, version: str) -> None:
        """Unload a version that does not answer."""


@dataclass(frozen=True)
class PromotionOutcome:
    """What a round did: ``promoted``, ``rejected``, ``rolled-back``, ``restored``, ``nothing``; ``watched`` where a
    version answers and is still watched."""

    did: str
    version: str
    reason: str


class Promoter:
    """Joins a registry, a server and the file that says the deployed accuracy."""

    def __init__(
        self,
        registry: Registry,
        server: Server,
        accuracy_file: Path,
        policy: GatePolicy = DEFAULT,
        trusted: Path | None = None,
    ) -> None:
        """``trusted``: whose archives are taken (trainer/fetching.py)."""
        self._registry = registry
        self._trusted = trusted
        self._policy = policy
        self._server = server
        self._accuracy_file = accuracy_file

    def reconcile(self) -> PromotionOutcome:
        """Rounds until no version is watched any more. Raises as ``round`` does."""
        while (outcome := self.reconcile_once()).did == WATCHED:
            time.sleep(LOOK_S)
        return outcome

    def reconcile_once(self, idle: Callable[[], object] | None = None) -> PromotionOutcome:
        """One round, and then ``idle``, while no other promoter works.

        Raises TrackingError or ServerError; the next round goes on where this one stopped.
        """
        with self._server.hold():
            champion = self._registry.alias(CHAMPION)
            outcome = self._follow(champion) if champion else None
            if outcome is None or outcome.did == "restored":
                waiting = self._next(champion)
                outcome = self._promote(waiting) if waiting else outcome
            self._write_accuracy()
            if idle:
                idle()
        return outcome or PromotionOutcome(
            "nothing", champion.number if champion else "", "nothing waits to be promoted"
        )

    def roll_back(self, reason: str) -> PromotionOutcome:
        """Return to the version before, now. Raises DataError where there is none."""
        with self._server.hold():
            champion = self._registry.alias(CHAMPION)
            if champion is None:
                raise DataError("nothing is deployed, so there is nothing to roll back")
            previous = record_champion(self._registry, champion)
            if previous is None:
                raise DataError(f"no version served before version {champion.number}, which serves on")
            outcome = self._return(champion, previous, reason)
            self._write_accuracy()
        return outcome

    def promote(self, version: str) -> PromotionOutcome:
        """Reconcile, for a pipeline in this process that waits for ``version``."""
        outcome = self.reconcile()
        found = self._registry.version(version)
        return outcome if outcome.version == version else PromotionOutcome(found.status, version, found.reason)

    def _next(self, champion: Version | None) -> Version | None:
        """The newest approved version. Approvals against another champion than today's are withdrawn."""
        now = champion.number if champion else ""
        for version in self._registry.versions():
            if not version.status and int(version.number) > int(now or 0):
                version = self._decide(version, champion)
            if version.status != Status.APPROVED or version.number == now:
                continue
            if version.compared_with == now:
                return version
            was = version.compared_with or "none"
            reason = f"it was compared with version {was}, but the champion is version {now}; run the pipeline again"
            self._registry.mark(version.number, Status.REFUSED, reason)
        return None

    def _decide(self, version: Version, champion: Version | None) -> Version:
        """Let the gate decide, from the answers that the two runs recorded: never of different photos."""
        now = champion.number if champion else ""
        try:
            with self._registry.run(f"gate of version {version.number}") as run:
                sides = [decisions.evaluated(self._registry, each.run_id) for each in (version, champion) if each]
                decision = gate.decide(sides[0], sides[1] if champion else None, self._policy)
                decisions.record(run, decision, replace(version, compared_with=now))
            status, reason = verdict(decision)
        except DataError as error:  # registered by hand: one that cannot be judged must not hold up the others
            status, reason = Status.REFUSED, f"its run or the champion's has no usable answers: {error}"
        self._registry.mark(version.number, status, reason, now)
        return self._registry.version(version.number)

    def _promote(self, version: Version) -> PromotionOutcome:
        try:
            with self._archive_of(version) as fetch:
                self._server.load(version.number, fetch)
            self._server.canary(version.number)
        except (CanaryError, ArchiveError) as error:
            self._server.discard(version.number)
            self._registry.mark(version.number, Status.REJECTED, str(error))
            return PromotionOutcome("rejected", version.number, str(error))
        self._registry.set_champion(version.number)
        return self._follow(version) or PromotionOutcome("promoted", version.number, version.reason)

    def _follow(self, champion: Version) -> PromotionOutcome | None:
        """Make the server serve the champion, and nothing else once it is no longer watched; says what it did."""
        previous = record_champion(self._registry, champion)
        if champion.status == Status.ROLLED_BACK and previous:  # the rollback was cut off
            return self._return(champion, previous, champion.reason)
        try:
            followed = self._serve(champion)
        except CanaryError as error:
            if champion.status == Status.PROMOTED or not previous:
                raise
            return self._return(champion, previous, str(error))
        if champion.status != Status.PROMOTED:
            return self._watch(champion, previous)
        self._server.retire(champion.number, previous.number if previous else None)
        return (
            None if followed else PromotionOutcome("restored", champion.number, "TorchServe did not serve the champion")
        )

    def _serve(self, champion: Version) -> bool:
        """Make the server answer with the champion; says whether it did already."""
        with self._archive_of(champion) as fetch:
            if self._server.serving() == champion.number:
                self._server.keep(champion.number, fetch)
                return True
            self._server.load(champion.number, fetch)
        self._server.canary(champion.number)
        self._server.switch(champion.number)
        return False

    def _watch(self, champion: Version, previous: Version | None) -> PromotionOutcome:
        """Look at a champion that is new; without a version to return to it is not watched."""
        seen = self._server.observe(champion.number)
        if seen.fault and previous:
            return self._return(champion, previous, seen.fault)
        if previous and not seen.over:
            return PromotionOutcome(WATCHED, champion.number, seen.said)
        log.info("version %s was watched for %s", champion.number, seen.said)
        self._server.retire(champion.number, previous.number if previous else None)
        self._registry.mark(champion.number, Status.PROMOTED, champion.reason)
        return PromotionOutcome("promoted", champion.number, champion.reason)

    def _return(self, version: Version, previous: Version, reason: str) -> PromotionOutcome:
        """From the champion ``version`` to the one before it, which must load and pass its canary first."""
        with self._archive_of(previous) as fetch:
            self._server.load(previous.number, fetch)
        self._server.canary(previous.number)
        self._registry.mark(version.number, Status.ROLLED_BACK, reason)
        self._registry.set_champion(previous.number)
        self._server.switch(previous.number)
        before = record_champion(self._registry, previous)
        self._server.retire(previous.number, before.number if before else None)
        return PromotionOutcome("rolled-back", version.number, reason)

    def _write_accuracy(self) -> None:
        champion = self._registry.alias(CHAMPION)
        version = champion.number if champion else None
        if _recorded_version(self._accuracy_file) == {"version": version}:
            return
        accuracy = self._evaluation(champion).accuracy if champion else UNDEPLOYED_ACCURACY
        partial = self._accuracy_file.with_suffix(".partial")
        partial.write_text(json.dumps({"accuracy": accuracy, "version": version}))
        partial.replace(self._accuracy_file)

    def _evaluation(self, version: Version) -> Evaluation:
        return from_json(self._registry.read_text(version.run_id, EVALUATION) or "{}")

    @contextmanager
    def _archive_of(self, version: Version) -> Iterator[Callable[[], Path]]:
        with tempfile.TemporaryDirectory(prefix="binwatch-fetch-") as folder:
            yield lambda: fetch(self._registry, version.run_id, Path(folder), self._trusted)


def watch(
    promoter: Promoter, heartbeat: Path, interval_s: float, stop: Event, scale: Callable[[], object] | None = None
) -> None:
    """A round every ``interval_s`` seconds until ``stop``; touch ``heartbeat`` after each good one.

    ``scale`` is called after each, when no promotion is under way. A round that fails is reported and
    tried again: what it left half done, the next one finishes.
    """

    def idle() -> None:
        heartbeat.touch()
        if scale:
            scale()

    while not stop.is_set():
        wait_s = interval_s
        try:
            outcome = promoter.reconcile_once(idle)
            if outcome.did == WATCHED:
                wait_s = min(LOOK_S, interval_s)
            elif outcome.did != "nothing":
                log.info("%s version %s: %s", outcome.did, outcome.version, outcome.reason)
        except BinwatchError as error:
            log.warning("%s; trying again in %.0f s", error, interval_s)
        stop.wait(wait_s)


def verdict(decision: gate.Decision) -> tuple[str, str]:
    """Status and reason to mark a version with."""
    return Status.APPROVED if decision.promote else Status.REFUSED, "; ".join(decision.reasons)


def _recorded_version(path: Path) -> dict[str, str | None] | None:
    """The version that ``accuracy.json`` speaks of, None where the file is missing or damaged."""
    try:
        return {"version": json.loads(path.read_text())["version"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
