"""Prepared datasets in a bucket: uploaded once, and fetched by trainings on other machines.

    URI/prepared.json, versions/, audits/, extra/    as in the folder (``trainer/data/prepared.py``)
    URI/photos/, URI/recounts/                       the photos of the tables, with their records

Decoded photos are not in it: each machine decodes them again. On both ways ``prepared.json`` is written last, so that
an interruption leaves the previous version, and a second call transfers only what is missing. Every photo is checked
against its table, and the table against its fingerprint.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from serve.errors import DataError
from serve.manifest import sha256
from serve.objects.folder_objects import FolderObjects
from trainer.data import prepared, tables
from trainer.data.layouts import DESCRIPTION, is_prepared
from trainer.data.prepared import EXTRA, Prepared, Row
from trainer.data.recounts import is_recount
from trainer.data.s3 import Missing, S3Store

PHOTOS, RECOUNTS = "photos", "recounts"
Item = TypeVar("Item")
Result = TypeVar("Result")


def upload(folder: Path, uri: str, endpoint_url: str | None = None, workers: int = 32) -> tuple[int, int]:
    """Upload the prepared dataset in ``folder``; returns how many files were sent, and how many were there already.

    Raises DataError, UnavailableError.
    """
    datasets = {inner: prepared.read(folder / inner) for inner in ("", EXTRA) if is_prepared(folder / inner)}
    files = {key: path for inner, dataset in datasets.items() for key, path in _files(inner, dataset)}
    store = S3Store(uri, endpoint_url, workers)

    def send(key: str) -> bool:
        with tables.reading(files[key]):
            return store.write(key, files[key].read_bytes())

    try:
        sent = sum(_in_threads(send, list(files), workers, "uploading"))
        for inner in reversed(datasets):  # the main one last
            sent += store.write(str(Path(inner, DESCRIPTION)), (folder / inner / DESCRIPTION).read_bytes())
    except Missing as error:
        raise DataError(f"{uri} cannot be written: there is no such bucket, or no right to write to it") from error
    return sent, len(files) + len(datasets) - sent


def is_in_bucket(store: S3Store) -> bool:
    """Whether ``store`` holds a prepared dataset. Raises DataError, UnavailableError."""
    return _read_if_there(store, DESCRIPTION) is not None


def fetch(store: S3Store, folder: Path, workers: int = 32) -> Prepared:
    """Fetch a prepared dataset into ``folder``, or bring it up to date there. Raises DataError, UnavailableError."""
    for inner in (EXTRA, ""):
        description = _read_if_there(store, str(Path(inner, DESCRIPTION)))
        if description is not None:
            prepared.write(_fetch_files(store, folder, inner, description, workers))
    return prepared.read(folder)


def _fetch_files(store: S3Store, folder: Path, inner: str, description: bytes, workers: int) -> Prepared:
    """Fetch the photos and the audit of the dataset below ``inner``; returns it as it is in ``folder``."""
    root = folder.resolve()
    dataset = replace(
        _read_table(store, inner, description), folder=folder / inner, source=root / PHOTOS, recounts=root / RECOUNTS
    )

    def receive(row: Row) -> None:
        _fetch_photo(store, root, dataset, row)

    for _ in _in_threads(receive, dataset.rows, workers, "fetching"):
        pass
    audit = prepared.audit_table(dataset).relative_to(folder)
    if content := _read_if_there(store, str(audit)):
        FolderObjects(folder).write(str(audit), content)
    return dataset


def _read_table(store: S3Store, inner: str, description: bytes) -> Prepared:
    """The dataset below ``inner`` as it was uploaded. Raises DataError where the table has not its fingerprint."""
    try:
        fingerprint = str(json.loads(description)["fingerprint"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{store.uri} holds a damaged {DESCRIPTION}: {error}; upload it again") from error
    with tempfile.TemporaryDirectory() as scratch:
        objects = FolderObjects(Path(scratch))
        table = str(prepared.table_path(Path(), fingerprint))
        objects.write(DESCRIPTION, description)
        objects.write(table, _read(store, str(Path(inner, table))))
        return prepared.read(Path(scratch))


def _fetch_photo(store: S3Store, root: Path, dataset: Prepared, row: Row) -> None:
    path = dataset.path_of(row)
    key, objects = str(path.relative_to(root)), FolderObjects(root)
    if not prepared.is_unchanged(path, row):
        objects.write(key, _read(store, key))
        if sha256(path) != row.digest:
            path.unlink()
            raise DataError(f"{key} in {store.uri} is not the photo of the table; upload the prepared dataset again")
        os.utime(path, ns=(row.mtime_ns, row.mtime_ns))
    record = _record_of(path)
    if record and not record.is_file() and (content := _read_if_there(store, str(record.relative_to(root)))):
        objects.write(str(record.relative_to(root)), content)


def _files(inner: str, dataset: Prepared) -> Iterator[tuple[str, Path]]:
    """What is uploaded of a dataset but its description: keys and files."""
    for row in dataset.rows:
        path = dataset.path_of(row)
        key = Path(RECOUNTS if is_recount(row.id) else PHOTOS, row.path)
        yield str(key), path
        if (record := _record_of(path)) and record.is_file():
            yield str(key.parent.parent / "metadata" / record.name), record
    for path in (prepared.table_path(dataset.folder, dataset.fingerprint), prepared.audit_table(dataset)):
        if path.is_file():
            yield str(Path(inner) / path.relative_to(dataset.folder)), path


def _record_of(path: Path) -> Path | None:
    """The record beside a photo in the dataset's layout; None in another one."""
    if path.parent.name != "bin-images":
        return None
    return path.parent.parent / "metadata" / f"{path.stem}.json"


def _read(store: S3Store, key: str) -> bytes:
    content = _read_if_there(store, key)
    if content is None:
        raise DataError(f"{store.uri} lacks {key}; upload the prepared dataset again")
    return content


def _read_if_there(store: S3Store, key: str) -> bytes | None:
    try:
        return store.read(key)
    except Missing:
        return None


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item], workers: int, name: str) -> Iterator[Result]:
    """The results of ``work``, in order; the first error ends it."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(work, items), desc=name, total=len(items), unit="file")
        finally:
            pool.shutdown(cancel_futures=True)
