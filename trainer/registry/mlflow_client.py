"""MLflow's client, whose errors are ours. The only module that makes one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from serve.errors import TrackingError

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers for an alias that is not set."""


class _Readable:
    """Passes every call on to the client, and raises TrackingError where that raises MlflowException."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        @wraps(attribute)
        def call(*args: Any, **options: Any) -> Any:
            with readable_errors(self._uri):
                return attribute(*args, **options)

        return call


def connect(uri: str) -> MlflowClient:
    """A client of the MLflow server at ``uri``. Its calls raise TrackingError, with MLflow's error code."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return cast(MlflowClient, _Readable(MlflowClient(tracking_uri=uri, registry_uri=uri), uri))


def create_if_absent(create: Callable[[str], Any], name: str) -> None:
    """Create what several processes that start together all miss: the first one creates it."""
    try:
        create(name)
    except TrackingError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


def delete_artifact(client: MlflowClient, uri: str, run_id: str, name: str) -> None:
    """Remove a file or a folder of a run for good; no harm where it has gone already."""
    root = str(client.get_run(run_id).info.artifact_uri)
    with readable_errors(uri):
        get_artifact_repository(root, tracking_uri=uri).delete_artifacts(name)  # type: ignore[no-untyped-call]


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Raise TrackingError where MLflow's client raises."""
    try:
        yield
    except MlflowException as error:
        message = f"MLflow at {uri} did not do what was asked: {str(error)[:500]}"
        raise TrackingError(message, error.error_code or "") from error
