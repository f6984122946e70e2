"""Export: from trained weights to an archive with an ONNX file, its int8 form and a torch program.

Every form is checked against torch. The calibration depends on the form that is served, so the forms are created and
compared first, on the half of the validation photos that selected the weights; the other half calibrates.
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
from trainer.training.quantise import Int8Decision, decide, fp32_shares, quantise, sample_pixels
from trainer.training.recipes import Recipe
from trainer.training.reference import drift_reference

MAX_DIFFERENCE = 1e-3
"""How far a probability of an exported form may be from torch's; int8 has limits of its own."""

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The archive, the file in it that CPUs run, and the decision for it; the metrics and the drift reference."""

    archive: Path
    cpu_model: str
    int8: Int8Decision
    metrics: Mapping[str, float]
    reference: Mapping[str, object]


@dataclass(frozen=True)
class _GoldenPhotos:
    """Golden photos: their names in the archive, and their pixels uint8 ``(G, S, S, 3)`` as serving decodes them."""

    names: tuple[str, ...]
    pixels: photo.Pixels


@dataclass(frozen=True)
class _CalibratedForm:
    """One form on the calibration photos: its calibration, its metrics, and its probabilities ``(N, C)``."""

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
) -> ExportResult:
    """Export ``model`` and pack it as ``out/bin-counter.mar``.

    ``selection``, ``calibration``: the halves of the validation photos. Raises ArchiveError when a form differs from
    torch.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="binwatch-export-") as temporary:
        stage = Path(temporary) / "stage"
        _copy_code(stage)
        _export(model, data.size_px, stage)
        fp32 = _onnx_runner(stage / FP32_MODEL)
        program = torch_runner(stage / GPU_PROGRAM, "cpu")
        _check_parity(model, {FP32_MODEL: fp32, GPU_PROGRAM: program}, selection.pixels[:_BATCH])
        probabilities = _probabilities(fp32, selection)
        golden = _copy_golden(selection, probabilities, data.size_px, stage)
        int8 = _try_int8(stage, data.train, selection, probabilities, golden, recipe.seed)
        exact = served = _calibrate(fp32, calibration, data.counts, golden)
        if int8.accepted:
            served = _calibrate(_onnx_runner(stage / INT8_MODEL), calibration, data.counts, golden)
        manifest = Manifest(
            classes=data.counts.values,
            open_top=data.counts.open_top,
            size_px=data.size_px,
            run_id=run_id,
            dataset_fingerprint=data.fingerprint,
            metrics={**metrics, **int8.metrics(), **served.metrics},
            golden=(),
            files=_checksums(stage),
            licence=LICENCE,
            recipe=asdict(recipe),
            reference=drift_reference(served.probabilities, data.counts, data.train, recipe.seed),
        )
        manifest = _calibrated(manifest, golden, served.calibration, exact.calibration if int8.accepted else None)
        (stage / MANIFEST_FILE).write_text(manifest.to_json())
        return ExportResult(
            archive=_pack(stage, out),
            cpu_model=manifest.cpu_model,
            int8=int8,
            metrics=manifest.metrics,
            reference=manifest.reference,
        )


def _calibrated(manifest: Manifest, golden: _GoldenPhotos, served: Calibration, exact: Calibration | None) -> Manifest:
    """``manifest`` with the calibration of the form that CPUs run.

    ``exact``: the calibration of the GPU program where CPUs run int8; None where CPUs run fp32.
    """
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
    for path in source.glob("*.py"):  # TorchServe expects the handler at the top of the archive
        shutil.copy(path, stage / path.name if path.name == "handler.py" else stage / "serve" / path.name)


def _export(model: Counter, size_px: int, stage: Path) -> None:
    """Write the torch program, and the ONNX file that is converted from it."""
    model = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    batch = {"pixels": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about their own internals
        program = torch.export.export(model, (example,), dynamic_shapes=batch)
        program.example_inputs = None  # torch would save it as a pickle
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


def _onnx_runner(model: Path) -> Runner:
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
        if not difference <= MAX_DIFFERENCE:
            raise ArchiveError(
                f"the probabilities of {name} are up to {difference:.2g} from torch's, more than {MAX_DIFFERENCE}; "
                "the weights may not be finite, or the exporter does not support this model"
            )


def _copy_golden(part: Part, probabilities: NDArray[np.float64], size_px: int, stage: Path) -> _GoldenPhotos:
    """Copy one photo per class in its original encoding, so that the canary also checks decoding.

    From each class, choose the photo with the median margin between the two most probable counts: where they are
    almost equally probable, rounding decides between them.
    """
    (stage / "golden").mkdir()
    top = np.sort(probabilities, axis=1)
    margins = top[:, -1] - top[:, -2]
    chosen = [_median_row(np.flatnonzero(part.labels == label), margins) for label in np.unique(part.labels)]
    names = tuple(f"golden/{number}.jpg" for number in range(len(chosen)))
    for index, name in zip(chosen, names, strict=True):
        shutil.copy(part.photos[index].path, stage / name)
    return _GoldenPhotos(names, np.stack([photo.read((stage / name).read_bytes(), size_px) for name in names]))


def _median_row(rows: NDArray[np.int64], margins: NDArray[np.float64]) -> int:
    """The row, out of ``rows``, with the median margin."""
    return int(rows[np.argsort(margins[rows], kind="stable")[len(rows) // 2]])


def _try_int8(
    stage: Path, train: Part, selection: Part, exact: NDArray[np.float64], golden: _GoldenPhotos, seed: int
) -> Int8Decision:
    """Write the int8 form, and remove it again unless it is accurate enough.

    ``exact``: the probabilities of fp32 for ``selection``.
    """
    model, path = stage / FP32_MODEL, stage / INT8_MODEL
    golden_fp32 = np.asarray(softmax(_onnx_runner(model)(golden.pixels), axis=1))
    for fp32_share in fp32_shares(model):
        quantise(model, path, sample_pixels(train, seed), fp32_share)
        int8 = _onnx_runner(path)
        golden_int8 = np.asarray(softmax(int8(golden.pixels), axis=1))
        decision = decide(exact, _probabilities(int8, selection), selection.labels, golden_fp32, golden_int8)
        if decision.accepted:
            return decision
    path.unlink()
    return decision


def _calibrate(run: Runner, part: Part, counts: Counts, golden: _GoldenPhotos) -> _CalibratedForm:
    logits = _logits(run, part)
    metrics = calibrate(logits, part.labels)
    temperature = metrics["temperature"]
    answers = softmax(run(golden.pixels) / temperature, axis=1)
    calibration = Calibration(
        temperature,
        conformal_scores(logits, part.labels, counts.names),
        tuple(tuple(round(float(p), 6) for p in row) for row in answers),
    )
    return _CalibratedForm(calibration, metrics, np.asarray(softmax(logits / temperature, axis=1)))


def _checksums(stage: Path) -> dict[str, str]:
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    return {str(path.relative_to(stage)): sha256(path) for path in files}


def _pack(stage: Path, out: Path) -> Path:
    # The archiver works in <TMPDIR>/<model name>; a TMPDIR of its own prevents clashes of parallel exports.
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
    result = subprocess.run(
        [str(argument) for argument in command], env={**os.environ, "TMPDIR": str(work)}, capture_output=True, text=True
    )
    if result.returncode:
        raise ArchiveError(f"torch-model-archiver failed ({result.returncode}): {result.stderr.strip()[-500:]}")
    return out / f"{MODEL_NAME}.mar"
