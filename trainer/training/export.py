"""From trained weights to an archive: ONNX, int8 and a torch program, checked against torch and against each other.

What is calibrated rests on the answers of the form that will serve: the forms are made and compared first,
on the half of the validation photos that selected the weights, then the other half calibrates.
"""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

import serve
from serve import photo
from serve.counter import Runner, onnx_runner, torch_runner
from serve.errors import ArchiveError
from serve.manifest import FP32_MODEL, GPU_PROGRAM, INT8_MODEL, MANIFEST_FILE, Calibration, Golden, Manifest, sha256
from trainer.artifacts import MODEL_NAME
from trainer.data.abid import LICENCE
from trainer.data.counts import Counts
from trainer.data.dataset import Dataset, Part
from trainer.evaluation.calibration import calibrate, conformal_scores
from trainer.training.networks import Counter
from trainer.training.quantise import Choice, candidates, decide, quantise, sample
from trainer.training.recipes import Recipe
from trainer.training.reference import reference

PARITY = 1e-3
"""How far a probability of an exported form may be from torch's; int8 has limits of its own."""

_BATCH = 32


@dataclass(frozen=True)
class Exported:
    """The archive, what a CPU runs of it and why, and what was measured of that form on the validation photos."""

    archive: Path
    cpu_model: str
    choice: Choice
    metrics: Mapping[str, float]
    reference: Mapping[str, Any]


@dataclass(frozen=True)
class _Golden:
    """Golden photos: their names in the archive, and their pixels uint8 ``(G, S, S, 3)`` as serving reads them."""

    names: tuple[str, ...]
    pixels: photo.Pixels


@dataclass(frozen=True)
class _Calibrated:
    """One form on the calibration photos: what the manifest says of it, its metrics, its probabilities ``(N, C)``."""

    calibration: Calibration
    metrics: Mapping[str, float]
    probabilities: NDArray[np.float64]


def write_archive(
    model: Counter,
    data: Dataset,
    recipe: Recipe,
    out: Path,
    *,
    run_id: str,
    metrics: Mapping[str, float],
    selection: Part,
    calibration: Part,
) -> Exported:
    """Export ``model`` and pack it as ``out/bin-counter.mar``.

    ``selection``, ``calibration``: the halves of the validation photos. Raises ArchiveError where a form and
    torch differ.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="binwatch-export-") as temporary:
        stage = Path(temporary) / "stage"
        _copy_code(stage)
        _export(model, data.size_px, stage)
        fp32 = _runner(stage / FP32_MODEL)
        program = torch_runner(stage / GPU_PROGRAM, "cpu")
        _check_parity(model, {FP32_MODEL: fp32, GPU_PROGRAM: program}, selection.pixels[:_BATCH])
        exact = _probabilities(fp32, selection)
        golden = _copy_golden(selection, exact, data.size_px, stage)
        choice = _try_int8(stage, data.train, selection, exact, golden, recipe.seed)
        of_fp32 = served = _calibrate(fp32, calibration, data.counts, golden)
        if choice.accepted:
            served = _calibrate(_runner(stage / INT8_MODEL), calibration, data.counts, golden)
        found = Manifest(
            classes=data.counts.values,
            open_top=data.counts.open_top,
            size_px=data.size_px,
            run_id=run_id,
            dataset_fingerprint=data.fingerprint,
            metrics={**metrics, **choice.metrics(), **served.metrics},
            golden=(),
            files=_checksums(stage),
            licence=LICENCE,
            recipe=asdict(recipe),
            reference=reference(served.probabilities, data.counts, data.train, recipe.seed),
        )
        manifest = _promising(found, golden, served.calibration, of_fp32.calibration if choice.accepted else None)
        (stage / MANIFEST_FILE).write_text(manifest.to_json())
        return Exported(_pack(stage, out), manifest.cpu_model, choice, manifest.metrics, manifest.reference)


def _promising(manifest: Manifest, golden: _Golden, served: Calibration, exact: Calibration | None) -> Manifest:
    """``manifest`` with what rests on the form that CPUs run: int8 where ``exact``, that of the program, is another."""
    return replace(
        manifest,
        golden=tuple(map(Golden, golden.names, served.golden)),
        temperature=served.temperature,
        scores=served.scores,
        cpu_model=INT8_MODEL if exact else FP32_MODEL,
        exact=exact,
    )


def _copy_code(stage: Path) -> None:
    source = Path(serve.__file__).parent
    (stage / "serve").mkdir(parents=True)
    for path in source.glob("*.py"):  # serve/*.py is what travels; TorchServe wants the handler at the top
        shutil.copy(path, stage / path.name if path.name == "handler.py" else stage / "serve" / path.name)


def _export(model: Counter, size_px: int, stage: Path) -> None:
    """Write the torch program, and the ONNX file that is made from it."""
    model = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    batch = {"pixels": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of their own internals
        program = torch.export.export(model, (example,), dynamic_shapes=batch)
        program.example_inputs = None  # torch would keep it as a pickle
        torch.export.save(program, stage / GPU_PROGRAM)
        torch.onnx.export(
            program,
            (),
            str(stage / FP32_MODEL),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=batch,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _runner(model: Path) -> Runner:
    return onnx_runner(model, threads=len(os.sched_getaffinity(0)))


def _logits(run: Runner, part: Part) -> NDArray[np.float64]:
    return np.concatenate([run(part.pixels[start : start + _BATCH]) for start in range(0, len(part), _BATCH)])


def _probabilities(run: Runner, part: Part) -> NDArray[np.float64]:
    return np.asarray(softmax(_logits(run, part), axis=1))


@torch.no_grad()
def _check_parity(model: Counter, forms: Mapping[str, Runner], pixels: photo.Pixels) -> None:
    model = copy.deepcopy(model).cpu().eval()  # a GPU's TF32 would blur the comparison
    expected = model(torch.tensor(pixels)).double().softmax(1).numpy()
    for name, run in forms.items():
        difference = float(np.abs(softmax(run(pixels), axis=1) - expected).max())
        if not difference <= PARITY:
            raise ArchiveError(
                f"the probabilities of {name} are up to {difference:.2g} from torch's, more than {PARITY}; "
                "the weights may not be finite, or the exporter does not support this model"
            )


def _copy_golden(part: Part, probabilities: NDArray[np.float64], size_px: int, stage: Path) -> _Golden:
    """Copy one photo a class, as it lies on disk, so that decoding is checked too.

    Of each class it is the one that the model is middling sure of: where two counts are nearly even, which of
    them comes out is no sign of anything.
    """
    (stage / "golden").mkdir()
    top = np.sort(probabilities, axis=1)
    margins = top[:, -1] - top[:, -2]
    chosen = [_middle(np.flatnonzero(part.labels == label), margins) for label in np.unique(part.labels)]
    names = tuple(f"golden/{number}.jpg" for number in range(len(chosen)))
    for index, name in zip(chosen, names, strict=True):
        shutil.copy(part.photos[index].path, stage / name)
    return _Golden(names, np.stack([photo.read((stage / name).read_bytes(), size_px) for name in names]))


def _middle(rows: NDArray[np.int64], margins: NDArray[np.float64]) -> int:
    """Of these rows the one with the median margin."""
    return int(rows[np.argsort(margins[rows], kind="stable")[len(rows) // 2]])


def _try_int8(
    stage: Path, train: Part, selection: Part, exact: NDArray[np.float64], golden: _Golden, seed: int
) -> Choice:
    """Make the int8 form, and keep it where it is as good; ``exact``: fp32's probabilities of ``selection``."""
    model, path = stage / FP32_MODEL, stage / INT8_MODEL
    expected = np.asarray(softmax(_runner(model)(golden.pixels), axis=1))
    for spared in candidates(model):
        quantise(model, path, sample(train, seed), spared)
        int8 = _runner(path)
        found = np.asarray(softmax(int8(golden.pixels), axis=1))
        choice = decide(exact, _probabilities(int8, selection), selection.labels, expected, found)
        if choice.accepted:
            return choice
    path.unlink()
    return choice


def _calibrate(run: Runner, part: Part, counts: Counts, golden: _Golden) -> _Calibrated:
    logits = _logits(run, part)
    metrics = calibrate(logits, part.labels)
    temperature = metrics["temperature"]
    promised = softmax(run(golden.pixels) / temperature, axis=1)
    calibration = Calibration(
        temperature,
        conformal_scores(logits, part.labels, counts.names),
        tuple(tuple(round(float(p), 6) for p in row) for row in promised),
    )
    return _Calibrated(calibration, metrics, np.asarray(softmax(logits / temperature, axis=1)))


def _checksums(stage: Path) -> dict[str, str]:
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    return {str(path.relative_to(stage)): sha256(path) for path in files}


def _pack(stage: Path, out: Path) -> Path:
    # The archiver works in <TMPDIR>/<model name>: its own TMPDIR keeps parallel exports apart.
    work = stage.with_name("work")
    work.mkdir()
    command = [
        sys.executable,
        "-m",
        "model_archiver.model_packaging",
        "--model-name",
        MODEL_NAME,
        "--version",
        "0",
        "--serialized-file",
        stage / FP32_MODEL,
        "--handler",
        stage / "handler.py",
        "--extra-files",
        stage,
        "--export-path",
        out,
        "--force",
        "--archive-format",
        "zip-store",
    ]
    done = subprocess.run(
        [str(word) for word in command], env={**os.environ, "TMPDIR": str(work)}, capture_output=True, text=True
    )
    if done.returncode:
        raise ArchiveError(f"torch-model-archiver failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return out / f"{MODEL_NAME}.mar"
