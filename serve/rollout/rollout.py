"""The steps that swap a model in TorchServe without dropping a request.

    load      beside the old version, from an archive stamped with the new one
    canary    the golden photos through the versioned URL must give the answers promised
    switch    make it the default
    observe   for a while, see whether it does as well on live traffic; the old version stays loaded meanwhile
    retire    let the other versions finish what they hold, then unload them
    resize    more or fewer workers for the version that answers

Each step can be run again: what is done already is left as it is. The archive of the version before stays in the store,
so that going back takes no longer than loading it. Unloading a version that still
holds requests hangs them and gives a 500, hence the drain.

TorchServe takes a worker away by killing it, with what it holds: of eight times under load, three cost a request. So
before it loses a worker, a version is relieved by a stand-in, a second copy of itself that TorchServe knows as
version "N.0" and that answers, as N, for the seconds in between.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve import capture, links
from serve.archives.archive import golden_photos
from serve.errors import CanaryError, PhotoError, RefusedError, ServerError
from serve.rollout import canary, probation
from serve.rollout.model_store import ModelStore
from serve.rollout.probation import Observation, Traffic
from serve.rollout.torchserve_client import BATCHING, Inference, Loaded, Management, Metrics

log = logging.getLogger(__name__)

POLL_S = 0.1
PROBE_TIMEOUT_S = 10.0
"""A version that answers a golden photo later than this hangs."""
LINGER_S = 1.5 * capture.FLUSH_S
"""How long a worker that holds no request any more is left alone: what it captured last is not on the disk before."""
STAND_IN = ".0"
"""What is appended to a version for the copy that relieves it."""


class Rollout:
    """The server side of a promotion: a TorchServe and its model store."""

    def __init__(
        self,
        inference: Inference,
        management: Management,
        store: Path,
        workers: int = 1,
        metrics: Metrics | None = None,
        policy: probation.ProbationPolicy | None = None,
    ) -> None:
        """``workers``: how many a version starts with; ``policy``: how long it is watched once it answers, by
        ``metrics`` and golden photos, or without metrics by these alone."""
        self._inference = inference
        self._probing = Inference(inference.url, PROBE_TIMEOUT_S)
        self._management = management
        self.store = store
        self._archives = ModelStore(store)
        self._metrics = metrics
        self._policy = policy or probation.ProbationPolicy()
        self._watched: _Watched | None = None
        self._before: Traffic | None = None
        self.workers = workers

    def hold(self) -> AbstractContextManager[None]:
        """Be the only one who changes this server; waits for another one, and a kill frees it."""
        return self._archives.hold()

    def serving(self) -> str | None:
        """The version that answers requests without a version, if its workers are ready and its archive is ours."""
        return next((each.version for each in self._management.loaded() if each.default and self._answers(each)), None)

    def keep(self, version: str, fetch: Callable[[], Path]) -> None:
        """Have the archive of ``version`` in the store, whole; ``fetch`` gives it where it is not."""
        self._archives.put(version, fetch)

    def load(self, version: str, fetch: Callable[[], Path]) -> None:
        """Load ``version``; ``fetch`` gives its archive and is called only where the store lacks it.

        Raises CanaryError where TorchServe cannot start it, ServerError where it does not answer.
        """
        self._archives.put(version, fetch)
        found = self._find(version)
        if found and not self._answers(found):
            self._make_room(found)
            found = None
        try:
            self._start(version, found.workers if found else 0)
        except RefusedError as error:
            if not found:
                with suppress(ServerError):  # else TorchServe starts its workers again and again
                    self._management.unregister(version)
            raise CanaryError(f"version {version} does not load: {error}") from error

    def canary(self, version: str) -> None:
        """Ask ``version`` about its golden photos. Raises CanaryError where an answer is off."""
        canary.check(self._inference, self._archives.path(version), version)

    def switch(self, version: str) -> None:
        """Make ``version`` the one that answers."""
        now = self._traffic()
        self._management.set_default(version)
        self._watched = _Watched(version, now and self._before and now.since(self._before), now)

    def observe(self, version: str) -> Observation:
        """Look at the version that answers, once. The time counts from the switch; after a restart, from now."""
        watched = self._watched
        if watched is None or watched.version != version:
            watched = self._watched = _Watched(version, None, self._traffic())
        failure = self._probe(watched)
        total, start = self._traffic(), watched.start
        now = total.since(start) if total and start else None
        if now is None:  # TorchServe was started again
            watched.start = total
        elapsed_s = time.monotonic() - watched.at_s
        seen = probation.assess(self._policy, elapsed_s, watched.before, now, tuple(watched.failed))
        return replace(seen, over=seen.over and not failure)

    def resize(self, version: str, workers: int) -> None:
        """Give the version that answers so many workers, without dropping a request.

        Cut off anywhere, it is finished by the promoter's next round, which finds a version too many.
        """
        found = self._find(version)
        self.workers = workers
        if not found or workers >= found.workers:
            self._management.scale(version, workers)
            return
        stand_in = version + STAND_IN
        self.load(stand_in, lambda: self._archives.path(version))
        self._management.set_default(stand_in)
        self._drain(found)
        self._management.scale(version, workers)
        self._management.set_default(version)
        self._relieve(stand_in)
        self._archives.drop(stand_in)

    def retire(self, version: str, spare: str | None = None) -> None:
        """Unload every version but ``version`` once it holds no request; of the archives in the store, that of
        ``spare`` is kept too."""
        for each in self._management.loaded():
            if each.version != version:
                self._relieve(each.version)
        self._archives.keep(version, *filter(None, [spare]))

    def discard(self, version: str) -> None:
        """Unload a version that others do not depend on, and drop its archive from the store."""
        if self._find(version):
            self._management.unregister(version)
        self._archives.drop(version)

    def _start(self, version: str, workers: int) -> None:
        """Have all workers, where there are ``workers``: one after another, as each takes a core from those who
        answer while it starts."""
        if not workers:
            self._before = self._traffic()
            self._management.register(self._archives.path(version).name)
        for number in range(workers + 1, self.workers + 1):
            self._management.scale(version, number)

    def _relieve(self, version: str) -> None:
        found = self._find(version)
        if found:
            self._drain(found)
            self._management.unregister(version)

    def _answers(self, found: Loaded) -> bool:
        """Whether it has workers, and was not loaded by hand from another archive under this number."""
        return found.ready > 0 and found.archive == self._archives.path(found.version).name

    def _make_room(self, dead: Loaded) -> None:
        """Unregister a version that is to be loaded again. TorchServe refuses that for the default, unless it is
        the only one."""
        others = [each for each in self._management.loaded() if each.version != dead.version]
        if dead.default and others:
            self._management.set_default(max(others, key=lambda each: each.ready).version)
        self._management.unregister(dead.version)

    def _probe(self, watched: "_Watched") -> str:
        """Ask the next golden photo as everybody asks; what is wrong, if something is."""
        failure, path = "", self._archives.path(watched.version)
        try:
            canary.check_one(self._probing, path, watched.version, watched.probes)
        except ServerError as error:
            overloaded = watched.before is not None and watched.before.failed_share > self._policy.error_share
            if isinstance(error, CanaryError) or not overloaded:
                failure = str(error)
                watched.failed.append(failure)
        watched.probes += 1
        return failure

    def _traffic(self) -> Traffic | None:
        """None where it is not counted: that must not hold up a way back, and golden photos can still tell."""
        if self._metrics is None:
            return None
        try:
            return self._metrics.traffic()
        except ServerError as error:
            log.warning("live traffic is not watched: %s", error)
            return None

    def _drain(self, old: Loaded, timeout_s: float = 60.0) -> None:
        """Wait until ``old`` holds no request: none queued, and every worker done with what it had."""
        deadline = time.monotonic() + timeout_s
        while (found := self._find(old.version)) and found.pending and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not found or not found.ready or not self._archives.path(old.version).is_file():
            return
        photo, _ = golden_photos(self._archives.path(old.version))[0]
        enough = found.ready * BATCHING["batch_size"]  # for each worker a batch, behind what it still holds
        with ThreadPoolExecutor(enough) as pool:
            probes = [pool.submit(self._inference.predict, photo, old.version, probe=True) for _ in range(enough)]
            for probe in probes:
                with suppress(RefusedError, PhotoError):  # a version that cannot answer holds nothing to wait for
                    probe.result()
        # TorchServe kills its workers, and nobody can ask them; of several, one may have answered every probe while
        # another still waited for S3.
        time.sleep(LINGER_S + (links.TIMEOUT_S if found.ready > 1 else 0))

    def _find(self, version: str) -> Loaded | None:
        return next((each for each in self._management.loaded() if each.version == version), None)


@dataclass
class _Watched:
    """The version that was switched to last: the traffic before, the counters then, and golden photos since."""

    version: str
    before: Traffic | None
    start: Traffic | None
    at_s: float = field(default_factory=time.monotonic)
    probes: int = 0
    failed: list[str] = field(default_factory=list)
