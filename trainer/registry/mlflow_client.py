"""MLflow's client, with errors that raise TrackingError. No other module creates one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from serve.errors import TrackingError

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes of MLflow for an alias that is not set."""


class _ReadableClient:
    """Forwards every call to the client, and raises TrackingError where that raises MlflowException."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        @wraps(attribute)
        def call(*args: object, **options: object) -> object:
            with readable_errors(self._uri):
                return attribute(*args, **options)

        return call


def connect(uri: str) -> MlflowClient:
    """A client of the MLflow server at ``uri``. Its calls raise TrackingError, with MLflow's error code."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return cast(MlflowClient, _ReadableClient(MlflowClient(tracking_uri=uri, registry_uri=uri), uri))


def create_if_absent(create: Callable[[str], object], name: str) -> None:
    """Create an experiment or a registered model, unless another process has just created it."""
    try:
        create(name)
    except TrackingError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise


def delete_artifact(client: MlflowClient, uri: str, run_id: str, name: str) -> None:
    """Delete a file or a folder of a run for good; idempotent."""
    root = str(client.get_run(run_id).info.artifact_uri)
    with readable_errors(uri):
        get_artifact_repository(root, tracking_uri=uri).delete_artifacts(name)  # type: ignore[no-untyped-call]


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Raise TrackingError where MLflow's client raises MlflowException."""
    try:
        yield
    except MlflowException as error:
        message = f"the request to MLflow at {uri} failed: {str(error)[:500]}"
        raise TrackingError(message, error.error_code or "") from error
