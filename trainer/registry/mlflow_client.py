"""MLflow's client. No other module creates one, and this is the one edge where MLflow's answers come in.

Whatever MLflow answers, a call returns, or raises TrackingError. An answer that MLflow's own client cannot read raises
anything there: KeyError, ParseError, UnicodeError and the like.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from serve.errors import BinwatchError, TrackingError

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Error codes of MLflow for an alias that is not set, and for a run that does not exist."""
MAX_MESSAGE = 500
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>(: |\()?")


class _ReadableClient:
    """Forwards every call to the client, and raises TrackingError where that raises anything."""

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
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
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


@contextmanager
def readable_errors(uri: str) -> Iterator[None]:
    """Raise TrackingError where the block raises anything but a BinwatchError."""
    try:
        yield
    except BinwatchError:
        raise
    except MlflowException as error:
        raise TrackingError(_message(uri, str(error)), _code(error)) from error
    except Exception as error:
        raise TrackingError(_message(uri, f"{type(error).__name__}: {error}")) from error


def _code(error: MlflowException) -> str:
    """MLflow's error code. A server with accounts says of what does not exist that there is no right to it, and every
    account of ours may read everything."""
    return ABSENT[0] if "'Permission denied'" in str(error) else str(error.error_code or "")


def _message(uri: str, reason: str) -> str:
    """One sentence that is the same whenever the reason is: without line ends and without addresses of objects."""
    words = " ".join(_OBJECT.sub("", reason).split())
    return f"the request to MLflow at {uri} failed: {words[:MAX_MESSAGE]}"
