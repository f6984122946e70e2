"""Runs in MLflow, read and started. What is written to one is in ``trainer/registry/tracked_run.py``."""

import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from serve.errors import DataError, TrackingError
from serve.settings import read
from serve.settings.common import RevisionSettings
from trainer.artifacts import RECOVERS_TAG
from trainer.registry.artifact_store import RunArtifacts
from trainer.registry.entities import RunInfo
from trainer.registry.mlflow_client import ABSENT, connect, create_if_absent
from trainer.registry.tracked_run import TrackedRun

log = logging.getLogger(__name__)

EXPERIMENT = "binwatch"
RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
MAX_TEXT = 256 * 1024**2
"""Largest artifact, in bytes, that is read as text; predictions of 100,000 photos have 30 MB, with records 50."""
MAX_TIME_MS = 253_402_300_799_000
"""The end of the year 9999, which is the last that Python can print."""


class RunStore:
    """The runs of one experiment on one MLflow server. Nothing is requested before it is needed.

    Raises TrackingError when MLflow does not answer, DataError for a run that it does not have, or whose artifacts are
    not its own.
    """

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        self.uri = uri
        self._client = connect(uri)
        self._experiment_name = experiment
        self._experiment_id = ""
        self._unended: dict[str, str] = {}

    @property
    def _experiment(self) -> str:
        self._experiment_id = self._experiment_id or _experiment(self._client, self._experiment_name)
        return self._experiment_id

    @contextmanager
    def run(
        self,
        name: str,
        parent: str | None = None,
        resume_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[TrackedRun]:
        """A run that is FINISHED when the block ends, FAILED when it raises, KILLED when interrupted.

        ``parent``: the run that it is nested in; ``resume_run_id``: an interrupted run, to resume instead of creating
        one; ``tags``: of a new run.
        """
        self.end_unended()
        tags = {MLFLOW_RUN_NAME: name, **_git_tags(), **(tags or {})}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        if resume_run_id:
            self._client.update_run(resume_run_id, "RUNNING")
            started = self._client.get_run(resume_run_id)
        else:
            started = self._create_run(name, tags)
        run = TrackedRun(self._client, self.uri, started)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self._end_run(run.id, status)

    def _create_run(self, name: str, tags: Mapping[str, str]) -> Run:
        """Create a run, in an experiment that is created or restored where somebody has deleted it."""
        try:
            return self._client.create_run(self._experiment, tags=dict(tags), run_name=name)
        except TrackingError as error:
            if error.code not in (*ABSENT, "INVALID_STATE"):
                raise
            self._experiment_id = ""
            return self._client.create_run(self._experiment, tags=dict(tags), run_name=name)

    def _end_run(self, run_id: str, status: str) -> None:
        """End a run; if MLflow does not answer, the next run ends it. A failure keeps its own reason."""
        try:
            self._client.set_terminated(run_id, status)
        except TrackingError as error:
            self._unended[run_id] = status
            if status == "FINISHED":
                raise
            log.warning("run %s is not ended yet: %s", run_id, error)

    def end_unended(self) -> None:
        """End the runs that could not be ended while MLflow was away."""
        for run_id, status in tuple(self._unended.items()):
            try:
                self._client.set_terminated(run_id, status)
            except TrackingError as error:
                if error.code not in ABSENT:  # deleted meanwhile
                    raise
            del self._unended[run_id]

    def find_run(self, name: str) -> tuple[str, dict[str, str]] | None:
        """The newest run with this name, if any: its id and its tags."""
        page = self._client.search_runs([self._experiment], f"attributes.run_name = '{name}'", max_results=1)
        return (page[0].info.run_id, dict(page[0].data.tags)) if page else None

    def runs(self, query: str = "") -> list[RunInfo]:
        """The runs that match an MLflow query, newest first."""
        matches: list[RunInfo] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                query,
                max_results=1000,
                page_token=token,
                order_by=["attributes.start_time DESC"],
            )
            matches += [_run_info(run) for run in page]
            if not page.token or page.token == token:
                return matches
            token = page.token

    def nested(self, parent: str) -> list[RunInfo]:
        """The runs nested in ``parent``, newest first."""
        return self.runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'")

    def reopen_run(self, run_id: str) -> TrackedRun:
        """A run that has ended, to log more to it; its status stays."""
        return TrackedRun(self._client, self.uri, self._find(run_id))

    def undelete(self, run_id: str) -> None:
        """Restore a run that was deleted on MLflow's page and is not gone for good yet."""
        run = self._find(run_id)
        if run.info.lifecycle_stage == "deleted":
            log.warning("run %s was deleted in MLflow; it is restored", run_id)
            self._client.restore_run(run.info.run_id)

    def replace_run(self, run_id: str, name: str) -> TrackedRun:
        """A run to log to: itself, or, where it is gone for good, one that is read in its place from now on."""
        try:
            return self.reopen_run(run_id)
        except DataError:
            with self.run(name, tags={RECOVERS_TAG: run_id}) as replacement:
                return replacement

    def _find(self, run_id: str) -> Run:
        """A run, or the one that was made in its place."""
        if RUN_ID.fullmatch(run_id):
            try:
                return self._client.get_run(run_id)
            except TrackingError as error:
                if error.code not in ABSENT:
                    raise
            replacements = self._client.search_runs([self._experiment], f"tags.`{RECOVERS_TAG}` = '{run_id}'")
            if replacements:
                return replacements[0]
        raise DataError(f"MLflow has no run {run_id!r}: it was deleted, or never was; run the pipeline again")

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(self._find(run_id).data.tags)

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters of a run."""
        return dict(self._find(run_id).data.params)

    def address(self, run_id: str) -> str:
        """The address of a run's page in the MLflow UI."""
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment}/runs/{run_id}"

    def end(self, run_id: str, status: str) -> None:
        """End a run whose process could not end it; ``status`` as in MLflow, such as FINISHED."""
        self._client.set_terminated(run_id, status)

    def end_orphans(self, parent: str) -> None:
        """End the nested runs of ``parent`` that are still RUNNING as KILLED, after their process died."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' AND attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], query):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def artifacts(self, run_id: str, folder: str | None = None) -> dict[str, int]:
        """The files of a run, or of one of its folders, with their sizes in bytes."""
        return self._artifacts(run_id).sizes(folder)

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Delete a file or a folder of a run for good; idempotent."""
        self._artifacts(run_id).delete(name)

    def download(self, run_id: str, name: str, folder: Path) -> Path:
        """Download one artifact of a run into ``folder``."""
        return self._artifacts(run_id).download(name, folder)

    def read_text(self, run_id: str, name: str) -> str | None:
        """The text of a small artifact at the run's top level; None where there is none with this name.

        Raises DataError where it is no text, or too large.
        """
        artifacts = self._artifacts(run_id)
        file = next((file for file in artifacts.list() if file.path == name), None)
        if file is None:
            return None
        if file.is_dir or int(file.file_size or 0) > MAX_TEXT:
            kind = "a folder" if file.is_dir else f"a file of {file.file_size} bytes"
            raise DataError(f"{name} of run {run_id} is {kind}, not a text of at most {MAX_TEXT} bytes")
        with tempfile.TemporaryDirectory() as folder:
            try:
                return artifacts.download(name, Path(folder)).read_text("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{name} of run {run_id} is not text in UTF-8: {error}") from error

    def _artifacts(self, run_id: str) -> RunArtifacts:
        return RunArtifacts(self.uri, self._find(run_id))


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of an experiment, which is created where there is none, and restored where it was deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        create_if_absent(client.create_experiment, name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise TrackingError(f"MLflow does not list its experiment {name}, which it says it has")
    if experiment.lifecycle_stage == "deleted":
        log.warning("the experiment %s was deleted in MLflow; it is restored", name)
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _run_info(run: Run) -> RunInfo:
    tags, info = dict(run.data.tags), run.info
    return RunInfo(
        id=info.run_id,
        name=info.run_name or "",
        status=info.status,
        parent=tags.get(MLFLOW_PARENT_RUN_ID, ""),
        started_s=_seconds(info.start_time),
        ended_s=_seconds(info.end_time),
        tags=tags,
    )


def _seconds(time_ms: int | None) -> float:
    return min(max(time_ms or 0, 0), MAX_TIME_MS) / 1000


def _git_tags() -> dict[str, str]:
    """The git revision, from BINWATCH_REVISION (images have no .git) or from git."""
    revision = read(RevisionSettings, os.environ).revision
    if not revision:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        try:
            revision = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return {}
    return {"mlflow.source.git.commit": revision}
