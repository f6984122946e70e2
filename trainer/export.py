"""From trained weights to an archive: ONNX, checked against torch, packed with golden photos."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import serve
from serve import archive, photo
from serve.counter import Counter as ServedCounter
from serve.errors import ArchiveError
from trainer.abid import LICENCE
from trainer.dataset import Dataset, Part
from trainer.model import Counter
from trainer.recipes import Recipe

MODEL_NAME = "bin-counter"
PARITY = 1e-3
"""How far a probability of the exported model may be from torch's."""

_TRAVELLING = (
    "__init__.py", "answers.py", "archive.py", "capture.py", "counter.py", "errors.py", "event.py", "hourly.py",
    "links.py", "payload.py", "photo.py", "upload.py", "verdict.py",
)  # fmt: skip


def write_archive(
    model: Counter, data: Dataset, recipe: Recipe, out: Path, *, run_id: str, metrics: Mapping[str, float],
    temperature: float = 1.0, scores: Mapping[str, tuple[float, ...]] | None = None,
) -> Path:  # fmt: skip
    """Export ``model`` and pack it as ``out/bin-counter.mar``. Raises ArchiveError where ONNX and torch differ."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="binwatch-export-") as temporary:
        stage = Path(temporary) / "stage"
        _copy_code(stage)
        model = copy.deepcopy(model).cpu().eval()  # a GPU's TF32 would blur the comparison below
        _export_onnx(model, data.size_px, stage / archive.MODEL)
        photos = _copy_golden(data.validation, stage)
        manifest = archive.Manifest(
            classes=data.counts.values, open_top=data.counts.open_top,
            size_px=data.size_px, run_id=run_id, dataset_fingerprint=data.fingerprint,
            metrics=dict(metrics), golden=(), files=_checksums(stage), licence=LICENCE, recipe=asdict(recipe),
            temperature=temperature, scores=scores or {},
        )  # fmt: skip
        (stage / archive.MANIFEST).write_text(manifest.to_json())
        counter = ServedCounter(stage)
        _check_parity(model, counter, data.validation.pixels[:32])
        golden = tuple(_golden(counter, stage, name) for name in photos)
        (stage / archive.MANIFEST).write_text(replace(manifest, golden=golden).to_json())
        return _pack(stage, out)


def _copy_code(stage: Path) -> None:
    source = Path(serve.__file__).parent
    (stage / "serve").mkdir(parents=True)
    for name in _TRAVELLING:
        shutil.copy(source / name, stage / "serve" / name)
    shutil.copy(source / "handler.py", stage / "handler.py")


def _export_onnx(model: Counter, size_px: int, path: Path) -> None:
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            model, (example,), str(path), input_names=["pixels"],
            output_names=["logits"], dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def _copy_golden(part: Part, stage: Path) -> list[str]:
    """Copy one validation photo a class, as it lies on disk, so that decoding is checked too."""
    (stage / "golden").mkdir()
    chosen = [int(np.flatnonzero(part.labels == label)[0]) for label in np.unique(part.labels)]
    names = [f"golden/{number}.jpg" for number in range(len(chosen))]
    for index, name in zip(chosen, names, strict=True):
        shutil.copy(part.photos[index].path, stage / name)
    return names


def _golden(counter: ServedCounter, stage: Path, name: str) -> archive.Golden:
    pixels = photo.read((stage / name).read_bytes(), counter.manifest.size_px)
    return archive.Golden(name, tuple(round(float(p), 6) for p in counter.probabilities(pixels[None])[0]))


def _checksums(stage: Path) -> dict[str, str]:
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    return {str(path.relative_to(stage)): archive.sha256(path) for path in files}


@torch.no_grad()
def _check_parity(model: Counter, counter: ServedCounter, pixels: photo.Pixels) -> None:
    logits = model(torch.from_numpy(pixels)).double()
    expected = (logits / counter.manifest.temperature).softmax(1).numpy()
    difference = float(np.abs(counter.probabilities(pixels) - expected).max())
    if not difference <= PARITY:
        raise ArchiveError(
            f"the exported model's probabilities are up to {difference:.2g} from torch's, more than {PARITY}; "
            "the weights may not be finite, or the exporter does not support this model"
        )


def _pack(stage: Path, out: Path) -> Path:
    # The archiver works in <TMPDIR>/<model name>: its own TMPDIR keeps parallel exports apart.
    work = stage.with_name("work")
    work.mkdir()
    command = [
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", MODEL_NAME, "--version", "0",
        "--serialized-file", stage / archive.MODEL, "--handler", stage / "handler.py",
        "--extra-files", stage, "--export-path", out, "--force", "--archive-format", "zip-store",
    ]  # fmt: skip
    done = subprocess.run(
        [str(word) for word in command], env={**os.environ, "TMPDIR": str(work)}, capture_output=True, text=True
    )
    if done.returncode:
        raise ArchiveError(f"torch-model-archiver failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return out / f"{MODEL_NAME}.mar"
