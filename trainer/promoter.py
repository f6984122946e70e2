"""The promoter: makes TorchServe follow the registry's alias ``champion``, and moves that alias.

``reconcile`` is the whole of it, and safe to run again after a crash at any point:

1. TorchServe does not serve the champion (it came up empty, or a promotion was cut off):
   load it, try it, switch to it, drain and unload the rest.
2. A version carries no decision yet: the gate decides, from what its run recorded.
3. A version waits as ``approved``: load it beside the champion, try it with its golden photos,
   move the alias, then as in 1. A failed canary makes it ``rejected``; the champion serves on.
4. ``accuracy.json`` says the accuracy of what is deployed, 0.1 where nothing is.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Protocol

from serve.errors import ArchiveError, BinwatchError, CanaryError, DataError
from trainer import decisions, gate, tracking
from trainer.evaluate import Evaluation, from_json
from trainer.job import ARCHIVE, EVALUATION
from trainer.policy import DEFAULT, Policy
from trainer.tracking import Tracking, Version

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the promoter needs of a server; ``serve.rollout.Rollout`` is the real one."""

    def serving(self) -> str | None:
        """The version that answers, if one does."""

    def load(self, version: str, fetch: Callable[[], Path]) -> None:
        """Load a version beside the others; ``fetch`` gives its archive."""

    def canary(self, version: str) -> None:
        """Try a loaded version. Raises CanaryError."""

    def switch(self, version: str) -> None:
        """Let a loaded version answer."""

    def retire(self, keep: str) -> None:
        """Drain and unload the others."""

    def discard(self, version: str) -> None:
        """Unload a version that does not answer."""


@dataclass(frozen=True)
class Outcome:
    """What a reconciliation did: ``promoted``, ``rejected``, ``refused``, ``restored`` or ``nothing``."""

    did: str
    version: str
    reason: str


class Promoter:
    """Joins a registry, a server and the file that says the deployed accuracy."""

    def __init__(
        self, registry: Tracking, server: Server, accuracy_file: Path, policy: Policy = DEFAULT
    ) -> None:  # fmt: skip
        self._registry = registry
        self._policy = policy
        self._server = server
        self._accuracy_file = accuracy_file

    def reconcile(self) -> Outcome:
        """One round. Raises TrackingError or ServerError; the next round goes on where this one stopped."""
        champion = self._registry.alias(tracking.CHAMPION)
        outcome = self._follow(champion) if champion else None
        waiting = self._next(champion)
        if waiting:
            outcome = self._promote(waiting)
        self._write_accuracy()
        return outcome or Outcome("nothing", champion.number if champion else "", "nothing waits to be promoted")

    def promote(self, version: str) -> Outcome:
        """Reconcile, for a pipeline in this process that waits for ``version``."""
        outcome = self.reconcile()
        found = self._registry.version(version)
        return outcome if outcome.version == version else Outcome(found.status, version, found.reason)

    def _next(self, champion: Version | None) -> Version | None:
        """The newest approved version. Approvals against another champion than today's are withdrawn."""
        now = champion.number if champion else ""
        for version in self._registry.versions():
            if not version.status and int(version.number) > int(now or 0):
                version = self._decide(version, champion)
            if version.status != tracking.APPROVED or version.number == now:
                continue
            if version.compared_with == now:
                return version
            was = version.compared_with or "none"
            reason = f"it was compared with version {was}, but the champion is version {now}; run the pipeline again"
            self._registry.mark(version.number, tracking.REFUSED, reason)
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
            status, reason = tracking.REFUSED, f"its run or the champion's has no usable answers: {error}"
        self._registry.mark(version.number, status, reason, now)
        return self._registry.version(version.number)

    def _promote(self, version: Version) -> Outcome:
        try:
            with self._archive_of(version) as fetch:
                self._server.load(version.number, fetch)
            self._server.canary(version.number)
        except (CanaryError, ArchiveError) as error:
            self._registry.mark(version.number, tracking.REJECTED, str(error))
            self._server.discard(version.number)
            return Outcome("rejected", version.number, str(error))
        self._registry.crown(version.number)
        self._follow(self._registry.version(version.number))
        return Outcome("promoted", version.number, version.reason)

    def _follow(self, champion: Version) -> Outcome | None:
        """Make the server serve the champion and nothing else; says so where it did not."""
        followed = self._server.serving() == champion.number
        if not followed:
            with self._archive_of(champion) as fetch:
                self._server.load(champion.number, fetch)
            self._server.canary(champion.number)
            self._server.switch(champion.number)
        self._server.retire(champion.number)
        if champion.status != tracking.PROMOTED:
            self._registry.mark(champion.number, tracking.PROMOTED, champion.reason)
        return None if followed else Outcome("restored", champion.number, "TorchServe did not serve the champion")

    def _write_accuracy(self) -> None:
        champion = self._registry.alias(tracking.CHAMPION)
        version = champion.number if champion else None
        if _recorded_version(self._accuracy_file) == {"version": version}:
            return
        accuracy = self._evaluation(champion).accuracy if champion else gate.UNDEPLOYED_ACCURACY
        partial = self._accuracy_file.with_suffix(".partial")
        partial.write_text(json.dumps({"accuracy": accuracy, "version": version}))
        partial.replace(self._accuracy_file)

    def _evaluation(self, version: Version) -> Evaluation:
        return from_json(self._registry.read_text(version.run_id, EVALUATION) or "{}")

    @contextmanager
    def _archive_of(self, version: Version) -> Iterator[Callable[[], Path]]:
        with tempfile.TemporaryDirectory(prefix="binwatch-fetch-") as folder:
            yield lambda: self._registry.download(version.run_id, ARCHIVE, Path(folder))


def watch(
    promoter: Promoter, heartbeat: Path, interval_s: float, stop: Event, scale: Callable[[], object] | None = None
) -> None:
    """Reconcile every ``interval_s`` seconds until ``stop``; touch ``heartbeat`` after each good round.

    ``scale`` is called between two rounds, when no promotion is under way. A round that fails is reported and
    tried again: what it left half done, the next one finishes.
    """
    while not stop.is_set():
        try:
            outcome = promoter.reconcile()
            heartbeat.touch()
            if outcome.did != "nothing":
                log.info("%s version %s: %s", outcome.did, outcome.version, outcome.reason)
            if scale:
                scale()
        except BinwatchError as error:
            log.warning("%s; trying again in %.0f s", error, interval_s)
        stop.wait(interval_s)


def verdict(decision: gate.Decision) -> tuple[str, str]:
    """Status and reason to mark a version with."""
    return tracking.APPROVED if decision.promote else tracking.REFUSED, "; ".join(decision.reasons)


def _recorded_version(path: Path) -> dict[str, str | None] | None:
    """The version that ``accuracy.json`` speaks of, None where the file is missing or damaged."""
    try:
        return {"version": json.loads(path.read_text())["version"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
