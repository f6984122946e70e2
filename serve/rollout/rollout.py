"""The steps that replace the model in TorchServe without dropping a request.

    load      beside the old version, from an archive stamped with the new one
    canary    the golden photos, sent to the versioned URL, must get the promised answers
    switch    make it the default version
    observe   compare live traffic with that before the switch; the old version stays loaded meanwhile
    retire    drain the other versions, then unload them (``retire_others``)
    resize    change the number of workers of the default version

Each step is idempotent. The archive of the previous version stays in the store, so that a rollback takes no longer than
loading it. TorchServe answers 500 for the requests that a version still holds when it is unloaded, hence the drain.

TorchServe removes a worker by killing it, with the requests that it holds: under load, three of eight scale-downs cost
a request. So before a version loses a worker, a stand-in takes over for a few seconds: a second copy, which TorchServe
knows as version "N.0" and which answers as version N.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from serve import capture, links
from serve.archives.archive import golden_photos
from serve.errors import CanaryError, OverloadedError, PhotoError, RefusedError, ServerError
from serve.rollout import canary, probation
from serve.rollout.model_store import ModelStore
from serve.rollout.probation import Measurement, Observation, Silence, Traffic
from serve.rollout.torchserve_client import BATCHING, Inference, LoadedVersion, Management, Metrics

log = logging.getLogger(__name__)

POLL_S = 0.1
PROBE_TIMEOUT_S = 10.0
"""A version that takes longer to answer a golden photo is considered hung."""
LINGER_S = 1.5 * capture.FLUSH_S
"""How long an idle worker is kept before it is killed, so that its last captured answers reach the disk."""
STAND_IN = ".0"
"""The suffix of the version number of a stand-in."""


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
        archives_url: str = "",
    ) -> None:
        """``workers``: how many a version starts with; ``policy``: the probation after a switch, none by default.

        Probation watches ``metrics`` and golden photos; without metrics, golden photos only. ``archives_url``: where
        TorchServe fetches archives from, if it does not share the folder ``store``.
        """
        self._inference = inference
        self._probing = Inference(inference.url, PROBE_TIMEOUT_S)
        self._management = management
        self.store = store
        self._archives = ModelStore(store)
        self._archives_url = archives_url
        self._metrics = metrics
        self._policy = policy or probation.ProbationPolicy(duration_s=0)
        self._probation: _Probation | None = None
        self._replaced = ""
        self._traffic_at_load: Traffic | None = None
        self.workers = workers

    @property
    def archives(self) -> ModelStore:
        """The model store."""
        return self._archives

    def lock(self) -> AbstractContextManager[None]:
        """Keep other promoters from changing this server; waits for the lock. A kill releases it."""
        return self._archives.lock()

    def serving(self) -> str | None:
        """The default version, if its workers are ready and it was loaded from its archive in the store."""
        versions = self._management.loaded()
        return next((version.version for version in versions if version.default and self._is_serving(version)), None)

    def store_archive(self, version: str, fetch: Callable[[], Path], run_id: str = "") -> None:
        """Make sure that the archive of ``version`` is in the store, undamaged; else store what ``fetch`` returns."""
        self._archives.ensure(version, fetch, run_id)

    def load(self, version: str, fetch: Callable[[], Path], run_id: str = "", replaces: bool = False) -> None:
        """Load ``version``; ``fetch`` returns its archive and is called only if the store lacks it.

        ``run_id``: its training run; a version of that number from another one is replaced, and so is any with
        ``replaces``. Raises CanaryError where TorchServe cannot start it, ServerError where it does not answer.
        """
        replaces = replaces or self._archives.is_of_another_run(version, run_id)
        self._archives.ensure(version, fetch, run_id)
        loaded = self._find(version)
        if loaded and (replaces or not self._is_serving(loaded)):
            self._unload_dead(loaded)
            loaded = None
        try:
            self._start(version, loaded.workers if loaded else 0)
        except RefusedError as error:
            if not loaded:
                with suppress(ServerError):  # else TorchServe keeps restarting its workers
                    self._management.unregister(version)
            raise CanaryError(f"version {version} does not load: {error}") from error

    def canary(self, version: str) -> None:
        """Ask ``version`` about its golden photos. Raises CanaryError where an answer is off."""
        canary.check_all(self._inference, self._archives.path(version), version)

    def switch(self, version: str) -> None:
        """Make ``version`` the default version, and start its probation."""
        now = self._traffic(self._replaced)
        before = now.since(self._traffic_at_load) if now and self._traffic_at_load else None
        self._probation = _Probation(version, before, self._traffic(version))
        self._management.set_default(version)

    def observe(self, version: str) -> Observation:
        """Assess the default version once. Probation starts at the switch; after a restart of the promoter, now."""
        return self.measure(version).assessed(self._policy)

    def measure(self, version: str) -> Measurement:
        """What the probation of the default version is to be assessed by; sends it a golden photo."""
        current = self._probation
        if current is None or current.version != version:
            current = self._probation = _Probation(version, None, self._traffic(version))
        answered = self._probe(current)
        total, start = self._traffic(version), current.start
        now = total.since(start) if total and start else None
        if now is None:  # TorchServe was restarted
            current.start = total
        elapsed_s = time.monotonic() - current.start_s
        return Measurement(
            elapsed_s=elapsed_s, before=current.before, now=now, failures=tuple(current.failures), answered=answered
        )

    def resize(self, version: str, workers: int, announce: Callable[[str], object] | None = None) -> None:
        """Set the number of workers of the default version, without dropping a request.

        ``announce`` is called with the version that answers, and then with ``version`` again; it returns when whoever
        asks for a version by its number knows. If this is interrupted, the promoter's next reconciliation unloads the
        stand-in that is left.
        """
        loaded = self._find(version)
        self.workers = workers
        if not loaded or workers >= loaded.workers:
            self._management.scale(version, workers)
            return
        stand_in = version + STAND_IN
        self.load(stand_in, lambda: self._archives.path(version))
        self._management.set_default(stand_in)
        if announce:
            announce(stand_in)
        self._drain(loaded)
        self._management.scale(version, workers)
        self._management.set_default(version)
        if announce:
            announce(version)
        self._drain_and_unload(stand_in)
        self._archives.delete(stand_in)

    def retire_others(self, version: str, fallback: str | None = None) -> None:
        """Drain and unload every version but ``version``; in the store, the archive of ``fallback`` stays as well."""
        self.unload_others(version)
        self._archives.delete_all_but(version, *filter(None, [fallback]))

    def unload_others(self, version: str) -> None:
        """Drain and unload every version but ``version``."""
        for loaded in self._management.loaded():
            if loaded.version != version:
                self._drain_and_unload(loaded.version)

    def discard(self, version: str) -> None:
        """Unload a version that does not serve, and delete its archive from the store."""
        self.unload(version)
        self._archives.delete(version)

    def unload(self, version: str) -> None:
        """Unload a version that does not serve, without draining it."""
        if self._find(version):
            self._management.unregister(version)

    def has(self, version: str) -> bool:
        """Whether the version is loaded from its archive, with ready workers."""
        loaded = self._find(version)
        return loaded is not None and self._is_serving(loaded)

    def _start(self, version: str, workers: int) -> None:
        """Bring a version from ``workers`` to all its workers.

        They start one after another, because each takes a core from the serving workers while it starts.
        """
        if not workers:
            default = [loaded.version for loaded in self._management.loaded() if loaded.default]
            self._replaced = "".join(default).removesuffix(STAND_IN)
            self._traffic_at_load = self._traffic(self._replaced)
            self._management.register(self._archives_url + self._archives.path(version).name)
        for number in range(workers + 1, self.workers + 1):
            self._management.scale(version, number)

    def _drain_and_unload(self, version: str) -> None:
        loaded = self._find(version)
        if loaded:
            self._drain(loaded)
            self._management.unregister(version)

    def _is_serving(self, loaded: LoadedVersion) -> bool:
        """Whether it has ready workers and runs its archive in the store, not one that was registered by hand."""
        archive = loaded.archive.rpartition("/")[2] if self._archives_url else loaded.archive
        return loaded.ready > 0 and archive == self._archives.path(loaded.version).name

    def _unload_dead(self, dead: LoadedVersion) -> None:
        """Unregister a version that is about to be loaded again.

        TorchServe refuses to unregister the default version unless it is the only one.
        """
        others = [loaded for loaded in self._management.loaded() if loaded.version != dead.version]
        if dead.default and others:
            self._management.set_default(max(others, key=lambda loaded: loaded.ready).version)
        self._management.unregister(dead.version)

    def _probe(self, current: "_Probation") -> bool:
        """Send the next golden photo to the default version, as live traffic; returns whether the answer is right."""
        path, number = self._archives.path(current.version), current.probes
        current.probes += 1
        try:
            canary.check_one(self._probing, path, current.version, number)
        except ServerError as error:
            answered = isinstance(error, CanaryError | RefusedError) and not isinstance(error, OverloadedError)
            if answered or self._hangs(current):
                current.failures.append(str(error))
            return False
        current.silence = None
        return True

    def _hangs(self, current: "_Probation") -> bool:
        """Whether a golden photo got no answer because the model hangs, not because others fill the queue."""
        batches, now_s = self._batches(), time.monotonic()
        if batches is None:  # it is not known whether others are answered
            return True
        if current.silence and current.silence.is_fault(now_s, batches):
            return True
        if current.silence is None or batches != current.silence.batches:
            current.silence = Silence(now_s, batches)
        return False

    def _batches(self) -> float | None:
        """How many batches the workers have answered. None where it is not counted."""
        try:
            return self._metrics.work().batches if self._metrics else None
        except ServerError:
            return None

    def _traffic(self, version: str) -> Traffic | None:
        """What the model of ``version`` did so far. None where it is not counted: that must not block a rollback."""
        if self._metrics is None:
            return None
        try:
            return self._metrics.traffic(version)
        except ServerError as error:
            log.warning("live traffic cannot be read, golden photos are still checked: %s", error)
            return None

    def _drain(self, old: LoadedVersion, timeout_s: float = 60.0) -> None:
        """Wait until ``old`` holds no request: none in its queue, and none in a worker."""
        deadline = time.monotonic() + timeout_s
        while (loaded := self._find(old.version)) and loaded.pending and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not loaded or not loaded.ready or not self._archives.path(old.version).is_file():
            return
        photo, _ = golden_photos(self._archives.path(old.version))[0]
        number = loaded.ready * BATCHING["batch_size"]  # one batch per worker, queued behind what it still holds
        with ThreadPoolExecutor(number) as pool:
            probes = [pool.submit(self._inference.predict, photo, old.version, probe=True) for _ in range(number)]
            for probe in probes:
                with suppress(RefusedError, PhotoError):  # a version that cannot answer holds no request
                    probe.result()
        # A worker cannot be asked whether it is idle: one may have answered every probe while another still waited
        # for S3, so with several of them the longest download is waited for as well.
        time.sleep(LINGER_S + (links.TIMEOUT_S if loaded.ready > 1 else 0))

    def _find(self, version: str) -> LoadedVersion | None:
        return next((loaded for loaded in self._management.loaded() if loaded.version == version), None)


@dataclass
class _Probation:
    """The version that was switched to last: traffic before it, counters at its start, golden photos since."""

    version: str
    before: Traffic | None
    start: Traffic | None
    start_s: float = field(default_factory=time.monotonic)
    probes: int = 0
    failures: list[str] = field(default_factory=list)
    silence: Silence | None = None
