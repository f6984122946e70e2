"""Where photos and records come from: a bucket, or a folder in its layout.

Throttling and cut or reset connections are retried with backoff; a wrong bucket or no network is one error.
https://registry.opendata.aws/amazon-bin-imagery/
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ResponseStreamingError

from serve.errors import AwayError, DataError

PUBLIC_BUCKET = "aft-vbi-pds"
ATTEMPTS = 12
"""With three requests of ten failing, one file of a million is given up."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 3.0

_AGAIN = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500", "502", "504"}
_GONE = {"NoSuchKey", "404", "403", "AccessDenied"}  # without ListBucket, S3 says 403 for a missing object


class Missing(Exception):
    """The store has no such object."""


class Store(Protocol):
    """Where objects come from: keys relative to the place that holds bin-images/ and metadata/."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises Missing, DataError."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``."""


@dataclass(frozen=True)
class FolderStore:
    """A folder."""

    folder: Path

    def read(self, key: str) -> bytes:
        """A file's bytes."""
        try:
            return (self.folder / key).read_bytes()
        except FileNotFoundError as error:
            raise Missing(key) from error

    def keys(self, prefix: str) -> Iterator[str]:
        """The files below a folder."""
        return (str(path.relative_to(self.folder)) for path in sorted((self.folder / prefix).glob("*")))


class S3Store:
    """A bucket and a prefix. Unsigned for the public bucket, and where there are no credentials."""

    def __init__(self, uri: str, endpoint_url: str | None = None, workers: int = 32) -> None:
        self.bucket, self.prefix = parse_uri(uri)
        self.uri = uri
        self.client = _client(self.bucket, endpoint_url, workers)

    def read(self, key: str) -> bytes:
        """An object's bytes, read to the last one that its length promises."""
        body: bytes = self._call(lambda: self._get(self.prefix + key))
        return body

    def _get(self, key: str) -> bytes:
        response = self.client.get_object(Bucket=self.bucket, Key=key)
        return bytes(response["Body"].read())  # raises where the body is shorter than its length

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``, page by page."""
        return (name for name, _ in self.sizes(prefix))

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """All keys that start with ``prefix``, with their bytes. Raises Missing, DataError."""
        token: dict[str, str] = {}
        while True:
            page = self._call(
                lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, **token)
            )
            yield from ((found["Key"][len(self.prefix) :], found["Size"]) for found in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            token["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, key: str) -> None:
        """Remove an object; no harm where it has gone already."""
        self._call(lambda: self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def write(self, key: str, data: bytes) -> bool:
        """Put an object, unless one with the same bytes is there; says whether it did."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        try:
            if self._call(lambda: self.client.head_object(**name))["ETag"].strip('"') == digest:
                return False
        except Missing:
            pass
        self._call(lambda: self.client.put_object(**name, Body=data))
        return True

    def _call(self, ask: Callable[[], Any]) -> Any:
        """Ask, again where asking again can help. Raises Missing, DataError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _GONE:
                    raise Missing(self.uri) from error
                if code not in _AGAIN or attempt == ATTEMPTS:
                    if code in _AGAIN:
                        advice = "run it again later, or with fewer workers: what has come is kept"
                        raise AwayError(f"{self.uri} answered {code}: {error}; {advice}") from error
                    advice = "check the bucket's name and your rights"
                    raise DataError(f"{self.uri} answered {code}: {error}; {advice}") from error
            except (HTTPClientError, ResponseStreamingError, BotoCoreError, OSError) as error:
                if attempt == ATTEMPTS:
                    raise AwayError(
                        f"{self.uri} does not answer: {error}; check the network and the endpoint"
                    ) from error
            wait_s = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
            time.sleep(wait_s * random.uniform(0.5, 1))
        raise AssertionError("unreachable")


def parse_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/prefix`` -> bucket and ``some/prefix/``. Raises DataError."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise DataError(f"{uri!r} is no address of a bucket; write s3://bucket or s3://bucket/prefix")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _client(bucket: str, endpoint_url: str | None, workers: int) -> Any:
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
    """A bucket where ``source`` starts with ``s3://``, else a folder. Raises DataError."""
    if source.startswith("s3://"):
        return S3Store(source, endpoint_url, workers)
    if not Path(source).is_dir():
        raise DataError(f"there is no folder {source}; give a folder or s3://bucket/prefix")
    return FolderStore(Path(source))
