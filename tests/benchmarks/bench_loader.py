"""The benchmark of reading photos for training."""

import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.results import COUNTS, Result, Server, compare_seconds, timed
from trainer.data.dataset import Pixels
from trainer.data.layouts import read_source
from trainer.data.prepare import prepare
from trainer.data.prepared import decoded

PEER = "ImageFolder in a DataLoader"


def bench_loader(data: Path, _server: Server, photos: int = 2000, size_px: int = 64, workers: int = 2) -> Result:
    """One shuffled epoch of batches of 32 from the cache of decoded photos.

    Peer: torchvision's ImageFolder in a DataLoader with ``workers`` workers, same photos, same output (uint8, squashed
    to ``size_px``, antialiased bilinear).
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-bench-") as folder:
        work = Path(folder)
        chosen = read_source(data, COUNTS).photos[:photos]
        for photo in chosen:
            target = work / "images" / str(photo.count) / f"{photo.id}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(photo.path.resolve())
        pixels = decoded(prepare(work / "images", work / "prepared", COUNTS), size_px)
        runs: dict[str, list[float]] = {PEER: [], "ours": []}
        for _ in range(3):
            runs[PEER].append(timed(lambda: _read_image_folder(work / "images", size_px, workers))[0])
            runs["ours"].append(timed(lambda: _read_cache(pixels, len(chosen)))[0])
    return compare_seconds("loader", 10.0, runs)


def _read_image_folder(images: Path, size_px: int, workers: int) -> None:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize

    squash = Compose([Resize((size_px, size_px), InterpolationMode.BILINEAR, antialias=True), PILToTensor()])
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(images), squash), batch_size=32, shuffle=True, num_workers=workers
    )
    for batch, _ in loader:
        batch.sum()


def _read_cache(pixels: Pixels, photos: int) -> None:
    import torch

    order = np.random.default_rng(0).permutation(photos)
    for start in range(0, photos, 32):
        torch.from_numpy(np.asarray(pixels[order[start : start + 32]])).sum()
