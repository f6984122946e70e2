"""MLflow: runs, pictures, archives and the model registry. The only module that imports mlflow.

The registry's words: a version carries the tag ``status``, which goes one way,

    (none) -> approved -> promoted -> rolled-back    the gate let it through, the promoter deployed it, and took it back
          |          |`-> rolled-back                it was taken back while it was still watched
          |          `-> rejected                    its canary failed: never tried again
          `-> refused                                the gate did not let it through

and ``reason``. The alias ``champion`` names the version that TorchServe must serve, ``previous``
the one that a rollback returns to. Each move of the alias is a run ``deployment N``.
"""

import json
import logging
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.dataset import Dataset as TrackedDataset
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from serve.errors import TrackingError
from trainer.registry.deployments import Deployment, changes

log = logging.getLogger(__name__)

EXPERIMENT = "binwatch"
MODEL = "bin-counter"
CHAMPION, PREVIOUS = "champion", "previous"
APPROVED, REFUSED, REJECTED, PROMOTED = "approved", "refused", "rejected", "promoted"
ROLLED_BACK = "rolled-back"
UNWANTED = frozenset({REFUSED, REJECTED, ROLLED_BACK})
DEPLOYMENT = "deployment"


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    number: str
    run_id: str
    status: str
    reason: str
    compared_with: str


@dataclass(frozen=True)
class Found:
    """A run as MLflow knows it. Times in seconds since 1970; ``ended_s`` is 0 while it runs."""

    id: str
    name: str
    status: str
    parent: str
    started_s: float
    ended_s: float
    tags: Mapping[str, str]


class Tracking:
    """A connection to one MLflow server. Raises TrackingError when it does not answer."""

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self.uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        with _readable_errors(uri):
            self._experiment = _experiment(self._client, experiment)

    @contextmanager
    def run(
        self, name: str, parent: str | None = None, again: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator["TrackedRun"]:  # fmt: skip
        """A run that is FINISHED when the block ends, FAILED when it raises, KILLED when interrupted.

        ``parent``: the run it is nested in; ``again``: a run that was interrupted and goes on; ``tags``: what a new
        one is made with.
        """
        tags = {MLFLOW_RUN_NAME: name, **_git_tags(), **(tags or {})}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        with _readable_errors(self.uri):
            if again:
                self._client.update_run(again, "RUNNING")
                started = self._client.get_run(again)
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
            with _readable_errors(self.uri):
                self._client.set_terminated(run.id, status)

    def find_run(self, name: str) -> tuple[str, dict[str, str]] | None:
        """The newest run of that name, if any: its id and its tags."""
        with _readable_errors(self.uri):
            found = self._client.search_runs([self._experiment], f"attributes.run_name = '{name}'", max_results=1)
        return (found[0].info.run_id, dict(found[0].data.tags)) if found else None

    def runs(self, query: str = "") -> list[Found]:
        """The runs that an MLflow query finds, the newest first."""
        found: list[Found] = []
        token: str | None = None
        with _readable_errors(self.uri):
            while True:
                page = self._client.search_runs([self._experiment], query, max_results=1000, page_token=token,
                                                order_by=["attributes.start_time DESC"])  # fmt: skip
                found += [_found(run) for run in page]
                token = page.token
                if not token:
                    return found

    def nested(self, parent: str) -> list[Found]:
        """The runs nested in ``parent``, the newest first."""
        return self.runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'")

    def noted(self, run_id: str) -> "TrackedRun":
        """A run that has ended, to be told more of."""
        with _readable_errors(self.uri):
            return TrackedRun(self._client, self.uri, self._client.get_run(run_id))

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        with _readable_errors(self.uri):
            return dict(self._client.get_run(run_id).data.tags)

    def params(self, run_id: str) -> dict[str, str]:
        """What a run was given."""
        with _readable_errors(self.uri):
            return dict(self._client.get_run(run_id).data.params)

    def address(self, run_id: str) -> str:
        """Where people see a run."""
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment}/runs/{run_id}"

    def end(self, run_id: str, status: str) -> None:
        """End a run that whoever ran it could not end."""
        with _readable_errors(self.uri):
            self._client.set_terminated(run_id, status)

    def artifacts(self, run_id: str, folder: str | None = None) -> dict[str, int]:
        """The files of a run, or of one of its folders, with their sizes in bytes."""
        found: dict[str, int] = {}
        with _readable_errors(self.uri):
            for each in self._client.list_artifacts(run_id, folder):
                found |= self.artifacts(run_id, each.path) if each.is_dir else {each.path: int(each.file_size or 0)}
        return found

    def delete_artifact(self, run_id: str, name: str) -> None:
        """Remove a file or a folder of a run for good; no harm where it has gone already."""
        with _readable_errors(self.uri):
            _delete(self._client, self.uri, run_id, name)

    def end_orphans(self, parent: str) -> None:
        """Mark the nested runs of ``parent`` that still seem to run as KILLED: whoever ran them is gone."""
        with _readable_errors(self.uri):
            query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}' AND attributes.status = 'RUNNING'"
            for run in self._client.search_runs([self._experiment], query):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def register(self, run_id: str, status: str, reason: str, compared_with: str) -> Version:
        """Make the archive of a run a new version of the model, with what the gate decided of it."""
        tags = {"status": status, "reason": reason, "compared_with": compared_with}
        with _readable_errors(self.uri):
            if not self._client.search_registered_models(f"name = '{MODEL}'"):
                _made_once(self._client.create_registered_model, MODEL)
            source = f"runs:/{run_id}/archive"
            made = self._client.create_model_version(MODEL, source, run_id, tags, await_creation_for=0)
        return self.version(str(made.version))

    def version(self, number: str) -> Version:
        """One version by its number."""
        with _readable_errors(self.uri):
            return _version(self._client.get_model_version(MODEL, number))

    def versions(self) -> list[Version]:
        """All versions, the newest first."""
        with _readable_errors(self.uri):
            found = self._client.search_model_versions(f"name = '{MODEL}'", order_by=["version_number DESC"])
        return sorted((_version(each) for each in found), key=lambda each: -int(each.number))

    def mark(self, number: str, status: str, reason: str, compared_with: str | None = None) -> None:
        """Write what was decided of a version, the status last: it is what others act on."""
        tags = {"reason": reason, "compared_with": compared_with, "status": status}
        with _readable_errors(self.uri):
            for key, value in tags.items():
                if value is not None:
                    self._client.set_model_version_tag(MODEL, number, key, value)

    def alias(self, name: str) -> Version | None:
        """The version that an alias names, if any."""
        with _readable_errors(self.uri):
            try:
                return _version(self._client.get_model_version_by_alias(MODEL, name))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def crown(self, number: str) -> None:
        """Move the alias champion to a version."""
        with _readable_errors(self.uri):
            self._client.set_registered_model_alias(MODEL, CHAMPION, number)

    def set_previous(self, number: str | None) -> None:
        """Name the version that a rollback returns to; None where there is none."""
        with _readable_errors(self.uri):
            if number:
                self._client.set_registered_model_alias(MODEL, PREVIOUS, number)
            else:
                self._client.delete_registered_model_alias(MODEL, PREVIOUS)

    def record_deployment(self, version: str, did: str, reason: str) -> None:
        """Write down that ``version`` serves from now on: ``promoted``, or because a later one was ``rolled-back``."""
        tags = {"binwatch.kind": DEPLOYMENT, "version": version, "did": did, "reason": reason,
                "train_run": self.version(version).run_id}  # fmt: skip
        with self.run(f"{DEPLOYMENT} {version}", tags=tags):
            pass  # the tags, which it is made with, are all of it

    def deployments(self) -> list[Deployment]:
        """What served since when, the newest first."""
        return changes([_deployment(each) for each in self.runs(f"tags.`binwatch.kind` = '{DEPLOYMENT}'")])

    def download(self, run_id: str, name: str, folder: Path) -> Path:
        """Fetch one artifact of a run into ``folder``."""
        with _readable_errors(self.uri):
            return Path(self._client.download_artifacts(run_id, name, str(folder)))

    def read_text(self, run_id: str, name: str) -> str | None:
        """A small artifact's text, or None where the run has none of that name."""
        with _readable_errors(self.uri):
            if name not in {each.path for each in self._client.list_artifacts(run_id)}:
                return None
        with tempfile.TemporaryDirectory() as folder:
            return self.download(run_id, name, Path(folder)).read_text()


class TrackedRun:
    """One run: what it was given, how it went, what came out."""

    def __init__(self, client: MlflowClient, uri: str, run: Run) -> None:
        self._client = client
        self._uri = uri
        self._kept: deque[Callable[[], object]] = deque()
        self.id: str = run.info.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Inputs, one value each."""
        with _readable_errors(self._uri):
            self._client.log_batch(self.id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, at_s: float | None = None) -> None:
        """Numbers at a step. ``at_s``: the time they are of, in seconds since 1970; now without."""
        with _readable_errors(self._uri):
            self._client.log_batch(self.id, metrics=_metrics(metrics, step, at_s))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Words to search by."""
        with _readable_errors(self._uri):
            self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])

    def keep_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at a step, sent now or, where MLflow does not answer, later."""
        numbers = _metrics(metrics, step)
        self._kept.append(lambda: self._client.log_batch(self.id, metrics=numbers))
        self._send_some()

    def keep_tags(self, tags: Mapping[str, str]) -> None:
        """Words to search by, sent now or, where MLflow does not answer, later."""
        self._kept.append(lambda: self._client.log_batch(self.id, tags=[RunTag(*pair) for pair in tags.items()]))
        self._send_some()

    def _send_some(self) -> None:
        try:
            while self._kept:
                self._kept[0]()
                self._kept.popleft()
        except MlflowException as error:
            log.warning("MLflow does not take what it is sent (%s); it is kept, %d so far", str(error)[:200],
                        len(self._kept))  # fmt: skip

    def send_kept(self, timeout_s: float = 300.0) -> None:
        """Send what was kept, waiting for MLflow to come back. Raises TrackingError when it does not."""
        deadline = time.monotonic() + timeout_s
        while self._kept:
            self._send_some()
            if self._kept and time.monotonic() > deadline:
                with _readable_errors(self._uri):
                    self._kept[0]()
            elif self._kept:
                time.sleep(1)

    def log_dataset(self, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The dataset that the run used, as a dataset input. ``digest``: at most 36 characters."""
        dataset = TrackedDataset(name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps(profile))
        with _readable_errors(self._uri):
            self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """A file as an artifact."""
        with _readable_errors(self._uri):
            self._client.log_artifact(self.id, str(path), folder)

    def log_json(self, value: Any, name: str) -> None:
        """A JSON artifact."""
        with _readable_errors(self._uri):
            self._client.log_text(self.id, json.dumps(value, indent=1), name)

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """A table artifact, which the MLflow UI shows and compares, in place of one of that name."""
        with _readable_errors(self._uri):
            if name in {each.path for each in self._client.list_artifacts(self.id)}:  # MLflow would append to it
                _delete(self._client, self._uri, self.id, name)
            self._client.log_table(self.id, {key: list(values) for key, values in columns.items()}, name)

    def log_picture(self, figure: Any, name: str) -> None:
        """A matplotlib figure as a PNG artifact."""
        with _readable_errors(self._uri):
            self._client.log_figure(self.id, figure, name)


def _experiment(client: MlflowClient, name: str) -> str:
    while not (found := client.get_experiment_by_name(name)):
        _made_once(client.create_experiment, name)
    return str(found.experiment_id)


def _made_once(make: Callable[[str], Any], name: str) -> None:
    """Make what several processes that start together all miss: the first one makes it."""
    try:
        make(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _metrics(metrics: Mapping[str, float], step: int, at_s: float | None = None) -> list[Metric]:
    now = int((time.time() if at_s is None else at_s) * 1000)
    return [Metric(key, value, now, step) for key, value in metrics.items()]


def _found(run: Run) -> Found:
    tags, info = dict(run.data.tags), run.info
    started_s, ended_s = ((milliseconds or 0) / 1000 for milliseconds in (info.start_time, info.end_time))
    parent = tags.get(MLFLOW_PARENT_RUN_ID, "")
    return Found(info.run_id, info.run_name or "", info.status, parent, started_s, ended_s, tags)


def _deployment(run: Found) -> Deployment:
    version, did, reason, train_run = (run.tags.get(name, "") for name in ("version", "did", "reason", "train_run"))
    return Deployment(version, did, reason, run.started_s, train_run, run.id, run.ended_s > 0)


def _delete(client: MlflowClient, uri: str, run_id: str, name: str) -> None:
    place = str(client.get_run(run_id).info.artifact_uri)
    get_artifact_repository(place, tracking_uri=uri).delete_artifacts(name)  # type: ignore[no-untyped-call]


def _version(found: Any) -> Version:
    tags = found.tags
    return Version(
        str(found.version), found.run_id, tags.get("status", ""), tags.get("reason", ""), tags.get("compared_with", "")
    )


def _git_tags() -> dict[str, str]:
    """The git revision, from git or from BINWATCH_REVISION (an image has no .git)."""
    revision = os.environ.get("BINWATCH_REVISION", "")
    if not revision:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
        try:
            revision = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return {}
    return {"mlflow.source.git.commit": revision}


@contextmanager
def _readable_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise TrackingError(f"MLflow at {uri} did not do what was asked: {str(error)[:500]}") from error
