"""A run in MLflow that is being written: its parameters, metrics, tags and artifacts."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.dataset import Dataset as TrackedDataset

from serve.errors import TrackingError
from trainer.registry.artifact_store import RunArtifacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


class TrackedRun:
    """A run that is being written: its parameters, metrics, tags and artifacts."""

    def __init__(self, client: MlflowClient, uri: str, run: Run) -> None:
        self._client = client
        self._uri = uri
        self._run = run
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
        self._own_artifacts()
        self._client.log_artifact(self.id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Log a text as an artifact."""
        self._own_artifacts()
        self._client.log_text(self.id, text, name)

    def log_json(self, value: object, name: str) -> None:
        """Log ``value`` as a JSON artifact."""
        self.log_text(json.dumps(value, indent=1), name)

    def log_table(self, columns: Mapping[str, Sequence[object]], name: str) -> None:
        """Log a table, which the MLflow UI can show and compare; it replaces one with the same name."""
        artifacts = self._own_artifacts()
        if name in {file.path for file in artifacts.list()}:  # MLflow would append to it
            artifacts.delete(name)
        self._client.log_table(self.id, {key: list(values) for key, values in columns.items()}, name)

    def log_picture(self, figure: "Figure", name: str) -> None:
        """Log a matplotlib figure as a PNG artifact."""
        self._own_artifacts()
        self._client.log_figure(self.id, figure, name)

    def _own_artifacts(self) -> RunArtifacts:
        """The artifacts of the run. Raises DataError where they are not below the MLflow server's own root."""
        return RunArtifacts(self._uri, self._run)


def _metrics(metrics: Mapping[str, float], step: int, at_s: float | None = None) -> list[Metric]:
    timestamp_ms = int((time.time() if at_s is None else at_s) * 1000)
    return [Metric(key, value, timestamp_ms, step) for key, value in metrics.items()]
