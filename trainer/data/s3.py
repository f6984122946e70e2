"""Stores of photos and records: a bucket, or a folder with the same layout.

Throttling and lost connections are retried with exponential backoff.
https://registry.opendata.aws/amazon-bin-imagery/
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ResponseStreamingError

from serve.errors import DataError, UnavailableError
from trainer.data import tables

PUBLIC_BUCKET = "aft-vbi-pds"
ATTEMPTS = 12
"""Attempts for a request: if 30 % of them fail, about one file in two million is not read."""
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 3.0

Result = TypeVar("Result")

_TRANSIENT = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500", "502", "504"}
_NOT_FOUND = {"NoSuchKey", "404", "403", "AccessDenied"}  # without ListBucket, S3 answers 403 for a missing object


class Missing(Exception):
    """The store has no such object."""


class Store(Protocol):
    """A store of objects; keys are relative to the folder that holds bin-images/ and metadata/."""

    def read(self, key: str) -> bytes:
        """Read a whole object. Raises Missing, DataError."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``."""


@dataclass(frozen=True)
class FolderStore:
    """A folder as a store."""

    folder: Path

    def read(self, key: str) -> bytes:
        """Read a file. Raises Missing, DataError."""
        path = self.folder / key
        with tables.reading(path):
            try:
                return path.read_bytes()
            except FileNotFoundError as error:
                raise Missing(key) from error

    def keys(self, prefix: str) -> Iterator[str]:
        """The files in the folder ``prefix``. Raises Missing, DataError."""
        folder = self.folder / prefix
        with tables.reading(folder):
            try:
                return iter([str(path.relative_to(self.folder)) for path in sorted(folder.iterdir())])
            except FileNotFoundError as error:
                raise Missing(prefix) from error


class S3Store:
    """A bucket and a prefix. Requests to the public bucket, or without credentials, are not signed."""

    def __init__(self, uri: str, endpoint_url: str | None = None, workers: int = 32) -> None:
        self.bucket, self.prefix = parse_uri(uri)
        self.uri = uri
        self.client = _client(self.bucket, endpoint_url, workers)

    def read(self, key: str) -> bytes:
        """Read a whole object. Raises Missing, DataError."""

        def get() -> bytes:
            response = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return bytes(response["Body"].read())  # raises if the body is shorter than its Content-Length

        return self._with_retry(get)

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``. Raises Missing, DataError."""
        return (key for key, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """All keys that start with ``prefix``, with their sizes in bytes. Raises Missing, DataError."""
        continuation: dict[str, str] = {}
        while True:
            page = self._with_retry(
                lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, **continuation)
            )
            yield from ((entry["Key"][len(self.prefix) :], entry["Size"]) for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            continuation["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, key: str) -> None:
        """Remove an object, if it exists."""
        self._with_retry(lambda: self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def write(self, key: str, data: bytes) -> bool:
        """Put an object, unless it is there with the same bytes; returns whether it was put."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()  # the ETag of an object put in one request
        location = {"Bucket": self.bucket, "Key": self.prefix + key}
        try:
            if self._with_retry(lambda: self.client.head_object(**location))["ETag"].strip('"') == digest:
                return False
        except Missing:
            pass
        self._with_retry(lambda: self.client.put_object(**location, Body=data))
        return True

    def _with_retry(self, request: Callable[[], Result]) -> Result:
        """Send a request, with retries after transient errors. Raises Missing, DataError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _NOT_FOUND:
                    raise Missing(self.uri) from error
                if code not in _TRANSIENT or attempt == ATTEMPTS:
                    if code in _TRANSIENT:
                        advice = "run it again later, or with fewer workers: fetched files are kept"
                        raise UnavailableError(f"{self.uri} answered {code}: {error}; {advice}") from error
                    advice = "check the bucket's name and your rights"
                    raise DataError(f"{self.uri} answered {code}: {error}; {advice}") from error
            except (HTTPClientError, ResponseStreamingError, BotoCoreError, OSError) as error:
                if attempt == ATTEMPTS:
                    raise UnavailableError(
                        f"{self.uri} does not answer: {error}; check the network and the endpoint"
                    ) from error
            wait_s = min(FIRST_WAIT_S * 2**attempt, MAX_WAIT_S)
            time.sleep(wait_s * random.uniform(0.5, 1))
        raise AssertionError("unreachable")


def parse_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/prefix`` -> bucket and ``some/prefix/``. Raises DataError."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise DataError(f"{uri!r} is not the address of a bucket; write s3://bucket or s3://bucket/prefix")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _client(bucket: str, endpoint_url: str | None, workers: int) -> Any:
    """A client that leaves retries to ``_with_retry`` and keeps a connection for each of ``workers``."""
    session = boto3.Session()
    anonymous = session.get_credentials() is None or (bucket == PUBLIC_BUCKET and endpoint_url is None)
    config = Config(
        signature_version=UNSIGNED if anonymous else None,
        max_pool_connections=workers,
        connect_timeout=10,
        read_timeout=30,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"} if endpoint_url else {},
        request_checksum_calculation="when_required",
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def open_store(source: str, endpoint_url: str | None = None, workers: int = 32) -> Store:
    """A store for ``source``, ``s3://bucket/prefix`` or a folder. Raises DataError."""
    if source.startswith("s3://"):
        return S3Store(source, endpoint_url, workers)
    with tables.reading(Path(source)):
        if not Path(source).is_dir():
            raise DataError(f"there is no folder {source}; give a folder or s3://bucket/prefix")
    return FolderStore(Path(source))
