"""Photos and records from a bucket or a folder into a folder, and a folder into a bucket.

    fetch     concurrent, resumable: what is there already is not asked for again
    upload    the other way, for an S3 store of one's own

Every file is checked and then written whole or not at all. Throttling and cut or reset connections
are retried with backoff; a missing object is listed; a wrong bucket, a full disk or no network
ends the work with one error. https://registry.opendata.aws/amazon-bin-imagery/
"""

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ResponseStreamingError
from tqdm import tqdm

from serve.errors import AwayError, DataError
from trainer.abid import BESIDE

PUBLIC_BUCKET = "aft-vbi-pds"
REPORT = "fetch_report.json"
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
        signature_version=UNSIGNED if anonymous else None, max_pool_connections=workers, connect_timeout=10,
        read_timeout=30, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"} if endpoint_url else {},
        request_checksum_calculation="when_required",
    )  # fmt: skip
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def open_store(source: str, endpoint_url: str | None = None, workers: int = 32) -> Store:
    """A bucket where ``source`` starts with ``s3://``, else a folder. Raises DataError."""
    if source.startswith("s3://"):
        return S3Store(source, endpoint_url, workers)
    if not Path(source).is_dir():
        raise DataError(f"there is no folder {source}; give a folder or s3://bucket/prefix")
    return FolderStore(Path(source))


@dataclass
class Report:
    """What a fetch did. ``missing`` and ``damaged``: key -> reason."""

    fetched: int = 0
    present: int = 0
    size_bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def fetch(store: Store, ids: Iterable[str], total: int, out: Path, workers: int = 32) -> Report:
    """Fetch record and photo of every id into ``out``; what is there already is left alone."""
    for folder in ("metadata", "bin-images"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for partial in (out / folder).glob(".*.partial"):  # of a fetch that was killed
            partial.unlink()
    report, lock = Report(), threading.Lock()
    with tqdm(total=2 * total, desc="fetching", unit="file") as bar:

        def one(key: str) -> None:
            outcome, size = _fetch_one(store, key, out)
            with lock:
                _count(report, key, outcome, size)
                bar.set_postfix_str(f"{report.size_bytes / 1e6:.1f} MB", refresh=False)
                bar.update()

        keys = (key for i in ids for key in (f"metadata/{i}.json", f"bin-images/{i}.jpg"))
        _in_threads(one, keys, workers)
    listed = {"missing": dict(sorted(report.missing.items())), "damaged": dict(sorted(report.damaged.items()))}
    write_whole(out / REPORT, json.dumps(listed, indent=1).encode())
    return report


def _in_threads(work: Callable[[str], None], keys: Iterable[str], workers: int) -> None:
    """Work on ``keys`` in threads that draw from them: none is held before its turn. The first error ends all."""
    draw, lock, stop = iter(keys), threading.Lock(), threading.Event()

    def worker() -> None:
        while not stop.is_set():
            with lock:
                key = next(draw, None)
            if key is None:
                return
            try:
                work(key)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(worker) for _ in range(workers)]:
            done.result()


def _fetch_one(store: Store, key: str, out: Path) -> tuple[str, int]:
    path = out / key
    if path.is_file() and path.stat().st_size:
        return "present", 0
    try:
        data = store.read(key)
    except Missing:
        return "the store has no such object", 0
    reason = damage(key, data)
    if reason:
        return reason, len(data)
    try:
        write_whole(path, data)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; free some space and run it again") from error
    return "fetched", len(data)


def _count(report: Report, key: str, outcome: str, size: int) -> None:
    report.size_bytes += size
    if outcome == "fetched":
        report.fetched += 1
    elif outcome == "present":
        report.present += 1
    elif size:
        report.damaged[key] = outcome
    else:
        report.missing[key] = outcome


def damage(key: str, data: bytes) -> str | None:
    """Why an object cannot be a whole photo or record; None where it looks whole. Nothing is decoded."""
    if not data:
        return "it is empty"
    if key.endswith(".json"):
        try:
            json.loads(data)
        except ValueError as error:
            return f"it is no JSON: {error}"
    elif not data.startswith(b"\xff\xd8") or b"\xff\xd9" not in data[-64:]:
        return "it is no whole JPEG: the marker of its start or of its end is missing"
    return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def upload(folder: Path, uri: str, endpoint_url: str | None = None, workers: int = 32) -> tuple[int, int]:
    """Put every file of ``folder`` below ``uri``; returns how many were sent and how many were there."""
    store = S3Store(uri, endpoint_url, workers)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".partial"))
    if not paths:
        raise DataError(f"{folder} holds no file to upload")
    sent, lock = [], threading.Lock()
    with tqdm(total=len(paths), desc="uploading", unit="file") as bar:

        def one(name: str) -> None:
            done = store.write(name, (folder / name).read_bytes())
            with lock:
                sent.append(done)
                bar.update()

        try:
            _in_threads(one, (str(path.relative_to(folder)) for path in paths), workers)
        except Missing as error:
            raise DataError(f"{uri} cannot be written: there is no such bucket, or no right to write to it") from error
    return sum(sent), len(sent) - sum(sent)


def mirror_folder(uri: str, cache: Path) -> Path:
    """Where ``mirror`` puts the dataset of ``uri``."""
    bucket, prefix = parse_uri(uri)
    return cache / bucket / (prefix or "_")


def mirror(uri: str, cache: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that holds the dataset of ``uri``, fetched into ``cache`` where it is not there yet."""
    bucket, prefix = parse_uri(uri)
    endpoint = environ.get("BINWATCH_S3_ENDPOINT") or None
    out = mirror_folder(uri, cache)
    store = S3Store(uri, endpoint)
    out.mkdir(parents=True, exist_ok=True)
    beside = S3Store(f"s3://{bucket}/{'/'.join(prefix.split('/')[:-2])}", endpoint) if prefix else store
    for name in BESIDE:
        for place in (store, beside):
            try:
                write_whole(out / name, place.read(name))
                break
            except Missing:
                continue
    ids = list_ids(store)
    fetch(store, ids, len(ids), out)
    return out


def list_ids(store: Store) -> list[str]:
    """The ids of all records of a store. Raises DataError where there is none."""
    try:
        ids = [Path(key).stem for key in store.keys("metadata/") if key.endswith(".json")]
    except Missing:
        ids = []
    if not ids:
        raise DataError(f"{getattr(store, 'uri', store)} holds no metadata/<id>.json; check the bucket and the prefix")
    return ids
