"""``model.tar.gz``: an archive as AWS's PyTorch containers take it. The same archive gives the same bytes.

    binwatch.json, model.onnx, model.int8.onnx, ...    what the archive holds
    code/inference.py                                  serve/inference.py
    code/serve/*.py                                    the archive's own code; this project's where it is too old
    code/requirements.txt                              what the container lacks

for ONNX; for TORCHSCRIPT, where the container's Python is too old for that code,

    binwatch.json, model.pt                            trainer/aws/torchscript.py
    code/inference.py                                  serve/inference_torchscript.py

https://github.com/aws/sagemaker-pytorch-inference-toolkit
"""

import gzip
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import serve
from serve.archives.archive import TORCHSERVE_MANIFEST, unpacked
from serve.errors import ArchiveError
from serve.manifest import FP32_MODEL, GPU_PROGRAM, MANIFEST_FILE, Manifest, read_manifest, sha256
from trainer.aws.endpoint.hosting import ARCHIVE, GoldenPhoto, Package
from trainer.aws.endpoint.images import TORCHSCRIPT

log = logging.getLogger(__name__)

PLACEHOLDER = "placeholder"
"""The version that a dry run names where there is no champion."""
REQUIREMENTS = {"onnxruntime": "", "cykooz-resizer": "; platform_machine == 'x86_64'"}
"""What AWS's container lacks of what the archive's code imports, and where: it has numpy, Pillow and boto3."""

_ENTRY, _CODE = "inference.py", "code"
_SERVE = Path(serve.__file__).parent


@dataclass(frozen=True)
class Chosen:
    """A version to deploy; ``archive`` is None for a placeholder.

    ``accuracy``: on the test photos, 0-1; ``fingerprint``: of these photos.
    """

    version: str
    archive: Path | None
    accuracy: float
    fingerprint: str = ""


def build(chosen: Chosen, form: str, folder: Path) -> Package:
    """Write ``folder/<version>/model.tar.gz`` of ``chosen`` for a container of ``form``. Raises ArchiveError."""
    target = folder / chosen.version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if chosen.archive is None:
        return _placeholder(chosen, form, target)
    with unpacked(chosen.archive) as content:
        manifest = read_manifest(content)
        golden = tuple(_golden(content, target, manifest, number) for number in range(len(manifest.golden)))
        if not golden:
            raise ArchiveError(f"{chosen.archive} has no golden photo, by which a deployed endpoint is checked")
        path = _write(target / "model.tar.gz", dict(_members(content, form, target)))
    kept = Path(shutil.copy(chosen.archive, target / ARCHIVE))
    return Package(
        path, sha256(path), kept, chosen.version, chosen.accuracy, chosen.fingerprint, golden, manifest.tolerance
    )


def _golden(content: Path, target: Path, manifest: Manifest, number: int) -> GoldenPhoto:
    path = target / f"golden-{number}{Path(manifest.golden[number].file).suffix}"
    shutil.copy(content / manifest.golden[number].file, path)
    return GoldenPhoto(path, manifest.promised(number))


def _members(content: Path, form: str, work: Path) -> Iterator[tuple[str, Path]]:
    """Names in ``model.tar.gz`` and the files that they come from."""
    if form == TORCHSCRIPT:
        from trainer.aws.endpoint import torchscript  # torch takes seconds, and the other form does without

        yield MANIFEST_FILE, content / MANIFEST_FILE
        yield "model.pt", torchscript.write(content / GPU_PROGRAM, work / "model.pt")
        yield f"{_CODE}/{_ENTRY}", _SERVE / "inference_torchscript.py"
        return
    files = {path.relative_to(content).as_posix(): path for path in content.rglob("*") if path.is_file()}
    del files[TORCHSERVE_MANIFEST]  # with it, the container's TorchServe takes handler.py, not inference.py
    yield from files.items()
    yield from _code(content / "serve", work)


def _code(own: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """``code/``: from ``own``, the archive's, unless it was made before it carried what answers there."""
    if not (own / _ENTRY).is_file():
        log.warning("the archive is older than its %s: this project's goes with it, and golden photos decide", _ENTRY)
        own = _SERVE
    yield f"{_CODE}/{_ENTRY}", own / _ENTRY
    yield from ((f"{_CODE}/serve/{path.name}", path) for path in own.glob("*.py"))
    needed = work / "requirements.txt"
    needed.write_text("".join(_pinned(name, where) for name, where in REQUIREMENTS.items()))
    yield f"{_CODE}/requirements.txt", needed


def _pinned(name: str, where: str) -> str:
    """A line of requirements.txt with the version of this machine, none for a package that it has none of."""
    with suppress(PackageNotFoundError):
        return f"{name}=={installed(name)}{where}\n"
    return ""


def _write(path: Path, members: dict[str, Path]) -> Path:
    """A tar of ``members`` in which nothing depends on when and by whom it was made."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,  # weights hardly shrink
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, source in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = source.stat().st_size, 0o644
            with source.open("rb") as data:
                tar.addfile(info, data)
    return path


def _placeholder(chosen: Chosen, form: str, target: Path) -> Package:
    """What stands for an archive in a dry run: the code is real, the model and the golden photo are not."""
    model, photo, mar = (target / f"{PLACEHOLDER}-{name}" for name in ("model", "golden.jpg", ARCHIVE))
    for each in (model, photo, mar):
        each.write_text(f"a {PLACEHOLDER}: there is no champion yet\n")
    members = {"model.pt" if form == TORCHSCRIPT else FP32_MODEL: model}
    if form == TORCHSCRIPT:
        members[f"{_CODE}/{_ENTRY}"] = _SERVE / "inference_torchscript.py"
    else:
        members |= dict(_code(_SERVE, target))
    path = _write(target / f"{PLACEHOLDER}-model.tar.gz", members)
    return Package(
        path, sha256(path), mar, chosen.version, chosen.accuracy, chosen.fingerprint, (GoldenPhoto(photo, ()),), 0.0
    )


@contextmanager
def archive_in(given: Path) -> Iterator[Path]:
    """The archive that ``given`` is, or holds where it is a training job's ``model.tar.gz``. Raises ArchiveError."""
    if not given.is_file():
        raise ArchiveError(f"there is no archive {given}; name a bin-counter.mar, or a training job's model.tar.gz")
    if not tarfile.is_tarfile(given):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="binwatch-archive-") as folder, tarfile.open(given) as tar:
        found = [each for each in tar.getmembers() if each.isfile() and each.name.endswith(".mar")]
        if len(found) != 1:
            raise ArchiveError(f"{given} holds {len(found)} archives (.mar); it should hold the one that was trained")
        tar.extract(found[0], folder, filter="data")
        yield Path(folder) / found[0].name
