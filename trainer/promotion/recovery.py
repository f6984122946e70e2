"""What is lost comes back from the model store: the model to TorchServe, the champion's artifacts to MLflow.

The store holds the archive of the version that serves, with its signature, which is verified with the promoter's own
keys before anything is done with it. So TorchServe can be restarted while MLflow is away, and whoever deletes runs or
artifacts in MLflow stops neither the champion nor the pipeline, which evaluates it again with each challenger.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serve.errors import ArchiveError, CanaryError, DataError, TrackingError
from serve.rollout.model_store import StoredVersion
from trainer.artifacts import ARCHIVE, ARCHIVE_FOLDER, EVALUATION, PREDICTIONS, REFERENCE
from trainer.promotion.notices import Notices
from trainer.promotion.server import Server
from trainer.registry import signed_archive
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry

log = logging.getLogger(__name__)

CHECK_S = 60.0
"""Time between two checks of whether MLflow still has the champion's artifacts."""
RECORDS = (EVALUATION, PREDICTIONS, REFERENCE)


class Recovery:
    """Restores TorchServe from the model store, and MLflow from the model store. ``clock``: in seconds."""

    def __init__(
        self,
        registry: Registry,
        server: Server,
        trusted: Path | None,
        notices: Notices,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._server, self._trusted = registry, server, trusted
        self._notices, self._clock = notices, clock
        self._checked: dict[str, float] = {}

    def restore_server(self) -> StoredVersion | None:
        """Serve the version that was switched to last, unless one serves; None where none can be served.

        Asks nothing of MLflow. Raises ServerError where TorchServe does not answer.
        """
        stored, serving = self._server.archives.serving(), self._server.serving()
        if serving is not None:
            return StoredVersion(version=serving, run_id=self._server.archives.run_of(serving))
        if stored is None:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="binwatch-restore-") as folder:
                archive = self._verified(stored, Path(folder))
                self._server.archives.put(stored.version, archive, stored.run_id)
                self._server.load(stored.version, lambda: archive, stored.run_id)
            self._server.canary(stored.version)
        except (ArchiveError, CanaryError, DataError) as error:
            self._notices.warn("restore", f"version {stored.version} cannot be restored from the model store: {error}")
            return None
        self._server.switch(stored.version)
        self._notices.clear("restore")
        log.info("version %s was restored from the model store", stored.version)
        return stored

    def check_artifacts(self, champion: Version) -> None:
        """Give MLflow back what it has lost of the champion's artifacts, and store what the store lacks.

        Looks once a minute. What cannot be given back is logged once; the champion serves on all the same.
        """
        if self._clock() - self._checked.get(champion.run_id, -CHECK_S) < CHECK_S:
            return
        self._checked = {champion.run_id: self._clock()}
        try:
            self._restore_artifacts(champion)
        except (ArchiveError, DataError, TrackingError) as error:
            self._notices.warn(
                "artifacts", f"MLflow has lost artifacts of version {champion.number}, which serves on: {error}"
            )
        else:
            self._notices.clear("artifacts")

    def _restore_artifacts(self, champion: Version) -> None:
        names = self._names(champion)
        records = self._server.archives.records(champion.number)
        if not records and names >= {EVALUATION, PREDICTIONS}:
            self._remember_records(champion)
        lost = {ARCHIVE, signed_archive.SIGNATURE, *records} - names
        if self._trusted is None:
            lost.discard(signed_archive.SIGNATURE)
        if not lost:
            return
        with tempfile.TemporaryDirectory(prefix="binwatch-restore-") as folder:
            archive = self._verified(StoredVersion(version=champion.number, run_id=champion.run_id), Path(folder))
            run = self._registry.replace_run(champion.run_id, f"recovered version {champion.number}")
            for name in sorted(lost & set(records)):
                run.log_text(records[name], name)
            if signed_archive.SIGNATURE in lost:
                run.log_file(archive.with_name(Path(signed_archive.SIGNATURE).name), ARCHIVE_FOLDER)
            if ARCHIVE in lost:
                run.log_file(archive, ARCHIVE_FOLDER)
        log.warning("MLflow had lost artifacts of version %s, which were restored: %s", champion.number, sorted(lost))

    def _names(self, champion: Version) -> set[str]:
        """The artifacts that MLflow has of the champion's run; none where the run itself is gone."""
        try:
            self._registry.undelete(champion.run_id)
            return set(self._registry.artifacts(champion.run_id))
        except DataError:
            return set()

    def _remember_records(self, champion: Version) -> None:
        texts = {name: self._registry.read_text(champion.run_id, name) for name in RECORDS}
        self._server.archives.remember_records(champion.number, {name: text for name, text in texts.items() if text})

    def _verified(self, stored: StoredVersion, folder: Path) -> Path:
        """The archive as it was signed, from the store. Raises ArchiveError where it is not there, or not trusted."""
        if self._server.archives.run_of(stored.version) != stored.run_id:
            raise ArchiveError(f"the model store has no archive of version {stored.version} from run {stored.run_id}")
        archive = self._server.archives.rebuild(stored.version, folder)
        signed_archive.verify(archive, stored.run_id, self._trusted)
        return archive
