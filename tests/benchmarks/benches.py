"""Benchmarks: each gives how many times faster we are than a named peer in the same run."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import numpy as np
from botocore import UNSIGNED
from botocore.config import Config

from tests.benchmarks.slow_proxy import SlowProxy
from trainer.data import s3, transfer
from trainer.data.counts import Counts
from trainer.data.layouts import read_source
from trainer.data.prepared import decoded, prepare

COUNTS = Counts()
T = TypeVar("T")

Server = Callable[[Path], AbstractContextManager[str]]
"""Starts an S3 server that keeps its state in a folder, and gives its address."""


@dataclass(frozen=True)
class Result:
    """One benchmark. ``ratio``: the first peer's seconds, or our rate, over the other's; ``peers``: their ratios.

    ``compared``: what a ratio says of a peer.
    """

    name: str
    ratio: float
    target: float
    holds: bool
    peers: dict[str, float]
    runs: dict[str, list[float]]
    machine: str
    compared: str = "times as fast as"


def result(name: str, target: float, runs: dict[str, list[float]], holds_too: float = 1.0) -> Result:
    """Ratios from seconds a run, ours under the key "ours"; every further peer must be beaten by ``holds_too``."""
    ours = statistics.median(runs["ours"])
    exact = {peer: statistics.median(times) / ours for peer, times in runs.items() if peer != "ours"}
    first, *others = exact.values()
    holds = first >= target and all(ratio > holds_too for ratio in others)
    peers = {peer: rounded(ratio) for peer, ratio in exact.items()}
    seconds = {name: [round(value, 3) for value in times] for name, times in runs.items()}
    return Result(name, rounded(first), target, holds, peers, seconds, machine())


def rounded(ratio: float) -> float:
    """A ratio as it is shown. What is asked is held against the exact one: 1.1494 is not 1.15."""
    return round(ratio, 3)


def machine() -> str:
    """What a benchmark ran on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def bench_fetch(data: Path, s3_server: Server, photos: int = 1000, delay_s: float = 0.05) -> Result:
    """1,000 photos and records from a real S3 server, every request delayed by 50 ms.

    Peers: the report's loop (boto3's download_file, one after another) and ``aws s3 cp --recursive``.
    """
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="binwatch-bench-")))
        url = stack.enter_context(s3_server(work / "s3"))
        ids = [photo.id for photo in read_source(data, COUNTS).photos[:photos]]
        _fill_bucket(data, ids, work / "few", url)
        split_url = urlsplit(url)
        proxy = SlowProxy((str(split_url.hostname), int(split_url.port or 0)), delay_s)
        slow = stack.enter_context(proxy.running())
        runs = {"download_file, one after another": [timed(lambda: _report_loop(slow, ids, work / "loop"))[0]]}
        if shutil.which("aws"):
            runs["aws s3 cp --recursive"] = [timed(lambda: _aws_copy(slow, work / "aws"))[0]]
        command = [sys.executable, "scripts/fetch_data.py", "--source", "s3://bins", "--endpoint-url", slow]
        runs["ours"] = [timed(partial(_run, [*command, "--out", work / str(run)]))[0] for run in range(3)]
    return result("fetch", 20.0, runs)


def _run(words: Sequence[object]) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def _fill_bucket(data: Path, ids: list[str], few: Path, url: str) -> None:
    transfer.fetch(s3.FolderStore(data), ids, len(ids), few)
    (few / transfer.REPORT).unlink()
    s3.S3Store("s3://bins", url).client.create_bucket(Bucket="bins")
    transfer.upload(few, "s3://bins", url)


def _report_loop(url: str, ids: list[str], out: Path) -> None:
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(signature_version=UNSIGNED))
    for folder, suffix in (("metadata", "json"), ("bin-images", "jpg")):
        (out / folder).mkdir(parents=True)
        for photo_id in ids:
            name = f"{folder}/{photo_id}.{suffix}"
            client.download_file("bins", name, str(out / name))


def _aws_copy(url: str, out: Path) -> None:
    command = [
        "aws",
        "s3",
        "cp",
        "--recursive",
        "--no-sign-request",
        "--quiet",
        "--endpoint-url",
        url,
        "--region",
        "us-east-1",
        "s3://bins",
        str(out),
    ]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, check=True, env=clean)


def bench_loader(data: Path, _server: Server, photos: int = 2000, size_px: int = 64, workers: int = 2) -> Result:
    """One shuffled epoch of batches of 32 from the decoded cache.

    Peer: torchvision's ImageFolder in a DataLoader, same photos, same output (uint8, squashed to
    ``size_px``, antialiased bilinear), ``workers`` workers.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        work = Path(folder)
        chosen = read_source(data, COUNTS).photos[:photos]
        for photo in chosen:
            target = work / "images" / str(photo.count) / f"{photo.id}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(photo.path.resolve())
        pixels = decoded(prepare(work / "images", work / "prepared", COUNTS), size_px)
        runs: dict[str, list[float]] = {"ImageFolder in a DataLoader": [], "ours": []}
        for _ in range(3):
            runs["ImageFolder in a DataLoader"].append(
                timed(lambda: _image_folder(work / "images", size_px, workers))[0]
            )
            runs["ours"].append(timed(lambda: _cached(pixels, len(chosen)))[0])
    return result("loader", 10.0, runs)


def _image_folder(images: Path, size_px: int, workers: int) -> None:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

    squash = Compose([Resize((size_px, size_px), InterpolationMode.BILINEAR, antialias=True), PILToTensor()])
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(images), squash), batch_size=32, shuffle=True, num_workers=workers
    )
    for batch, _ in loader:
        batch.sum()


def _cached(pixels: Any, photos: int) -> None:
    import torch

    order = np.random.default_rng(0).permutation(photos)
    for start in range(0, photos, 32):
        torch.from_numpy(np.asarray(pixels[order[start : start + 32]])).sum()


BENCHES: dict[str, Callable[[Path, Server], Result]] = {"fetch": bench_fetch, "loader": bench_loader}
