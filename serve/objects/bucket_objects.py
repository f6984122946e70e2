"""Objects in an S3 bucket. What must not be overwritten is written under a condition, which S3 checks atomically.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from serve import links
from serve.errors import DataError, UnavailableError
from serve.objects.object_store import Entry, StoredObject

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

TIMEOUT_S = 5.0
ATTEMPTS = 2
THREADS = 16
PAUSE_S = 1.0
"""After a request without an answer, all requests fail for so long, so that threads do not queue up behind it."""
LOCK_S = 30.0
_MISSING = {"NoSuchKey", "404"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_BUSY = {"SlowDown", "RequestTimeout", "TooManyRequests"}


class BucketObjects:
    """The objects below ``uri``, ``s3://bucket/prefix``, at ``endpoint_url`` or AWS."""

    def __init__(self, uri: str, endpoint_url: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._uri, self._endpoint_url, self._timeout_s = uri.rstrip("/"), endpoint_url, timeout_s
        self._bucket, _, prefix = self._uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client: BaseClient | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._lock, self._retry_at = Lock(), 0.0

    @property
    def place(self) -> str:
        """The address of the bucket and the prefix."""
        return self._uri

    def entries(self, folder: str) -> dict[str, Entry]:
        """The objects directly in ``folder``, by name; a request per 1,000."""
        prefix = f"{self._prefix}{folder}/"
        entries = {}
        with self._requests() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            for item in (item for page in pages for item in page.get("Contents", ())):
                name = item["Key"].removeprefix(prefix)
                if name and "/" not in name:
                    entries[name] = Entry(stamp=item["ETag"], modified_s=item["LastModified"].timestamp())
        return entries

    def read(self, key: str) -> StoredObject | None:
        """An object; None where there is none."""
        with self._requests() as client:
            try:
                answer = client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return StoredObject(content=answer["Body"].read(), stamp=answer["ETag"])

    def read_all(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Several objects, in the order of their keys; those that are gone are left out."""
        iterator = iter(keys)
        while batch := list(islice(iterator, 2 * THREADS)):  # no more are in memory at once
            for key, stored in zip(batch, self._pool.map(self.read, batch), strict=True):
                if stored:
                    yield key, stored.content

    def write(self, key: str, content: bytes) -> None:
        """Write an object, whatever was there."""
        with self._requests() as client:
            client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)

    def replace(self, key: str, content: bytes, stamp: str | None) -> bool:
        """Write an object unless it has changed since it was read with ``stamp``, None for not being there.

        A write whose answer is lost is repeated, and then may count as not written although it was.
        """
        condition = {"IfMatch": stamp} if stamp else {"IfNoneMatch": "*"}
        with self._requests() as client:
            try:
                client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content, **condition)
            except client.exceptions.ClientError as error:
                if _code(error) in _CONFLICT | _MISSING:
                    return False
                raise
            return True

    def copy(self, source: str, target: str) -> bool:
        """Copy an object within the bucket; returns whether there was one."""
        location = {"Bucket": self._bucket, "Key": self._prefix + source}
        with self._requests() as client:
            try:
                client.copy_object(Bucket=self._bucket, Key=self._prefix + target, CopySource=location)
            except client.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return False
                raise
            return True

    def remove(self, *keys: str) -> None:
        """Remove objects, as far as they are there."""
        with self._requests() as client:
            for key in keys:
                client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep the other threads of this process out. Raises UnavailableError where they take too long."""
        if not self._lock.acquire(timeout=LOCK_S):
            raise UnavailableError(f"{self._uri} is slow: this waited {LOCK_S:.0f} s for others; try again later")
        try:
            yield
        finally:
            self._lock.release()

    def check_room(self) -> None:
        """Nothing: a bucket has no limit."""

    @contextmanager
    def _requests(self) -> "Iterator[BaseClient]":
        """The client. Raises UnavailableError if the store does not answer, DataError if it refuses."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        if time.monotonic() < self._retry_at:
            raise UnavailableError(f"{self._uri} did not answer just now; try again later")
        self._client = self._client or links.s3_client(self._endpoint_url, self._timeout_s, THREADS, ATTEMPTS)
        try:
            yield self._client
        except ClientError as error:
            code, status = _code(error), error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500 or code in _BUSY:
                raise UnavailableError(f"{self._uri} answered {code}: {error}; try again later") from error
            raise DataError(
                f"{self._uri} answered {code}: {error}; check the bucket, and the right to list, read, write and delete"
            ) from error
        except (BotoCoreError, HTTPError, OSError) as error:
            self._retry_at = time.monotonic() + PAUSE_S
            raise UnavailableError(
                f"{self._uri} does not answer: {error}; check the network and BINWATCH_S3_ENDPOINT"
            ) from error


def _code(error: "ClientError") -> str:
    """The code of an error that S3 answered."""
    return str(error.response["Error"].get("Code"))
