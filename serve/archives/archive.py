"""The archive: one file that holds a model and everything that serving needs to know about it.

It is a torch-model-archiver archive (a zip), so TorchServe loads it as it is:

    MAR-INF/MANIFEST.json   TorchServe's own manifest, with the version served
    handler.py              what TorchServe calls
    serve/*.py              the modules the handler needs: the preprocessing travels with the model
    model.onnx              pixels uint8 (B, S, S, 3) -> logits float32 (B, C)
    model.int8.onnx         the same in int8, for CPUs; only where it is as good (trainer/quantise.py)
    model.pt2               the same as a torch program, for GPUs
    binwatch.json           serve/manifest.py
    golden/<n>.jpg          golden photos: the manifest holds the answers they must give

Only the standard library is used here: the promoter checks archives without loading them.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serve.archives import contents, safe_zip
from serve.errors import ArchiveError
from serve.manifest import FP32_MODEL, GPU_PROGRAM, MANIFEST_FILE, Manifest, parse_manifest

TORCHSERVE_MANIFEST = "MAR-INF/MANIFEST.json"


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive into a temporary folder for as long as the context lasts. Raises ArchiveError."""
    with tempfile.TemporaryDirectory(prefix="binwatch-") as folder:
        with safe_zip.opened(archive) as content:
            content.extractall(folder)
        yield Path(folder)


def manifest_of(archive: Path) -> Manifest:
    """The manifest of a packed archive; checksums are not compared. Raises ArchiveError."""
    with safe_zip.opened(archive) as content:
        return _manifest_in(content)


def golden_photos(archive: Path) -> list[tuple[bytes, tuple[float, ...]]]:
    """The golden photos' bytes and the probabilities that they must give. Raises ArchiveError."""
    with safe_zip.opened(archive) as content:
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
            [sys.executable, "-m", "serve.counter", str(threads)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
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
        with safe_zip.opened(archive) as source, zipfile.ZipFile(partial, "w") as copy:
            _copy(source, copy, version)
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: zipfile.ZipFile, copy: zipfile.ZipFile, version: str) -> None:
    manifest = _manifest_in(source)
    _check_named(manifest)
    contents.check_listing(source, manifest.files, {MANIFEST_FILE, TORCHSERVE_MANIFEST})
    if GPU_PROGRAM in manifest.files:
        with source.open(GPU_PROGRAM) as program:
            contents.check_program(program, GPU_PROGRAM)
    for name in source.namelist():
        if name == TORCHSERVE_MANIFEST:
            copy.writestr(name, _with_version(contents.read_text(source, name), version))
        elif name == MANIFEST_FILE:
            copy.writestr(name, contents.read_text(source, name))
        else:  # stored as it is: weights hardly shrink
            with source.open(name) as data, copy.open(name, "w", force_zip64=True) as out:
                contents.copy_checked(data, out, name, manifest.files[name])


def _manifest_in(content: zipfile.ZipFile) -> Manifest:
    return parse_manifest(contents.read_text(content, MANIFEST_FILE) if MANIFEST_FILE in content.namelist() else None)


def _check_named(manifest: Manifest) -> None:
    """What the manifest names must be listed."""
    for name in (manifest.cpu_model, *(each.file for each in manifest.golden)):
        if name not in manifest.files:
            raise ArchiveError(f"the manifest names {name!r}, and does not list it: damaged")


def _with_version(manifest: bytes, version: str) -> str:
    content = contents.torchserve_manifest(manifest, FP32_MODEL)
    content["model"]["modelVersion"] = version
    return json.dumps(content, indent=2)
