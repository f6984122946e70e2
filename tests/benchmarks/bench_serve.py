"""The benchmark of serving: this project's archive and two peers under the same load, on 127.0.0.1."""

import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import requests
import torch
from PIL import Image

from serve.archives.archive import manifest_of, unpacked
from serve.counter import Counter
from serve.errors import ServerError, TrainingError
from serve.local.servers import free_port
from serve.manifest import FP32_MODEL, MANIFEST_FILE
from tests.benchmarks import eager
from tests.benchmarks.http_load import Load, generate_load
from tests.benchmarks.results import COUNTS, ROOT, Result, machine, rounded
from trainer.data import dataset
from trainer.data.dataset import DataSpec
from trainer.training.export import write_archive
from trainer.training.networks import create
from trainer.training.recipes import RECIPES

CLIENTS, REQUESTS, ROUNDS = 8, 200, 2
"""REQUESTS per round and setting; the settings take turns."""
TARGET = 4.0
PHOTOS = 200

STOCK, LITSERVE, FP32, OURS = "TorchServe, stock, eager", "LitServe, eager", "ours, fp32", "ours, int8"

StartTorchServe = Callable[[Path, None, Mapping[str, str]], AbstractContextManager[tuple[str, str, Path]]]
"""Starts a TorchServe with its state in a folder; yields its inference and management addresses and its model store."""


@dataclass(frozen=True)
class Deployment:
    """An archive, and the settings that TorchServe registers it with."""

    path: Path
    settings: Mapping[str, int]


@dataclass(frozen=True)
class Peers:
    """The archives that TorchServe serves, by name, and the weights of LitServe's network."""

    archives: Mapping[str, Deployment]
    weights: Path


def bench_serve(data: Path, torchserve: StartTorchServe, settings: Mapping[str, int]) -> Result:
    """ResNet-34 at 224 px, full-size photos, 8 clients; every peer with one worker and with one per core.

    Peers: TorchServe with its stock ``image_classifier``, and LitServe with the same eager network. Torch's threads
    share the cores between the workers. The weights are random, because they do not change the time. ``settings``:
    those of this project's archives in TorchServe.
    """
    photos = _photos(data)
    loads: dict[tuple[str, int], list[Load]] = {}
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        work = Path(folder)
        peers = _peers(data, work, settings)
        for number, workers in enumerate(_worker_counts() * ROUNDS):
            for name, load in _one_round(work / f"round-{number}", peers, workers, photos, torchserve):
                loads.setdefault((name, workers), []).append(load)
        in_process = _in_process(peers.archives[OURS].path, photos)
    return compare_loads(loads, in_process)


def compare_loads(loads: Mapping[tuple[str, int], Sequence[Load]], in_process: float) -> Result:
    """The result from the loads by peer and number of workers; each peer counts with its best setting.

    ``in_process``: photos per second without a server. It holds when this project is TARGET times as fast as the first
    peer, and its 99th percentile of the latency is below that of both peers.
    """
    pooled = {setting: _pool(rounds) for setting, rounds in loads.items()}
    best: dict[str, Load] = {}
    for (name, _), load in pooled.items():
        best[name] = max(best.get(name, load), load, key=lambda candidate: candidate.rate)
    own = best[OURS]
    ratios = {name: own.rate / load.rate for name, load in best.items() if name != OURS}
    ratios["our int8 in process"] = own.rate / in_process
    runs = {"int8 in process, photos/s": [round(in_process, 1)]}
    for (name, workers), rounds in loads.items():
        runs[f"{name}, {workers} workers: requests/s"] = [round(load.rate, 2) for load in rounds]
        runs[f"{name}, {workers} workers: p99 ms"] = [round(load.p99_ms, 1) for load in rounds]
    runs |= {f"{name}, best: p99 ms": [round(load.p99_ms, 1)] for name, load in best.items()}
    return Result(
        name="serve",
        ratio=rounded(ratios[STOCK]),
        target=TARGET,
        holds=ratios[STOCK] >= TARGET and all(own.p99_ms < best[name].p99_ms for name in (STOCK, LITSERVE)),
        peers={name: rounded(ratio) for name, ratio in ratios.items()},
        runs=runs,
        machine=machine(),
    )


def _pool(rounds: Sequence[Load]) -> Load:
    """The rounds of one setting as one load."""
    seconds = tuple(latency for load in rounds for latency in load.seconds)
    return Load(len(seconds) / sum(len(load.seconds) / load.rate for load in rounds), seconds)


def _worker_counts() -> list[int]:
    return sorted({1, len(os.sched_getaffinity(0))})


def _one_round(
    work: Path, peers: Peers, workers: int, photos: Sequence[bytes], torchserve: StartTorchServe
) -> Iterator[tuple[str, Load]]:
    """The load on every peer, one after another."""
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}
    with torchserve(work, None, threads) as (inference, management, store):
        for name, deployment in peers.archives.items():
            shutil.copy(deployment.path, store)
            with _registered(management, deployment, workers):
                url = f"{inference}/predictions/{deployment.path.stem}"
                yield name, _measure(url, photos, {"Content-Type": "image/jpeg"})
    with _litserve(peers.weights, workers, threads, work) as url:
        bodies = [json.dumps({"image_data": base64.b64encode(photo).decode()}).encode() for photo in photos]
        yield LITSERVE, _measure(url, bodies, {"Content-Type": "application/json"})


def _measure(url: str, bodies: Sequence[bytes], headers: Mapping[str, str]) -> Load:
    generate_load(url, bodies, headers, 4 * CLIENTS, CLIENTS)  # warm-up
    return generate_load(url, bodies, headers, REQUESTS, CLIENTS)


@contextmanager
def _registered(management: str, deployment: Deployment, workers: int) -> Iterator[None]:
    path = deployment.path
    query: dict[str, str | int] = {
        "url": path.name,
        "model_name": path.stem,
        "initial_workers": workers,
        "synchronous": "true",
        **deployment.settings,
    }
    answer = requests.post(f"{management}/models", params=query, timeout=180)
    if not answer.ok:
        raise ServerError(f"TorchServe did not load {path.name}: {answer.status_code} {answer.text[:500]}")
    try:
        yield
    finally:
        requests.delete(f"{management}/models/{path.stem}", timeout=60)


@contextmanager
def _litserve(weights: Path, workers: int, environ: Mapping[str, str], work: Path) -> Iterator[str]:
    """LitServe with the eager network; yields the address of predictions."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.litserve_peer", str(weights), str(port), str(workers)]
    with (work / "litserve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_healthy(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        process.terminate()
        process.wait(30)
        with suppress(ProcessLookupError):  # its orphaned child processes
            os.killpg(process.pid, signal.SIGKILL)


def _wait_healthy(url: str, process: "subprocess.Popen[bytes]", timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise ServerError(f"LitServe at {urlsplit(url).netloc} did not start within {timeout_s:.0f} s")


def _peers(data: Path, work: Path, settings: Mapping[str, int]) -> Peers:
    """This project's archive, the same archive as fp32, and one for TorchServe's stock handler."""
    photos = dataset.load(DataSpec(data, counts=COUNTS, limit=150), 224)
    torch.manual_seed(0)
    recipe = RECIPES["resnet34-scratch"]
    model = create("resnet34", len(COUNTS.values), 224)
    selection, calibration = photos.validation.halves(0)
    exported = write_archive(
        model, photos, recipe, work / "int8", run_id="", metrics={}, selection=selection, calibration=calibration
    )
    if not exported.int8.accepted:
        raise TrainingError(f"the int8 form was rejected, so it cannot be compared: {exported.int8.reason}")
    weights = work / "resnet34.pth"
    torch.save(eager.ImageClassifier().state_dict(), weights)
    int8 = exported.archive.rename(work / "ours-int8.mar")
    archives = {
        STOCK: Deployment(_stock_archive(weights, work), {}),
        OURS: Deployment(int8, settings),
        FP32: Deployment(_as_fp32(int8, work / "ours-fp32.mar"), settings),
    }
    return Peers(archives, weights)


def _stock_archive(weights: Path, work: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "model_archiver.model_packaging",
        "--model-name",
        "stock",
        "--version",
        "1",
        "--model-file",
        str(eager.__file__),
        "--serialized-file",
        str(weights),
        "--handler",
        "image_classifier",
        "--export-path",
        str(work),
        "--archive-format",
        "zip-store",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return work / "stock.mar"


def _as_fp32(source: Path, target: Path) -> Path:
    """A copy of an archive of which CPUs run the fp32 form."""
    manifest = replace(manifest_of(source).for_gpu(), cpu_model=FP32_MODEL, exact=None)
    with zipfile.ZipFile(source) as original, zipfile.ZipFile(target, "w") as copy:
        for name in original.namelist():
            copy.writestr(name, manifest.to_json() if name == MANIFEST_FILE else original.read(name))
    return target


def _photos(data: Path) -> list[bytes]:
    """Real full-size photos if there are any, otherwise drawn or small ones enlarged to a typical size."""
    folder = Path(os.environ.get("BINWATCH_FULL_SIZE") or data.parent / "full-size")
    if folder.is_dir():
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:PHOTOS]]
    return [_enlarged(path) for path in sorted((data / "bin-images").glob("*.jpg"))[:PHOTOS]]


def _enlarged(path: Path) -> bytes:
    out = io.BytesIO()
    Image.open(path).convert("RGB").resize((520, 445)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _in_process(path: Path, photos: Sequence[bytes]) -> float:
    """The throughput of the int8 model without a server, in photos per second, on every core, from pixels in memory."""
    cores = len(os.sched_getaffinity(0))
    with unpacked(path) as folder, ThreadPoolExecutor(cores) as pool:
        counters = [Counter(folder) for _ in range(cores)]
        images = [pixels for pixels in map(counters[0].read, photos) if isinstance(pixels, np.ndarray)]

        def predict_all(counter: Counter) -> None:
            for image in images:
                counter.logits(image[None])

        start = time.perf_counter()
        list(pool.map(predict_all, counters))
        return cores * len(images) / (time.perf_counter() - start)
