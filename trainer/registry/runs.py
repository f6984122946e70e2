"""Runs in MLflow: writing them while something runs, and reading them afterwards."""

import json
import logging
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.dataset import Dataset as TrackedDataset
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from serve.errors import TrackingError
from serve.settings import read
from serve.settings.common import RevisionSettings
from trainer.registry.entities import RunInfo
from trainer.registry.mlflow_client import connect, create_if_absent, delete_artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

EXPERIMENT = "binwatch"


class RunStore:
    """The runs of one experiment on one MLflow server. Raises TrackingError when it does not answer."""

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        self.uri = uri
        self._client = connect(uri)
        self._experiment = _experiment(self._client, experiment)

    @contextmanager
    def run(
        self,
        name: str,
        parent: str | None = None,
        resume_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator["TrackedRun"]:
        """A run that is FINISHED when the block ends, FAILED when it raises, KILLED when interrupted.

        ``parent``: the run that it is nested in; ``resume_run_id``: an interrupted run, to resume instead of creating
        one; ``tags``: of a new run.
        """
        tags = {MLFLOW_RUN_NAME: name, **_git_tags(), **(tags or {})}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        if resume_run_id:
            self._client.update_run(resume_run_id, "RUNNING")
            started = self._client.get_run(resume_run_id)
        else:
            started = self._client.create_run(self._experiment, tags=tags, run_name=name)
        run = TrackedRun(self._client, self.uri, started)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self._client.set_terminated(run.id, status)

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
            token = page.token
            if not token:
                return matches

    def nested(self, parent: str) -> list[RunInfo]:
        """The runs nested in ``parent``, newest first."""
        return self.runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'")

    def reopen_run(self, run_id: str) -> "TrackedRun":
        """A run that has ended, to log more to it; its status stays."""
        return TrackedRun(self._client, self.uri, self._client.get_run(run_id))

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters of a run."""
        return dict(self._client.get_run(run_id).data.params)

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
        sizes: dict[str, int] = {}
        for file in self._client.list_artifacts(run_id, folder):
            sizes |= self.artifacts(run_id, file.path) if file.is_dir else {file.path: int(file.file_size or 0)}
        return sizes

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Delete a file or a folder of a run for good; idempotent."""
        delete_artifact(self._client, self.uri, run_id, name)

    def download(self, run_id: str, name: str, folder: Path) -> Path:
        """Download one artifact of a run into ``folder``."""
        return Path(self._client.download_artifacts(run_id, name, str(folder)))

    def read_text(self, run_id: str, name: str) -> str | None:
        """The text of a small artifact at the run's top level; None where there is none with this name."""
        if name not in {file.path for file in self._client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return self.download(run_id, name, Path(folder)).read_text()


class TrackedRun:
    """A run that is being written: its parameters, metrics, tags and artifacts."""

    def __init__(self, client: MlflowClient, uri: str, run: Run) -> None:
        self._client = client
        self._uri = uri
        self._buffer: deque[Callable[[], object]] = deque()
        self.id: str = run.info.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters, which cannot be changed later."""
        self._client.log_batch(self.id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, at_s: float | None = None) -> None:
        """Log metrics at a step. ``at_s``: their time in seconds since 1970; now where it is None."""
        self._client.log_batch(self.id, metrics=_metrics(metrics, step, at_s))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def buffer_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics at a step; while MLflow does not answer they are buffered, and sent with a later call."""
        numbers = _metrics(metrics, step)
        self._buffer.append(lambda: self._client.log_batch(self.id, metrics=numbers))
        self._try_flush()

    def buffer_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; while MLflow does not answer they are buffered, and sent with a later call."""
        self._buffer.append(lambda: self._client.log_batch(self.id, tags=[RunTag(*pair) for pair in tags.items()]))
        self._try_flush()

    def _try_flush(self) -> None:
        try:
            while self._buffer:
                self._buffer[0]()
                self._buffer.popleft()
        except TrackingError as error:
            log.warning("MLflow does not answer (%s); %d calls are buffered", str(error)[:200], len(self._buffer))

    def flush(self, timeout_s: float = 300.0) -> None:
        """Send the buffer, and retry until MLflow answers. Raises TrackingError after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self._buffer:
            self._try_flush()
            if self._buffer and time.monotonic() > deadline:
                self._buffer[0]()
            elif self._buffer:
                time.sleep(1)

    def log_dataset(self, name: str, digest: str, source: str, profile: Mapping[str, object]) -> None:
        """Log the dataset that the run used. ``digest``: cut to 36 characters."""
        dataset = TrackedDataset(name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps(profile))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            self._client.log_inputs(self.id, inputs)
        except TrackingError:  # of two runs that log the same new dataset at once, MLflow refuses one
            self._client.log_inputs(self.id, inputs)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        self._client.log_artifact(self.id, str(path), folder)

    def log_json(self, value: object, name: str) -> None:
        """Log ``value`` as a JSON artifact."""
        self._client.log_text(self.id, json.dumps(value, indent=1), name)

    def log_table(self, columns: Mapping[str, Sequence[object]], name: str) -> None:
        """Log a table, which the MLflow UI can show and compare; it replaces one with the same name."""
        if name in {file.path for file in self._client.list_artifacts(self.id)}:  # MLflow would append to it
            delete_artifact(self._client, self._uri, self.id, name)
        self._client.log_table(self.id, {key: list(values) for key, values in columns.items()}, name)

    def log_picture(self, figure: "Figure", name: str) -> None:
        """Log a matplotlib figure as a PNG artifact."""
        self._client.log_figure(self.id, figure, name)


def _experiment(client: MlflowClient, name: str) -> str:
    while not (experiment := client.get_experiment_by_name(name)):
        create_if_absent(client.create_experiment, name)
    return str(experiment.experiment_id)


def _metrics(metrics: Mapping[str, float], step: int, at_s: float | None = None) -> list[Metric]:
    timestamp_ms = int((time.time() if at_s is None else at_s) * 1000)
    return [Metric(key, value, timestamp_ms, step) for key, value in metrics.items()]


def _run_info(run: Run) -> RunInfo:
    tags, info = dict(run.data.tags), run.info
    return RunInfo(
        id=info.run_id,
        name=info.run_name or "",
        status=info.status,
        parent=tags.get(MLFLOW_PARENT_RUN_ID, ""),
        started_s=(info.start_time or 0) / 1000,
        ended_s=(info.end_time or 0) / 1000,
        tags=tags,
    )


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
