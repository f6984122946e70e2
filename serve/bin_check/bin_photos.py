"""The photos of bins: in a folder or a bucket, named after the bins, or where the records say."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import BinaryIO

from serve import links
from serve.errors import DataError, MissingError, RequestError, StoreError, StoreTimeoutError, UnavailableError
from serve.links import MAX_BYTES, Link, PhotoStore, s3_client, too_large_error

SUFFIXES = (".jpg", ".jpeg", ".png")
S3 = "s3://"
TIMEOUT_S, ATTEMPTS = 30.0, 4


class BinPhotos:
    """Finds and reads photos. An address is a path or a link ``s3://bucket/key``.

    ``named``: bin id -> address of the photo that is named after it; ``folder``: what paths in records are relative to.
    """

    def __init__(self, named: Mapping[str, str], folder: str, s3_endpoint: str | None = None) -> None:
        self._named, self._folder, self._s3_endpoint = named, folder, s3_endpoint
        self._stores: dict[str, PhotoStore] = {}
        self._lock = Lock()

    def find(self, bin_id: str, photo: str = "") -> str:
        """The address of a bin's photo; ``photo``: what its record says, which wins. Raises MissingError."""
        if photo.startswith(S3):
            return photo
        if photo:
            return f"{self._folder}{photo}" if self._folder.startswith(S3) else str(Path(self._folder) / photo)
        if bin_id not in self._named:
            raise MissingError("there is no photo of this bin")
        return self._named[bin_id]

    def read(self, address: str) -> bytes:
        """The bytes of a photo. Raises RequestError where it cannot be used, UnavailableError where nothing can."""
        if address.startswith(S3):
            return self._download(links.parse(address))
        with open_photo(address) as file:
            return file.read()

    def _download(self, link: Link) -> bytes:
        with self._lock:
            if link.bucket not in self._stores:
                self._stores[link.bucket] = PhotoStore(frozenset({link.bucket}), self._s3_endpoint, TIMEOUT_S)
            store = self._stores[link.bucket]
        reason: RequestError | None = None
        for _ in range(ATTEMPTS):
            content = store.read([link])[0]
            if isinstance(content, bytes):
                return content
            if not isinstance(content, StoreError | StoreTimeoutError):
                raise content
            reason = content
        raise UnavailableError(f"{reason}; run the command again, it goes on where it stopped")


@contextmanager
def open_photo(address: str) -> Iterator[BinaryIO]:
    """A photo of this machine, open for reading. Raises RequestError."""
    try:
        with open(address, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MissingError(f"{address} is no file")
            if status.st_size > MAX_BYTES:
                raise too_large_error(address, status.st_size)
            yield file
    except OSError as error:
        raise MissingError(f"the photo {address} cannot be read: {error.strerror}") from error


def open_photos(place: str, records: str, s3_endpoint: str | None = None) -> BinPhotos:
    """The photos at ``place``: a folder, ``s3://bucket/prefix``, or empty where the records say where each is.

    ``records``: the place of those; without ``place``, paths in a file are relative to its folder. Raises DataError.
    """
    if not place:
        folder = Path(records).parent if "://" not in records else Path.cwd()
        return BinPhotos({}, str(folder), s3_endpoint)
    if place.startswith(S3):
        prefix = f"{place.rstrip('/')}/"
        return BinPhotos(_by_stem(_keys(prefix, s3_endpoint), prefix), prefix, s3_endpoint)
    if not Path(place).is_dir():
        raise DataError(f"there is no folder of photos {place}; name a folder, or s3://bucket/prefix")
    with os.scandir(place) as entries:
        paths = sorted(entry.path for entry in entries)
    return BinPhotos(_by_stem(iter(paths), place), place, s3_endpoint)


def _by_stem(addresses: Iterator[str], place: str) -> dict[str, str]:
    named: dict[str, str] = {}
    for address in addresses:
        name = PurePosixPath(address)
        if name.suffix.lower() in SUFFIXES:
            named.setdefault(name.stem, address)
    if not named:
        raise DataError(f"{place} holds no .jpg, .jpeg or .png file")
    return named


def _keys(prefix: str, s3_endpoint: str | None) -> Iterator[str]:
    """The links of all objects directly below ``prefix``, ``s3://bucket/folder/``. Raises DataError."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, folder = prefix.removeprefix(S3).partition("/")
    client = s3_client(s3_endpoint, TIMEOUT_S, 1)
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder, Delimiter="/")
        for page in pages:
            yield from (f"{S3}{bucket}/{item['Key']}" for item in page.get("Contents", ()))
    except (BotoCoreError, ClientError) as error:
        raise DataError(f"the photos at {prefix} cannot be listed: {error}") from error
