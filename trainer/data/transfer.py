"""Transfer of photos and records: from a bucket or a folder into a folder, and from a folder into a bucket.

Transfers are concurrent and can be resumed: files that exist are not transferred again. Every file is checked and
written atomically. Missing and damaged objects are listed in a report; a full disk ends the transfer with one error.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from serve import photo
from serve.errors import DataError
from serve.files import atomic_write, write_text
from serve.settings import read
from serve.settings.common import StoreSettings
from trainer.data import abid, tables
from trainer.data.abid import FILE_LIST, OPTIONAL_FILES
from trainer.data.dataset import DataSpec
from trainer.data.layouts import is_prepared
from trainer.data.mirrors import prepared_mirror
from trainer.data.s3 import Missing, S3Store, Store, parse_uri
from trainer.data.split import stable_hash, subset

REPORT = "fetch_report.json"


@dataclass(kw_only=True)
class Report:
    """What a fetch did. ``missing`` and ``damaged``: key -> reason."""

    fetched: int = 0
    present: int = 0
    size_bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def fetch(store: Store, ids: Iterable[str], total: int, out: Path, workers: int = 32) -> Report:
    """Fetch the record and the photo of each of ``total`` ids into ``out``, unless they are there already."""
    for folder in ("metadata", "bin-images"):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for leftover in (out / folder).glob(".*.partial"):  # of a fetch that was killed
            leftover.unlink()
    report, lock = Report(), threading.Lock()
    with tqdm(total=2 * total, desc="fetching", unit="file") as bar:

        def fetch_key(key: str) -> None:
            _fetch_object(store, key, out / key, report, lock)
            with lock:
                bar.set_postfix_str(f"{report.size_bytes / 1e6:.1f} MB", refresh=False)
                bar.update()

        keys = (key for photo_id in ids for key in (f"metadata/{photo_id}.json", f"bin-images/{photo_id}.jpg"))
        _run_in_threads(fetch_key, keys, workers)
    listed = {"missing": dict(sorted(report.missing.items())), "damaged": dict(sorted(report.damaged.items()))}
    write_text(out / REPORT, json.dumps(listed, indent=1))
    return report


def _run_in_threads(work: Callable[[str], None], keys: Iterable[str], workers: int) -> None:
    """Call ``work`` for each of ``keys``, which are consumed lazily. The first error stops all threads."""
    iterator, lock, stop = iter(keys), threading.Lock(), threading.Event()

    def worker() -> None:
        while not stop.is_set():
            with lock:
                key = next(iterator, None)
            if key is None:
                return
            try:
                work(key)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(worker) for _ in range(workers)]:
            future.result()


def _fetch_object(store: Store, key: str, path: Path, report: Report, lock: threading.Lock) -> None:
    """Fetch one object to ``path`` and add the outcome to ``report``."""
    with tables.reading(path):
        present = path.is_file() and path.stat().st_size > 0
    if present:
        with lock:
            report.present += 1
        return
    try:
        data = store.read(key)
    except Missing:
        with lock:
            report.missing[key] = "the store has no such object"
        return
    reason = damage(key, data)
    if not reason:
        try:
            _write(path, data)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}; mend this and run it again") from error
    with lock:
        report.size_bytes += len(data)
        if not reason:
            report.fetched += 1
        elif data:
            report.damaged[key] = reason
        else:
            report.missing[key] = reason


def damage(key: str, data: bytes) -> str | None:
    """Why an object cannot be a whole photo or record, or None if it seems to be one. Photos are not decoded."""
    if not data:
        return "it is empty"
    if key.endswith(".json"):
        try:
            json.loads(data)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON: {tables.reason(error)}"
    elif not photo.is_whole(data):
        return "it is not a whole JPEG or PNG: its start or its end is missing"
    return None


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as out:
        out.write(data)


def upload(folder: Path, uri: str, endpoint_url: str | None = None, workers: int = 32) -> tuple[int, int]:
    """Upload all files of ``folder`` below ``uri``; returns how many were sent, and how many were there already.

    Of a prepared dataset, the photos are sent, too, wherever they are.
    """
    if is_prepared(folder):
        return prepared_mirror.upload(folder, uri, endpoint_url, workers)
    store = S3Store(uri, endpoint_url, workers)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".partial"))
    if not paths:
        raise DataError(f"{folder} holds no file to upload")
    sent, lock = 0, threading.Lock()
    with tqdm(total=len(paths), desc="uploading", unit="file") as bar:

        def upload_file(name: str) -> None:
            nonlocal sent
            with tables.reading(folder / name):
                is_new = store.write(name, (folder / name).read_bytes())
            with lock:
                sent += is_new
                bar.update()

        try:
            _run_in_threads(upload_file, (str(path.relative_to(folder)) for path in paths), workers)
        except Missing as error:
            raise DataError(f"{uri} cannot be written: there is no such bucket, or no right to write to it") from error
    return sent, len(paths) - sent


def mirror_folder(uri: str, cache: Path) -> Path:
    """The folder in ``cache`` that ``mirror`` uses for ``uri``."""
    bucket, prefix = parse_uri(uri)
    return cache / bucket / (prefix or "_")


def mirror(uri: str, cache: Path, spec: DataSpec | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Fetch the missing photos and records of ``uri`` into a folder in ``cache``, and return the folder.

    A prepared dataset is fetched whole (``trainer/data/mirrors/prepared_mirror.py``). Of others, the file list and the
    labels are fetched each time; they may be at ``uri`` or one level above it. Where ``spec`` has a limit, only as much
    is fetched as it takes: with a file list, the photos that ``subset`` chooses from it; without, ids in the order of a
    hash until there are enough usable photos, so that each photo is as likely as any other, and the counts have about
    the shares that they have in the bucket. More may be there, of earlier calls.
    """
    bucket, prefix = parse_uri(uri)
    endpoint_url = read(StoreSettings, environ).s3_endpoint
    out = mirror_folder(uri, cache)
    store = S3Store(uri, endpoint_url)
    if prepared_mirror.is_in_bucket(store):
        prepared_mirror.fetch(store, out)
        return out
    out.mkdir(parents=True, exist_ok=True)
    parent = S3Store(f"s3://{bucket}/{'/'.join(prefix.split('/')[:-2])}", endpoint_url) if prefix else store
    for name in OPTIONAL_FILES:
        for place in (store, parent):
            try:
                _write(out / name, place.read(name))
                break
            except Missing:
                continue
    if spec is None or spec.limit is None:
        ids = list_ids(store)
        fetch(store, ids, len(ids), out)
    elif (out / FILE_LIST).is_file():
        ids = _chosen_ids(out / FILE_LIST, spec)
        fetch(store, ids, len(ids), out)
    else:
        _fetch_until(store, out, spec, spec.limit)
    return out


def _chosen_ids(file_list: Path, spec: DataSpec) -> list[str]:
    """The ids of a file list that ``spec`` chooses, in the proportions of their counts. Raises DataError."""
    listed = abid.select_ids(abid.read_file_list(file_list), spec.counts, None)
    photos = [abid.Photo(photo_id, count, Path(), photo_id) for count, ids in listed.items() for photo_id in ids]
    return [photo.id for photo in subset(photos, spec.limit, spec.seed)]


def _fetch_until(store: Store, out: Path, spec: DataSpec, limit: int) -> None:
    """Fetch photos in the order of a hash, half as many again as are lacking each time, until ``limit`` are usable."""
    ids, usable = iter(shuffled_ids(store, spec.seed)), 0
    while usable < limit and (batch := list(islice(ids, (limit - usable) * 3 // 2 + 1))):
        fetch(store, batch, len(batch), out)
        usable += sum(abid.is_usable(out, photo_id, spec.counts) for photo_id in batch)


def shuffled_ids(store: Store, seed: int = 0) -> list[str]:
    """The ids of all records in a store, in the order of a hash. Raises DataError if there are none."""
    return sorted(list_ids(store), key=partial(stable_hash, seed))


def list_ids(store: Store) -> list[str]:
    """The ids of all records in a store: a request per 1,000 of them. Raises DataError if there are none."""
    try:
        with tqdm(store.keys("metadata/"), desc="listing", unit="record") as keys:
            ids = [Path(key).stem for key in keys if key.endswith(".json")]
    except Missing:
        ids = []
    if not ids:
        raise DataError(f"{getattr(store, 'uri', store)} holds no metadata/<id>.json; check the bucket and the prefix")
    return ids
