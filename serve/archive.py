"""The archive: one file that holds a model and everything that serving needs to know about it.

It is a torch-model-archiver archive (a zip), so TorchServe loads it as it is:

    MAR-INF/MANIFEST.json   TorchServe's own manifest, with the version served
    handler.py              what TorchServe calls
    serve/*.py              the modules the handler needs: the preprocessing travels with the model
    model.onnx              pixels uint8 (B, S, S, 3) -> logits float32 (B, C)
    model.int8.onnx         the same in int8, for CPUs; only where it is as good (trainer/quantise.py)
    model.pt2               the same as a torch program, for GPUs
    binwatch.json           this module's Manifest
    golden/<n>.jpg          golden photos: the manifest holds the answers they must give

Only the standard library is used here: the promoter checks archives without loading them.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from serve import vetting, zips
from serve.errors import ArchiveError

FORMAT = 1
MANIFEST = "binwatch.json"
MODEL, INT8, PROGRAM = "model.onnx", "model.int8.onnx", "model.pt2"
TORCHSERVE_MANIFEST = "MAR-INF/MANIFEST.json"


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
    cpu_model: str = MODEL
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
    manifest = parse_manifest((folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else None)
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
        raise ArchiveError(f"the archive has no {MANIFEST}: it was not made by binwatch")
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
        raise ArchiveError(f"{MANIFEST} in the archive is damaged: {error!r}") from error


def _calibration(found: dict[str, Any] | None) -> Calibration | None:
    if found is None:
        return None
    return Calibration(found["temperature"], found["scores"], tuple(tuple(each) for each in found["golden"]))


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive into a temporary folder for as long as the context lasts. Raises ArchiveError."""
    with tempfile.TemporaryDirectory(prefix="binwatch-") as folder:
        with zips.opened(archive) as content:
            content.extractall(folder)
        yield Path(folder)


def manifest_of(archive: Path) -> Manifest:
    """The manifest of a packed archive; checksums are not compared. Raises ArchiveError."""
    with zips.opened(archive) as content:
        return _manifest_in(content)


def golden_photos(archive: Path) -> list[tuple[bytes, tuple[float, ...]]]:
    """The golden photos' bytes and the probabilities that they must give. Raises ArchiveError."""
    with zips.opened(archive) as content:
        golden = _manifest_in(content).golden
        missing = {each.file for each in golden} - set(content.namelist())
        if missing:
            raise ArchiveError(f"the archive has no {min(missing)}, a golden photo that its manifest names: damaged")
        return [(content.read(each.file), each.probabilities) for each in golden]


def ask(archive: Path, photos: Sequence[Path], threads: int = 2) -> Iterator[dict[str, Any]]:
    """The answers of a packed archive, one for each of ``photos``, in order; ``{"error": reason}`` for a bad one.

    It runs in a process of its own with the archive's own code, as it does in TorchServe.
    Raises ArchiveError where that code fails.
    """
    with unpacked(archive) as folder, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.counter", str(threads)], cwd=folder, env={**os.environ, "PYTHONPATH": ""},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write("".join(f"{path.resolve()}\n" for path in photos))
                process.stdin.close()
            yield from (json.loads(line) for line in process.stdout)
        if process.returncode:
            log.seek(0)
            reason = log.read().strip().rpartition("\n")[2]  # a traceback ends with it
            raise ArchiveError(f"{archive} does not run: {reason}")


def stamp(archive: Path, target: Path, version: str) -> None:
    """Copy ``archive`` to ``target``, whole or not at all, as TorchServe's model version ``version``.

    Every file is checked as it is copied: what is at ``target`` afterwards is exactly what the manifest lists, with
    the checksums that it says, and the version. Raises ArchiveError.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with zips.opened(archive) as source, zipfile.ZipFile(partial, "w") as copy:
            _copy(source, copy, version)
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: zipfile.ZipFile, copy: zipfile.ZipFile, version: str) -> None:
    manifest = _manifest_in(source)
    _check_named(manifest)
    vetting.check_listing(source, manifest.files, {MANIFEST, TORCHSERVE_MANIFEST})
    if PROGRAM in manifest.files:
        with source.open(PROGRAM) as program:
            vetting.check_program(program, PROGRAM)
    for name in source.namelist():
        if name == TORCHSERVE_MANIFEST:
            copy.writestr(name, _with_version(vetting.read_text(source, name), version))
        elif name == MANIFEST:
            copy.writestr(name, vetting.read_text(source, name))
        else:  # stored as it is: weights hardly shrink
            with source.open(name) as data, copy.open(name, "w", force_zip64=True) as out:
                vetting.copy_checked(data, out, name, manifest.files[name])


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _manifest_in(content: zipfile.ZipFile) -> Manifest:
    return parse_manifest(vetting.read_text(content, MANIFEST) if MANIFEST in content.namelist() else None)


def _check_named(manifest: Manifest) -> None:
    """What the manifest names must be listed."""
    for name in (manifest.cpu_model, *(each.file for each in manifest.golden)):
        if name not in manifest.files:
            raise ArchiveError(f"the manifest names {name!r}, and does not list it: damaged")


def _with_version(manifest: bytes, version: str) -> str:
    content = vetting.torchserve_manifest(manifest, MODEL)
    content["model"]["modelVersion"] = version
    return json.dumps(content, indent=2)
