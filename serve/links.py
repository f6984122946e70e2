"""Links to photos in S3: parsed into bucket and key, and read with boto3 from the configured store.

No HTTP client ever fetches a client's address: of a link only the bucket, which must be on the allow
list, and the key are used. boto3 is loaded when the first link comes: it takes half a second.
It travels in every archive.
"""

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from serve.errors import (
    BucketError,
    FieldError,
    MissingError,
    RequestError,
    StoreError,
    StoreTimeoutError,
    TooLargeError,
)

MAX_BYTES = 6_553_500
"""Largest photo that is read, in bytes: TorchServe's ``max_request_size`` in serve/config.properties."""
TIMEOUT_S = 5.0
"""From the moment the worker takes a request until its last photo has come."""
THREADS = 32
FORMS = "s3://bucket/key, https://bucket.s3.amazonaws.com/key or https://s3.amazonaws.com/bucket/key"

_S3 = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOST = re.compile(r"(?:(?P<bucket>[a-z0-9.-]+)\.)?s3(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com")
_MAX_KEY_BYTES = 1024
_CHUNK_BYTES = 1 << 16
_GONE = {"NoSuchKey", "NoSuchBucket", "404", "403", "AccessDenied"}  # without ListBucket S3 says 403 for missing


@dataclass(frozen=True)
class Link:
    """A photo in S3."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse(text: str) -> Link:
    """Bucket and key of a link. Raises FieldError for every form but S3's own.

    A query, as presigned links have one, is refused: it grants what the worker's own rights may not, and
    names a version that would not be the one read. So is a key with a segment ``.`` or ``..``: a store or a proxy
    that tidies paths would read another object, perhaps of another bucket.
    """
    shown = repr(text[:200])
    try:
        address = urlsplit(text)
        bucket, key = _of_s3(text) if text.startswith(_S3) else _of_https(address)
    except ValueError as error:
        raise FieldError(f"the link {shown} cannot be read: {error}; give {FORMS}") from error
    if not _BUCKET.fullmatch(bucket):
        raise FieldError(f"the link {shown} names no bucket; give {FORMS}")
    if not 0 < len(key.encode()) <= _MAX_KEY_BYTES:
        raise FieldError(f"the link {shown} has a key of {len(key.encode())} bytes; 1 to {_MAX_KEY_BYTES} are allowed")
    if {".", ".."} & set(key.split("/")):
        raise FieldError(f"the link {shown} has a key with a segment '.' or '..'; such keys are not read")
    return Link(bucket, key)


def _of_s3(text: str) -> tuple[str, str]:
    bucket, _, key = text.removeprefix(_S3).partition("/")  # not percent-encoded, and ? and # belong to the key
    key.encode()  # a lone surrogate is no character: UnicodeEncodeError is a ValueError
    return bucket, key


def _of_https(address: Any) -> tuple[str, str]:
    if address.scheme != "https":
        raise ValueError(f"its scheme is {address.scheme[:20]!r}")
    if address.query or address.fragment:
        raise ValueError("it has a query or a fragment, which are not used")
    host = _HOST.fullmatch(address.netloc)  # a user, a password or a port does not fit either
    if not host:
        raise ValueError(f"its host {address.netloc[:100]!r} is not S3's")
    key = unquote_to_bytes(address.path.removeprefix("/")).decode()
    if host["bucket"]:
        return host["bucket"], key
    bucket, _, key = key.partition("/")
    return bucket, key


def client(endpoint_url: str | None, timeout_s: float, connections: int) -> Any:
    """A client of S3 or of the store at ``endpoint_url``, without retries; unsigned where there are no credentials."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.Session()
    config = Config(
        signature_version=UNSIGNED if session.get_credentials() is None else None,
        max_pool_connections=connections,
        connect_timeout=timeout_s / 2,
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"} if endpoint_url else {},
        request_checksum_calculation="when_required",
    )
    return session.client(
        "s3", endpoint_url=endpoint_url, region_name=session.region_name or "us-east-1", config=config
    )


class PhotoStore:
    """Reads the photos of links. ``buckets``: those that may be read; ``timeout_s``: of one call of ``read``."""

    def __init__(
        self,
        buckets: frozenset[str],
        endpoint_url: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.buckets = buckets
        self.timeout_s = timeout_s
        self.max_bytes = max_bytes
        self._endpoint_url = endpoint_url
        self._client: Any = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="links")

    def read(self, links: Sequence[Link]) -> list[bytes | RequestError]:
        """The photos of ``links``, in order, or why there is none; all at once, and within ``timeout_s``."""
        if any(link.bucket in self.buckets for link in links):
            self._connected()  # the first time takes a while, which is not the store's fault
        deadline = time.monotonic() + self.timeout_s
        waiting = [self._pool.submit(self._read, link, deadline) for link in links]
        photos: list[bytes | RequestError] = []
        for link, each in zip(links, waiting, strict=True):
            try:
                photos.append(each.result(max(0.0, deadline - time.monotonic())))
            except FutureTimeoutError:
                each.cancel()
                photos.append(self._late(link))
        return photos

    def _read(self, link: Link, deadline: float) -> bytes | RequestError:
        if link.bucket not in self.buckets:
            allowed = ", ".join(sorted(self.buckets)) or "none"
            return BucketError(f"the bucket {link.bucket!r} is not among BINWATCH_S3_BUCKETS ({allowed}); add it there")
        if time.monotonic() > deadline:  # it waited for a thread
            return self._late(link)
        return self._get(link, deadline)

    def _get(self, link: Link, deadline: float) -> bytes | RequestError:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
        from urllib3.exceptions import HTTPError, TimeoutError

        try:
            response = self._connected().get_object(Bucket=link.bucket, Key=link.key)
            with response["Body"] as stream:
                return self._body(link, response, stream, deadline)
        except (ConnectTimeoutError, ReadTimeoutError, TimeoutError):
            return self._late(link)
        except ClientError as error:
            code = str(error.response["Error"].get("Code"))
            if code in _GONE:
                return MissingError(f"the store has no {link}, or does not show it ({code}); check bucket and key")
            return StoreError(f"the store answered {code} for {link}; try again later")
        except (BotoCoreError, HTTPError, OSError) as error:
            return StoreError(f"the store failed at {link}: {type(error).__name__}; try again later")

    def _body(self, link: Link, response: dict[str, Any], stream: Any, deadline: float) -> bytes | RequestError:
        """Read the object as it comes, so that one which comes in drips is late, too."""
        data, length = bytearray(), int(response["ContentLength"])
        if length > self.max_bytes:
            return too_large(str(link), length, self.max_bytes)
        while len(data) < length:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return self._late(link)
            response["Body"].set_socket_timeout(left_s)
            chunk = stream.read1(_CHUNK_BYTES)
            if not chunk:
                return StoreError(f"the store broke off {link} after {len(data)} of {length} bytes; try again later")
            data += chunk
        return bytes(data)

    def _late(self, link: Link) -> StoreTimeoutError:
        return StoreTimeoutError(f"{link} did not come from the store within {self.timeout_s:g} s; try again later")

    def _connected(self) -> Any:
        self._client = self._client or client(self._endpoint_url, self.timeout_s, THREADS)
        return self._client


def too_large(what: str, size: int, max_bytes: int = MAX_BYTES) -> TooLargeError:
    """The error for a photo of ``size`` bytes or more."""
    return TooLargeError(f"{what} has at least {size} bytes; photos of up to {max_bytes} are read, send a smaller one")
