"""The manifest of an archive, ``binwatch.json``. Uses the standard library only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from serve.errors import ArchiveError

FORMAT = 1
MANIFEST_FILE = "binwatch.json"
FP32_MODEL, INT8_MODEL, GPU_PROGRAM = "model.onnx", "model.int8.onnx", "model.pt2"
NOVELTY_FILE, RECORD_FILE = "novelty.npz", "record.npz"


class Form(StrEnum):
    """A form of the network: the numbers that a CPU computes it with, or the program that a GPU runs."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    GPU = "gpu"

    @property
    def file(self) -> str:
        """Its file in the archive. bf16 is computed from the file of fp32."""
        return {Form.INT8: INT8_MODEL, Form.GPU: GPU_PROGRAM}.get(self, FP32_MODEL)


@dataclass(frozen=True)
class Golden:
    """One golden photo and the probabilities (one per class, 0-1) that the model must give for it."""

    file: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What depends on the exact outputs of one form of the model.

    ``temperature``: divides the logits; ``scores``, ``novelty``, ``record_scores``: see ``Manifest``; ``golden``: the
    probabilities of each golden photo.
    """

    temperature: float
    scores: Mapping[str, tuple[float, ...]]
    golden: tuple[tuple[float, ...], ...]
    novelty: tuple[float, ...] = ()
    record_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AcceptedForm:
    """A form that CPUs may run, because it is about as accurate as fp32.

    ``photos_per_s``: photos per second of CPU time on ``Manifest.processor``, one photo at a time, one thread.
    ``accuracy``: share (0-1) of right counts on the validation photos that selected the weights.
    """

    form: Form
    photos_per_s: float
    accuracy: float
    calibration: Calibration


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``binwatch.json``.

    ``classes``: the counts that are told apart; with ``open_top`` the last one also stands for all larger counts.
    ``size_px``: side of the square that photos are squashed to.
    ``golden``, ``tolerance``: golden photos, and how far a probability of their answers may be off (0-1).
    ``files``: the SHA-256 of each file of the archive, in hexadecimal.
    ``temperature``: what the logits are divided by to calibrate the probabilities.
    ``scores``: per class, the nonconformity of its calibration photos (``serve/verdict.py``), ascending.
    ``novelty``: how unlike the training photos each calibration photo is (``serve/evidence/novelty.py``), ascending;
    empty where there is no test for photos that show no bin.
    ``record_scores``: per class, the nonconformity of the records of its calibration photos whose products have sizes
    (``serve/evidence/record_model.py``), ascending; empty where there is no record model.
    ``forms``: what CPUs may run, in the order to try them; empty in archives of before forms were measured.
    ``processor``: the kind of processor that they were measured on (``processor`` in ``serve/runtime.py``).
    ``cpu_model``: the file of the first form; temperature, scores and golden answers are those of this form.
    ``exact``: the same for the program that a GPU runs; None where fp32 is the first, whose answers are a GPU's, too.
    ``reference``: predictions and image statistics at training time, for drift monitoring.
    """

    classes: tuple[int, ...]
    size_px: int
    run_id: str
    dataset_fingerprint: str
    metrics: Mapping[str, float]
    golden: tuple[Golden, ...]
    files: Mapping[str, str]
    licence: str
    recipe: Mapping[str, object]
    tolerance: float = 0.01
    open_top: bool = False
    temperature: float = 1.0
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    novelty: tuple[float, ...] = ()
    record_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    forms: tuple[AcceptedForm, ...] = ()
    processor: str = ""
    cpu_model: str = FP32_MODEL
    exact: Calibration | None = None
    reference: Mapping[str, object] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes in answers."""
        return class_names(self.classes, self.open_top)

    def name_of(self, quantity: int) -> str:
        """The name of the class that a recorded quantity belongs to; the quantity as text where there is none."""
        if quantity > self.classes[-1] and self.open_top:
            return self.names[-1]
        return self.names[self.classes.index(quantity)] if quantity in self.classes else str(quantity)

    def for_gpu(self) -> "Manifest":
        """The manifest with temperature, scores, novelty and golden answers of the program that a GPU runs."""
        return self.calibrated(self.exact) if self.exact else self

    def calibrated(self, calibration: Calibration) -> "Manifest":
        """The manifest with temperature, scores, novelty and golden answers of one form."""
        answers = zip(self.golden, calibration.golden, strict=True)
        golden = tuple(replace(photo, probabilities=probabilities) for photo, probabilities in answers)
        return replace(
            self,
            temperature=calibration.temperature,
            scores=calibration.scores,
            novelty=calibration.novelty,
            record_scores=calibration.record_scores,
            golden=golden,
        )

    def accepted_answers(self, number: int, form: str = "") -> tuple[tuple[float, ...], ...]:
        """The probabilities that golden photo ``number`` may get: from ``form``, or from any where that is not known.

        Empty for a form that the archive does not have.
        """
        answers = {item.form.value: item.calibration.golden[number] for item in self.forms}
        answers[Form.GPU.value] = self.for_gpu().golden[number].probabilities
        if form:
            return (answers[form],) if form in answers else ()
        return (self.golden[number].probabilities, *answers.values())

    @property
    def named_files(self) -> tuple[str, ...]:
        """The files that the manifest relies on, so that ``files`` must list them."""
        forms, golden = (item.form.file for item in self.forms), (photo.file for photo in self.golden)
        models = [NOVELTY_FILE] * bool(self.novelty) + [RECORD_FILE] * bool(self.record_scores)
        return (self.cpu_model, *forms, *golden, *models)

    def to_json(self) -> str:
        """The text of ``binwatch.json``."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def class_names(classes: Sequence[int], open_top: bool) -> tuple[str, ...]:
    """The names of the classes in answers: ``8+`` where the last one stands for 8 and above."""
    return (*map(str, classes[:-1]), f"{classes[-1]}{'+' * open_top}")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an unpacked archive and check every file's checksum. Raises ArchiveError."""
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes() if (folder / MANIFEST_FILE).is_file() else None)
    for name, expected in manifest.files.items():
        path = folder / name
        digest = sha256(path) if path.is_file() else "nothing"
        if digest != expected:
            raise ArchiveError(f"{name} in the archive has SHA-256 {digest}, its manifest says {expected}: damaged")
    check_listed(manifest)
    return manifest


def check_listed(manifest: Manifest) -> None:
    """Raises ArchiveError where a file that the manifest relies on has no checksum."""
    for name in manifest.named_files:
        if name not in manifest.files:
            raise ArchiveError(f"the manifest names {name!r}, but does not list it: damaged")


def parse_manifest(text: bytes | None) -> Manifest:
    """Parse ``binwatch.json``. Raises ArchiveError where it is missing (None), damaged or of another format."""
    if text is None:
        raise ArchiveError(f"the archive has no {MANIFEST_FILE}: it was not made by binwatch")
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise ArchiveError(f"the archive has format {content.get('format')!r}; this version reads {FORMAT}")
        content["files"] = {str(name): str(digest) for name, digest in content["files"].items()}
        content["golden"] = tuple(Golden(photo["file"], tuple(photo["probabilities"])) for photo in content["golden"])
        content["classes"] = tuple(content["classes"])
        content["scores"] = _scores(content.get("scores", {}))
        content["novelty"] = tuple(map(float, content.get("novelty", ())))
        content["record_scores"] = _scores(content.get("record_scores", {}))
        content["exact"] = _calibration(content["exact"]) if content.get("exact") else None
        content["forms"] = tuple(_accepted_form(item) for item in content.get("forms", ()))
        return Manifest(**{item.name: content[item.name] for item in fields(Manifest) if item.name in content})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{MANIFEST_FILE} in the archive is damaged: {error!r}") from error


def _calibration(content: dict[str, Any]) -> Calibration:
    golden = tuple(tuple(probabilities) for probabilities in content["golden"])
    novelty = tuple(map(float, content.get("novelty", ())))
    record_scores = _scores(content.get("record_scores", {}))
    return Calibration(content["temperature"], _scores(content["scores"]), golden, novelty, record_scores)


def _scores(content: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(map(float, scores)) for name, scores in content.items()}


def _accepted_form(content: dict[str, Any]) -> AcceptedForm:
    return AcceptedForm(
        form=Form(content["form"]),
        photos_per_s=float(content["photos_per_s"]),
        accuracy=float(content["accuracy"]),
        calibration=_calibration(content["calibration"]),
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
