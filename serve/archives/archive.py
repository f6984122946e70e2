"""The archive: one file with a model and everything that is needed to serve it.

It is a torch-model-archiver archive (a zip), which TorchServe loads as it is:

    MAR-INF/MANIFEST.json   TorchServe's own manifest, with the version served
    handler.py              what TorchServe calls
    serve/*.py              the modules that the handler needs: the preprocessing travels with the model
    serve/evidence/*.py     those that judge a record by its products
    model.onnx              pixels uint8 (B, S, S, 3) -> logits float32 (B, C), and the other fields of Outputs in
                            serve/runtime.py
    model.int8.onnx         the same in int8, for CPUs; only where it is as good (trainer/training/forms.py)
    model.pt2               the same as a torch program, for GPUs
    binwatch.json           the manifest (serve/manifest.py)
    novelty.npz             where the features of bins are (serve/evidence/novelty.py); only where there are enough
    golden/<n>.jpg          golden photos: the manifest holds the answers that they must give

Uses the standard library only: the promoter checks archives without loading a model.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from serve.archives import contents, safe_zip
from serve.errors import ArchiveError
from serve.files import atomic_write
from serve.manifest import FP32_MODEL, GPU_PROGRAM, MANIFEST_FILE, Manifest, check_listed, parse_manifest

if TYPE_CHECKING:
    from serve.counter import Answer

TORCHSERVE_MANIFEST = "MAR-INF/MANIFEST.json"
RECORD_READER = "serve/evidence/record.py"


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive into a folder that is deleted when the context ends. Raises ArchiveError."""
    with tempfile.TemporaryDirectory(prefix="binwatch-") as folder:
        with safe_zip.opened(archive) as content:
            content.extractall(folder)
        yield Path(folder)


def manifest_of(archive: Path) -> Manifest:
    """The manifest of a packed archive; checksums are not verified. Raises ArchiveError."""
    with safe_zip.opened(archive) as content:
        return _manifest_in(content)


def golden_photos(archive: Path) -> list[tuple[bytes, tuple[float, ...]]]:
    """The golden photos' bytes and the probabilities that they must give. Raises ArchiveError."""
    with safe_zip.opened(archive) as content:
        golden = _manifest_in(content).golden
        missing = {photo.file for photo in golden} - set(content.namelist())
        if missing:
            raise ArchiveError(f"the archive has no {min(missing)}, a golden photo that its manifest names: damaged")
        return [(content.read(photo.file), photo.probabilities) for photo in golden]


def judges_records(archive: Path) -> bool:
    """Whether a packed archive reads records with products; one that was exported earlier knows quantities alone."""
    return RECORD_READER in manifest_of(archive).files


def ask(
    archive: Path,
    photos: Sequence[Path],
    threads: int = 2,
    records: Mapping[Path, object] | None = None,
    *,
    supposed: Sequence[Sequence[object]] = (),
) -> "Iterator[Answer]":
    """The answers of a packed archive, one per photo, in order; ``{"error": reason}`` for one that cannot be read.

    ``records``: the JSON of the records of photos, for a verdict; ``supposed``: of each photo several records, for a
    list of what each would change in the answer (``serve/counter.py``). The archive's own code runs in a child process,
    as it does in TorchServe. Raises ArchiveError where it fails, or knows of no records.
    """
    if (records or supposed) and not judges_records(archive):
        raise ArchiveError(f"{archive} was exported before archives read records; ask without them, or export it again")
    contents = [("record", (records or {}).get(path)) for path in photos]
    questions = [("records", content) for content in supposed] or contents
    lines = [_line(path, *question) for path, question in zip(photos, questions, strict=True)]
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
                process.stdin.write("".join(f"{line}\n" for line in lines))
                process.stdin.close()
            yield from (json.loads(line) for line in process.stdout)
        if process.returncode:
            log.seek(0)
            reason = log.read().strip().rpartition("\n")[2]  # the last line of the traceback
            raise ArchiveError(f"{archive} does not run: {reason}")


def _line(photo: Path, key: str, content: object) -> str:
    """A photo for ``serve/counter.py``: its path alone, which every archive understands, where there is no record."""
    path = str(photo.resolve())
    return path if content is None else json.dumps({"path": path, key: content})


def stamp(archive: Path, target: Path, version: str) -> None:
    """Copy ``archive`` to ``target`` atomically, as TorchServe's model version ``version``.

    Every file is verified while it is copied: ``target`` holds exactly the files that the manifest lists, with the
    checksums that it lists, and the version. Raises ArchiveError.
    """
    with safe_zip.opened(archive) as source, atomic_write(target) as out:
        os.fchmod(out.fileno(), 0o644)  # TorchServe may run as another user
        with zipfile.ZipFile(out, "w") as copy:
            _copy(source, copy, version=version)


def with_manifest(archive: Path, manifest: Manifest, target: Path) -> None:
    """Copy ``archive`` to ``target`` atomically, with another manifest, which must list the same files.

    Every file is verified while it is copied. Raises ArchiveError.
    """
    with safe_zip.opened(archive) as source, atomic_write(target) as out, zipfile.ZipFile(out, "w") as copy:
        _copy(source, copy, replacement=manifest)


def _copy(
    source: zipfile.ZipFile, copy: zipfile.ZipFile, *, version: str = "", replacement: Manifest | None = None
) -> None:
    """Copy all files, with ``version`` in TorchServe's manifest, and ``replacement`` in place of the archive's."""
    manifest = replacement or _manifest_in(source)
    check_listed(manifest)
    contents.check_listing(source, manifest.files, {MANIFEST_FILE, TORCHSERVE_MANIFEST})
    if GPU_PROGRAM in manifest.files:
        with source.open(GPU_PROGRAM) as program:
            contents.check_program(program, GPU_PROGRAM)
    for name in source.namelist():
        if name == TORCHSERVE_MANIFEST:
            content = contents.read_text(source, name)
            copy.writestr(name, _with_version(content, version) if version else content)
        elif name == MANIFEST_FILE:
            copy.writestr(name, replacement.to_json() if replacement else contents.read_text(source, name))
        else:  # stored, not compressed: weights hardly shrink
            with source.open(name) as data, copy.open(name, "w", force_zip64=True) as out:
                contents.copy_checked(data, out, name, manifest.files[name])


def _manifest_in(content: zipfile.ZipFile) -> Manifest:
    return parse_manifest(contents.read_text(content, MANIFEST_FILE) if MANIFEST_FILE in content.namelist() else None)


def _with_version(manifest: bytes, version: str) -> str:
    content = contents.torchserve_manifest(manifest, FP32_MODEL)
    content["model"]["modelVersion"] = version
    return json.dumps(content, indent=2)
