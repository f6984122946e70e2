"""Export: from trained weights to an archive with an ONNX file, its int8 form and a torch program.

The fp32 file and the program are checked against torch. ``trainer/training/forms.py`` adds and measures what CPUs may
run in place of fp32.
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
from torch import Tensor, nn

import serve
from serve import photo
from serve.counter import torch_runner
from serve.errors import ArchiveError
from serve.evidence.novelty import FeatureSpace
from serve.evidence.record_model import RecordModel
from serve.manifest import (
    FP32_MODEL,
    GPU_PROGRAM,
    MANIFEST_FILE,
    NOVELTY_FILE,
    RECORD_FILE,
    AcceptedForm,
    Form,
    Golden,
    Manifest,
    sha256,
)
from serve.runtime import Runner, processor
from trainer.artifacts import MODEL_NAME
from trainer.data.abid import LICENCE
from trainer.data.dataset import Dataset, Part
from trainer.training.forms import BATCH, FormTrial, MeasuredForms, all_outputs, feature_space, runner_on_all_cores
from trainer.training.networks import Counter
from trainer.training.quantise import FormDecision
from trainer.training.recipes import Recipe
from trainer.training.reference import drift_reference

EVIDENCE = "evidence"
"""The folder of ``serve/`` that travels in an archive beside the modules above it."""
MAX_DIFFERENCE = 1e-3
"""How far a probability of an exported form may be from torch's; int8 has limits of its own."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The archive; what CPUs run, in the order to try it, and why; the decision on int8; metrics; drift reference."""

    archive: Path
    forms: tuple[AcceptedForm, ...]
    reason: str
    int8: FormDecision
    metrics: Mapping[str, float]
    reference: Mapping[str, object]


@dataclass(frozen=True)
class _GoldenPhotos:
    """Golden photos: their names in the archive, and their pixels uint8 ``(G, S, S, 3)`` as serving decodes them."""

    names: tuple[str, ...]
    pixels: photo.Pixels


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
    records: RecordModel | None = None,
) -> ExportResult:
    """Export ``model`` and pack it as ``out/bin-counter.mar``.

    ``selection``, ``calibration``: the halves of the validation photos; ``records``: the record model, if any. Raises
    ArchiveError when a form differs from torch.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="binwatch-export-") as temporary:
        stage = Path(temporary) / "stage"
        _copy_code(stage)
        fp32 = _export_checked(model, data.size_px, stage, selection.pixels[:BATCH])
        probabilities = np.asarray(softmax(all_outputs(fp32, selection).logits, axis=1))
        golden = _copy_golden(selection, probabilities, data.size_px, stage)
        bins = _stored_bins(feature_space(fp32, data.train, calibration, recipe.seed), stage)
        trial = FormTrial(
            stage=stage,
            train=data.train,
            selection=selection,
            calibration=calibration,
            counts=data.counts,
            golden=golden.pixels,
            seed=recipe.seed,
            fp32=fp32,
            exact=probabilities,
            bins=bins,
            records=_stored_records(records, stage),
        )
        forms = trial.run()
        manifest = _manifest(data, recipe, forms, metrics, stage)
        manifest = _with_forms(replace(manifest, run_id=run_id), golden, forms)
        (stage / MANIFEST_FILE).write_text(manifest.to_json())
        return ExportResult(
            archive=_pack(stage, out),
            forms=forms.accepted,
            reason=forms.reason,
            int8=forms.decisions[0],
            metrics=manifest.metrics,
            reference=manifest.reference,
        )


def _manifest(
    data: Dataset, recipe: Recipe, forms: MeasuredForms, metrics: Mapping[str, float], stage: Path
) -> Manifest:
    """The manifest, without the run's id, golden photos and what depends on the form that serves."""
    return Manifest(
        classes=data.counts.values,
        open_top=data.counts.open_top,
        size_px=data.size_px,
        run_id="",
        dataset_fingerprint=data.fingerprint,
        metrics={**metrics, **forms.metrics(), **forms.served.metrics},
        golden=(),
        files=_checksums(stage),
        licence=LICENCE,
        recipe=asdict(recipe),
        reference=drift_reference(
            forms.served.probabilities,
            forms.served.metrics["calibration_error"],
            data.counts,
            data.train,
            recipe.seed,
        ),
    )


def _stored_bins(bins: FeatureSpace | None, stage: Path) -> FeatureSpace | None:
    """Store ``bins`` in the archive, and return it as workers will read it: calibrated is what answers."""
    if bins:
        bins.write(stage / NOVELTY_FILE)
    return FeatureSpace.read(stage / NOVELTY_FILE) if bins else None


def _stored_records(records: RecordModel | None, stage: Path) -> RecordModel | None:
    """The same with the record model."""
    if records:
        records.write(stage / RECORD_FILE)
    return RecordModel.read(stage / RECORD_FILE) if records else None


def _export_checked(model: Counter, size_px: int, stage: Path, pixels: photo.Pixels) -> Runner:
    """Export, and return the runner of fp32. Raises ArchiveError where a file answers for ``pixels`` unlike torch."""
    _export(model, size_px, stage)
    fp32, program = runner_on_all_cores(stage / FP32_MODEL), torch_runner(stage / GPU_PROGRAM, "cpu")
    _check_parity(model, {FP32_MODEL: fp32, GPU_PROGRAM: program}, pixels)
    return fp32


def _with_forms(manifest: Manifest, golden: _GoldenPhotos, forms: MeasuredForms) -> Manifest:
    """``manifest`` with what CPUs may run, and the calibration of the form that serves."""
    served = forms.accepted[0]
    return replace(
        manifest,
        golden=tuple(map(Golden, golden.names, served.calibration.golden)),
        temperature=served.calibration.temperature,
        scores=served.calibration.scores,
        novelty=served.calibration.novelty,
        record_scores=served.calibration.record_scores,
        forms=forms.accepted,
        processor=processor(),
        cpu_model=served.form.file,
        exact=None if served.form is Form.FP32 else forms.exact,
    )


def _copy_code(stage: Path) -> None:
    source = Path(serve.__file__).parent
    (stage / "serve" / EVIDENCE).mkdir(parents=True)
    for path in (*source.glob("*.py"), *(source / EVIDENCE).glob("*.py")):
        # TorchServe expects the handler at the top of the archive
        name = Path(path.name) if path.name == "handler.py" else Path("serve") / path.relative_to(source)
        shutil.copy(path, stage / name)


class ServedGraph(nn.Module):
    """A counter with all its outputs by name, as it is exported."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pixels uint8 ``(B, S, S, 3)`` -> outputs."""
        return self.counter.outputs(pixels)


def _export(model: Counter, size_px: int, stage: Path) -> None:
    """Write the torch program, and the ONNX file that is converted from it."""
    model = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    batch = {"pixels": {0: torch.export.Dim("batch")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about their own internals
        graph = ServedGraph(model)
        program = torch.export.export(graph, (example,), dynamic_shapes=batch)
        program.example_inputs = None  # torch would save it as a pickle
        torch.export.save(program, stage / GPU_PROGRAM)
        torch.onnx.export(
            program,
            (),
            str(stage / FP32_MODEL),
            input_names=["pixels"],
            output_names=list(graph(example)),
            dynamic_shapes=batch,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def _check_parity(model: Counter, forms: Mapping[str, Runner], pixels: photo.Pixels) -> None:
    model = copy.deepcopy(model).cpu().eval()  # a GPU's TF32 would blur the comparison
    expected = model(torch.tensor(pixels)).double().softmax(1).numpy()
    for name, run in forms.items():
        difference = float(np.abs(softmax(run(pixels).logits, axis=1) - expected).max())
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
