"""Photos and records from a bucket or a folder into a folder, and a folder into a bucket.

    fetch     concurrent, resumable: what is there already is not asked for again
    upload    the other way, for an S3 store of one's own
    mirror    a bucket as a folder, beside the files that lie beside it

Every file is checked and then written whole or not at all; a missing object is listed; a full disk ends the work
with one error.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from serve.errors import DataError
from trainer.data.abid import BESIDE
from trainer.data.s3 import Missing, S3Store, Store, parse_uri

REPORT = "fetch_report.json"


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
