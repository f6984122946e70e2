"""Links to photos in S3: parsed into bucket and key, and downloaded with boto3 from the configured store.

A link's address is never fetched as such (no server-side request forgery): only its bucket, which must be on the allow
list, and its key are used. boto3 is imported with the first link, because that takes half a second.
"""

import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from serve.environment import Variables, web_address
from serve.errors import (
    BucketError,
    FieldError,
    MissingError,
    RequestError,
    StoreError,
    StoreTimeoutError,
    TooLargeError,
)

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.response import StreamingBody
    from urllib3.response import HTTPResponse

MAX_BYTES = 6_553_500
"""Largest photo that is accepted, in bytes: ``max_request_size`` in serve/torchserve/config.properties."""
TIMEOUT_S = 5.0
"""Time limit for downloading all photos of a batch of requests."""
THREADS = 32
FORMS = "s3://bucket/key, https://bucket.s3.amazonaws.com/key or https://s3.amazonaws.com/bucket/key"

_S3 = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOST = re.compile(r"(?:(?P<bucket>[a-z0-9.-]+)\.)?s3(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com")
_MAX_KEY_BYTES = 1024
_CHUNK_BYTES = 1 << 16
_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "403", "AccessDenied"}
"""S3's error codes for a missing object; without the right to list the bucket it is 403."""


@dataclass(frozen=True)
class Link:
    """A photo in S3."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse(text: str) -> Link:
    """Bucket and key of a link. Raises FieldError for all formats but S3's own.

    Refused are a query, as presigned links have one (it would be ignored, with the rights or the version that it
    names), and keys with a segment ``.`` or ``..`` (a store or proxy that normalises paths would read another object,
    perhaps of another bucket).
    """
    shown = repr(text[:200])
    try:
        address = urlsplit(text)
        bucket, key = _split_s3_uri(text) if text.startswith(_S3) else _split_https_url(address)
    except ValueError as error:
        raise FieldError(f"the link {shown} cannot be read: {error}; give {FORMS}") from error
    if not _BUCKET.fullmatch(bucket):
        raise FieldError(f"the link {shown} names no bucket; give {FORMS}")
    if not 0 < len(key.encode()) <= _MAX_KEY_BYTES:
        raise FieldError(f"the link {shown} has a key of {len(key.encode())} bytes; 1 to {_MAX_KEY_BYTES} are allowed")
    if {".", ".."} & set(key.split("/")):
        raise FieldError(f"the link {shown} has a key with a segment '.' or '..'; such keys are not read")
    return Link(bucket, key)


def read_store(read: Variables) -> "PhotoStore":
    """The store of BINWATCH_S3_BUCKETS and BINWATCH_S3_ENDPOINT."""
    none: frozenset[str] = frozenset()
    buckets = read.parsed("BINWATCH_S3_BUCKETS", none, parse_buckets)
    return PhotoStore(buckets, read.parsed("BINWATCH_S3_ENDPOINT", "", web_address) or None)


def parse_buckets(text: str) -> frozenset[str]:
    """The names of buckets, separated by commas. Raises ValueError."""
    names = frozenset(filter(None, text.replace(" ", "").split(",")))
    wrong = sorted(name for name in names if not _BUCKET.fullmatch(name))
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no bucket; give the names of buckets, separated by commas")
    return names


def _split_s3_uri(text: str) -> tuple[str, str]:
    bucket, _, key = text.removeprefix(_S3).partition("/")  # not percent-encoded, and ? and # belong to the key
    key.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    return bucket, key


def _split_https_url(address: SplitResult) -> tuple[str, str]:
    if address.scheme != "https":
        raise ValueError(f"its scheme is {address.scheme[:20]!r}")
    if address.query or address.fragment:
        raise ValueError("it has a query or a fragment, which are not used")
    host = _HOST.fullmatch(address.netloc)  # does not match with a user, a password or a port either
    if not host:
        raise ValueError(f"its host {address.netloc[:100]!r} is not S3's")
    key = unquote_to_bytes(address.path.removeprefix("/")).decode()
    if host["bucket"]:
        return host["bucket"], key
    bucket, _, key = key.partition("/")
    return bucket, key


def s3_client(endpoint_url: str | None, timeout_s: float, connections: int, attempts: int = 1) -> "BaseClient":
    """A client of AWS S3 or of the store at ``endpoint_url``; unsigned if there are no credentials.

    ``timeout_s``: of one of at most ``attempts``.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.Session()
    config = Config(
        signature_version=UNSIGNED if session.get_credentials() is None else None,
        max_pool_connections=connections,
        connect_timeout=timeout_s / 2,
        read_timeout=timeout_s,
        retries={"total_max_attempts": attempts},
        s3={"addressing_style": "path"} if endpoint_url else {},
        request_checksum_calculation="when_required",
    )
    return session.client(
        "s3", endpoint_url=endpoint_url, region_name=session.region_name or "us-east-1", config=config
    )


class PhotoStore:
    """Downloads the photos of links. ``buckets``: the allow list; ``timeout_s``: of one call of ``read``."""

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
        self._client: BaseClient | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="links")

    def read(self, links: Sequence[Link]) -> list[bytes | RequestError]:
        """The photos of ``links``, in order, or the reason why there is none; in parallel, within ``timeout_s``."""
        if any(link.bucket in self.buckets for link in links):
            self._connect()  # creating the client takes a while, which must not count against the store
        deadline = time.monotonic() + self.timeout_s
        downloads = [self._pool.submit(self._read, link, deadline) for link in links]
        photos: list[bytes | RequestError] = []
        for link, download in zip(links, downloads, strict=True):
            try:
                photos.append(download.result(max(0.0, deadline - time.monotonic())))
            except FutureTimeoutError:
                download.cancel()
                photos.append(self._timeout_error(link))
        return photos

    def _read(self, link: Link, deadline: float) -> bytes | RequestError:
        if link.bucket not in self.buckets:
            return BucketError(f"the bucket {link.bucket!r} is not among BINWATCH_S3_BUCKETS; the operator can add it")
        if time.monotonic() > deadline:  # after waiting for a free thread
            return self._timeout_error(link)
        return self._get(link, deadline)

    def _get(self, link: Link, deadline: float) -> bytes | RequestError:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
        from urllib3.exceptions import HTTPError, TimeoutError

        try:
            response = self._connect().get_object(Bucket=link.bucket, Key=link.key)
            with response["Body"] as stream:
                length = int(response["ContentLength"])
                return self._read_body(link, response["Body"], stream, length, deadline)
        except (ConnectTimeoutError, ReadTimeoutError, TimeoutError):
            return self._timeout_error(link)
        except ClientError as error:
            code = str(error.response["Error"].get("Code"))
            if code in _MISSING:
                return MissingError(f"the store has no {link}, or does not show it ({code}); check bucket and key")
            return StoreError(f"the store answered {code} for {link}; try again later")
        except (BotoCoreError, HTTPError, OSError) as error:
            return StoreError(f"the store failed at {link}: {type(error).__name__}; try again later")

    def _read_body(
        self, link: Link, body: "StreamingBody", stream: "HTTPResponse", length: int, deadline: float
    ) -> bytes | RequestError:
        """Read an object of ``length`` bytes in chunks, so that the deadline holds for a slow stream, too.

        ``stream``: the raw stream of ``body``, which only sets the timeout.
        """
        data = bytearray()
        if length > self.max_bytes:
            return too_large_error(str(link), length, self.max_bytes)
        while len(data) < length:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return self._timeout_error(link)
            body.set_socket_timeout(left_s)
            chunk = stream.read1(_CHUNK_BYTES)
            if not chunk:
                return StoreError(
                    f"the store closed the connection for {link} after {len(data)} of {length} bytes; try again later"
                )
            data += chunk
        return bytes(data)

    def _timeout_error(self, link: Link) -> StoreTimeoutError:
        return StoreTimeoutError(f"the store did not deliver {link} within {self.timeout_s:g} s; try again later")

    def _connect(self) -> "BaseClient":
        self._client = self._client or s3_client(self._endpoint_url, self.timeout_s, THREADS)
        return self._client


def too_large_error(subject: str, size: int, max_bytes: int = MAX_BYTES) -> TooLargeError:
    """The error for a photo of ``size`` bytes or more."""
    return TooLargeError(f"{subject} has at least {size} bytes; at most {max_bytes} are accepted, send a smaller one")
