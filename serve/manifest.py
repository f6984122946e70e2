"""What an archive says about itself: ``binwatch.json``. It uses the standard library only."""

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
    """One golden photo and the probabilities (one a class, 0-1) that the model must give for it."""

    file: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """What rests on the answers of one form of the model; ``golden``: the probabilities of each golden photo."""

    temperature: float
    scores: Mapping[str, tuple[float, ...]]
    golden: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Manifest:
    """What an archive says about itself.

    ``classes``: the counts told apart, of which the last stands for all above too with ``open_top``;
    ``size_px``: side of the square that photos are squashed to; ``tolerance``: how far a golden
    answer's probability may be off; ``files``: SHA-256 a file; ``temperature``: what the logits are
    divided by, so that a probability can be believed; ``scores``: of each class, how badly the calibration
    photos of that class fit it (``serve/verdict.py``); ``cpu_model``: the file that a CPU runs, on which
    temperature, scores and golden answers rest; ``exact``: these for the program that a GPU runs, where that
    answers otherwise; ``reference``: predictions and photos as they were when it was trained, for drift.
    """

    classes: tuple[int, ...]
    size_px: int
    run_id: str
    dataset_fingerprint: str
    metrics: Mapping[str, float]
    golden: tuple[Golden, ...]
    files: Mapping[str, str]
    licence: str
    recipe: Mapping[str, Any]
    tolerance: float = 0.01
    open_top: bool = False
    temperature: float = 1.0
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    cpu_model: str = FP32_MODEL
    exact: Calibration | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """How answers name the classes."""
        return class_names(self.classes, self.open_top)

    def name_of(self, quantity: int) -> str:
        """The name of the class that a recorded quantity belongs to; the quantity itself where there is none."""
        if quantity > self.classes[-1] and self.open_top:
            return self.names[-1]
        return self.names[self.classes.index(quantity)] if quantity in self.classes else str(quantity)

    def on_gpu(self) -> "Manifest":
        """The manifest for a server that runs the program."""
        if self.exact is None:
            return self
        answers = zip(self.golden, self.exact.golden, strict=True)
        golden = tuple(replace(each, probabilities=promised) for each, promised in answers)
        return replace(self, temperature=self.exact.temperature, scores=self.exact.scores, golden=golden)

    def promised(self, number: int) -> tuple[tuple[float, ...], ...]:
        """The probabilities that golden photo ``number`` may get: those of a CPU, and those of a GPU."""
        return self.golden[number].probabilities, self.on_gpu().golden[number].probabilities

    def to_json(self) -> str:
        """The text of ``binwatch.json``."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)


def class_names(classes: Sequence[int], open_top: bool) -> tuple[str, ...]:
    """How answers name the classes: ``8+`` where the last one stands for 8 and above."""
    return (*map(str, classes[:-1]), f"{classes[-1]}{'+' * open_top}")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an unpacked archive and check every file's checksum. Raises ArchiveError."""
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes() if (folder / MANIFEST_FILE).is_file() else None)
    for name, expected in manifest.files.items():
        path = folder / name
        found = sha256(path) if path.is_file() else "nothing"
        if found != expected:
            raise ArchiveError(f"{name} in the archive has SHA-256 {found}, its manifest says {expected}: damaged")
    if manifest.cpu_model not in manifest.files:
        raise ArchiveError(f"the manifest names {manifest.cpu_model!r} for CPUs, and does not list it: damaged")
    return manifest


def parse_manifest(text: bytes | None) -> Manifest:
    """Read ``binwatch.json``. Raises ArchiveError where it is missing or of another format."""
    if text is None:
        raise ArchiveError(f"the archive has no {MANIFEST_FILE}: it was not made by binwatch")
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise ArchiveError(f"the archive has format {content.get('format')!r}; this version reads {FORMAT}")
        content["files"] = {str(name): str(digest) for name, digest in content["files"].items()}
        content["golden"] = tuple(Golden(each["file"], tuple(each["probabilities"])) for each in content["golden"])
        content["classes"] = tuple(content["classes"])
        content["exact"] = _calibration(content.get("exact"))
        return Manifest(**{each.name: content[each.name] for each in fields(Manifest) if each.name in content})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{MANIFEST_FILE} in the archive is damaged: {error!r}") from error


def _calibration(found: dict[str, Any] | None) -> Calibration | None:
    if found is None:
        return None
    return Calibration(found["temperature"], found["scores"], tuple(tuple(each) for each in found["golden"]))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
