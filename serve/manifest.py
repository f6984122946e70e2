"""The manifest of an archive, ``binwatch.json``. Uses the standard library only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from serve.errors import ArchiveError

FORMAT = 1
MANIFEST_FILE = "binwatch.json"
FP32_MODEL, INT8_MODEL, GPU_PROGRAM = "model.onnx", "model.int8.onnx", "model.pt2"


@dataclass(frozen=True)
class Golden:
    """One golden photo and the probabilities (one per class, 0-1) that the model must give for it."""

    file: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What depends on the exact outputs of one form of the model (fp32, int8).

    ``temperature``: divides the logits; ``scores``: see ``Manifest``; ``golden``: the probabilities of each golden
    photo.
    """

    temperature: float
    scores: Mapping[str, tuple[float, ...]]
    golden: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``binwatch.json``.

    ``classes``: the counts that are told apart; with ``open_top`` the last one also stands for all larger counts.
    ``size_px``: side of the square that photos are squashed to.
    ``golden``, ``tolerance``: golden photos, and how far a probability of their answers may be off (0-1).
    ``files``: the SHA-256 of each file of the archive, in hexadecimal.
    ``temperature``: what the logits are divided by to calibrate the probabilities.
    ``scores``: per class, the nonconformity of its calibration photos (``serve/verdict.py``), ascending.
    ``cpu_model``: the file that a CPU runs; temperature, scores and golden answers are those of this file.
    ``exact``: the same for the program that a GPU runs; None where CPUs run fp32, whose answers are a GPU's, too.
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
        """The manifest with temperature, scores and golden answers of the program that a GPU runs."""
        if self.exact is None:
            return self
        answers = zip(self.golden, self.exact.golden, strict=True)
        golden = tuple(replace(photo, probabilities=probabilities) for photo, probabilities in answers)
        return replace(self, temperature=self.exact.temperature, scores=self.exact.scores, golden=golden)

    def accepted_answers(self, number: int) -> tuple[tuple[float, ...], ...]:
        """The probabilities that golden photo ``number`` may get: a CPU's and a GPU's."""
        return self.golden[number].probabilities, self.for_gpu().golden[number].probabilities

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
    if manifest.cpu_model not in manifest.files:
        raise ArchiveError(f"the manifest names {manifest.cpu_model!r} for CPUs, but does not list it: damaged")
    return manifest


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
        content["exact"] = _calibration(content.get("exact"))
        return Manifest(**{item.name: content[item.name] for item in fields(Manifest) if item.name in content})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{MANIFEST_FILE} in the archive is damaged: {error!r}") from error


def _calibration(content: dict[str, Any] | None) -> Calibration | None:
    if content is None:
        return None
    golden = tuple(tuple(probabilities) for probabilities in content["golden"])
    return Calibration(content["temperature"], content["scores"], golden)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
