"""The steps that swap a model in TorchServe without dropping a request.

    load      beside the old version, from an archive stamped with the new one
    canary    the golden photos through the versioned URL must give the answers promised
    switch    make it the default
    retire    let the other versions finish what they hold, then unload them
    resize    more or fewer workers for the version that answers

Each step can be run again: what is done already is left as it is. Unloading a version that still
holds requests hangs them and gives a 500, hence the drain.

TorchServe takes a worker away by killing it, with what it holds: of eight times under load, three cost a request. So
before it loses a worker, a version is relieved by a stand-in, a second copy of itself that TorchServe knows as
version "N.0" and that answers, as N, for the seconds in between.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from serve import archive, capture, links
from serve.errors import CanaryError, PhotoError, RefusedError
from serve.torchserve import BATCHING, MODEL, Inference, Loaded, Management

POLL_S = 0.1
LINGER_S = 1.5 * capture.FLUSH_S
"""How long a worker that holds no request any more is left alone: what it captured last is not on the disk before."""
STAND_IN = ".0"
"""What is appended to a version for the copy that relieves it."""


class Rollout:
    """The server side of a promotion: a TorchServe and its model store."""

    def __init__(self, inference: Inference, management: Management, store: Path, workers: int = 1) -> None:
        """``workers``: how many a version starts with."""
        self._inference = inference
        self._management = management
        self.store = store
        self.workers = workers

    def serving(self) -> str | None:
        """The version that answers requests without a version, if its workers are ready."""
        return next((each.version for each in self._management.loaded() if each.default and each.ready), None)

    def load(self, version: str, fetch: Callable[[], Path]) -> None:
        """Load ``version``; ``fetch`` gives its archive and is called only where the store lacks it.

        Raises CanaryError where TorchServe cannot start it, ServerError where it does not answer.
        """
        if not self._path(version).is_file():
            archive.stamp(fetch(), self._path(version), version)
        found = self._find(version)
        if found and found.ready:
            return
        if found:  # registered, but its workers are gone
            self._management.unregister(version)
        try:
            self._management.register(self._path(version).name, self.workers)
        except RefusedError as error:
            self._path(version).unlink()  # damaged, perhaps: the next try fetches it again
            raise CanaryError(f"version {version} does not load: {error}") from error

    def canary(self, version: str) -> None:
        """Ask ``version`` about its golden photos. Raises CanaryError where an answer is off."""
        path = self._path(version)
        manifest = archive.manifest_of(path)
        photos = archive.golden_photos(path)
        if not photos:
            raise CanaryError(f"version {version} has no golden photo to be tried with")
        for number, (photo, _) in enumerate(photos):
            try:
                answer = self._inference.predict(photo, version, probe=True)
            except (RefusedError, PhotoError) as error:
                raise CanaryError(f"version {version} does not answer golden photo {number}: {error}") from error
            try:
                off = min(_furthest(answer["probabilities"].values(), each) for each in manifest.promised(number))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CanaryError(f"version {version} answers golden photo {number} with {answer!r:.200}") from error
            if off > manifest.tolerance or answer.get("model_version") != version:
                raise CanaryError(
                    f"version {version} answers golden photo {number} with probabilities {off:.3f} off "
                    f"(at most {manifest.tolerance} allowed), as version {answer.get('model_version')}"
                )

    def switch(self, version: str) -> None:
        """Make ``version`` the one that answers."""
        self._management.set_default(version)

    def resize(self, version: str, workers: int) -> None:
        """Give the version that answers so many workers, without dropping a request.

        Cut off anywhere, it is finished by the promoter's next round, which finds a version too many.
        """
        found = self._find(version)
        self.workers = workers
        if not found or workers >= found.workers:
            self._management.scale(version, workers)
            return
        self.load(version + STAND_IN, lambda: self._path(version))
        self.switch(version + STAND_IN)
        self._drain(found)
        self._management.scale(version, workers)
        self.switch(version)
        self.retire(version)

    def retire(self, keep: str) -> None:
        """Unload every version but ``keep`` once it holds no request, and drop its archive from the store."""
        for each in self._management.loaded():
            if each.version != keep:
                self._drain(each)
                self.discard(each.version)
        for path in self.store.glob(f"*{MODEL}-*.mar*"):  # cut-off copies too
            if path != self._path(keep):
                path.unlink()

    def discard(self, version: str) -> None:
        """Unload a version that others do not depend on, and drop its archive from the store."""
        if self._find(version):
            self._management.unregister(version)
        self._path(version).unlink(missing_ok=True)

    def _drain(self, old: Loaded, timeout_s: float = 60.0) -> None:
        """Wait until ``old`` holds no request: none queued, and every worker done with what it had."""
        deadline = time.monotonic() + timeout_s
        while (found := self._find(old.version)) and found.pending and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not found or not found.ready or not self._path(old.version).is_file():
            return
        photo, _ = archive.golden_photos(self._path(old.version))[0]
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

    def _path(self, version: str) -> Path:
        return self.store / f"{MODEL}-{version}.mar"


def _furthest(found: Iterable[float], promised: Iterable[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, promised, strict=True))
