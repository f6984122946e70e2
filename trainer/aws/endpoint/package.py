"""Builds ``model.tar.gz``, an archive in the form of AWS's PyTorch containers. The same archive gives the same bytes.

For ``ModelForm.ONNX``:

    binwatch.json, model.onnx, model.int8.onnx, ...    the files of the archive
    code/inference.py                                  the archive's serve/inference.py
    code/serve/*.py, code/serve/evidence/*.py          the archive's code
    code/requirements.txt                              what the container lacks

For ``ModelForm.TORCHSCRIPT``, where the container's Python is too old for the archive's code:

    binwatch.json, model.pt                            trainer/aws/endpoint/torchscript.py
    code/inference.py                                  serve/aws/inference_torchscript.py

https://github.com/aws/sagemaker-pytorch-inference-toolkit
"""

import gzip
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
from trainer.artifacts import ARCHIVE_FILE
from trainer.aws.endpoint.hosting import GoldenPhoto, Package
from trainer.aws.endpoint.images import ModelForm

PLACEHOLDER = "placeholder"
"""The version of a dry run without a champion."""
REQUIREMENTS = {
    "openvino": "",
    "onnxruntime": "",
    "cykooz-resizer": "; platform_machine == 'x86_64'",
    "simplejpeg": "",
}
"""Package that the archive's code imports and AWS's container lacks -> environment marker of requirements.txt. Archives
made earlier import onnxruntime in place of openvino."""

_ENTRY, _CODE = "inference.py", "code"
_SERVE = Path(serve.__file__).parent


@dataclass(frozen=True)
class ModelChoice:
    """A version to deploy; ``archive`` is None for a placeholder.

    ``accuracy``: on the test photos, 0-1; ``fingerprint``: of these photos.
    """

    version: str
    archive: Path | None
    accuracy: float
    fingerprint: str = ""


def build(choice: ModelChoice, form: ModelForm, folder: Path) -> Package:
    """Write ``folder/<version>/model.tar.gz`` for a container that loads ``form``. Raises ArchiveError."""
    target = folder / choice.version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if choice.archive is None:
        return _placeholder(choice, form, target)
    with unpacked(choice.archive) as content:
        manifest = read_manifest(content)
        golden = tuple(_golden(content, target, manifest, number) for number in range(len(manifest.golden)))
        if not golden:
            raise ArchiveError(f"{choice.archive} has no golden photo, with which a deployed endpoint is checked")
        path = _write(target / "model.tar.gz", dict(_members(content, form, target)))
    archive = Path(shutil.copy(choice.archive, target / ARCHIVE_FILE))
    return _package(choice, path, archive, golden, manifest.tolerance)


def _package(
    choice: ModelChoice, path: Path, archive: Path, golden: tuple[GoldenPhoto, ...], tolerance: float
) -> Package:
    return Package(
        path=path,
        sha256=sha256(path),
        archive=archive,
        version=choice.version,
        accuracy=choice.accuracy,
        fingerprint=choice.fingerprint,
        golden=golden,
        tolerance=tolerance,
    )


def _golden(content: Path, target: Path, manifest: Manifest, number: int) -> GoldenPhoto:
    path = target / f"golden-{number}{Path(manifest.golden[number].file).suffix}"
    shutil.copy(content / manifest.golden[number].file, path)
    return GoldenPhoto(path, manifest.accepted_answers(number))


def _members(content: Path, form: ModelForm, work: Path) -> Iterator[tuple[str, Path]]:
    """Name in ``model.tar.gz``, and the file with its content."""
    if form is ModelForm.TORCHSCRIPT:
        from trainer.aws.endpoint import torchscript  # torch takes seconds, and ONNX needs none

        yield MANIFEST_FILE, content / MANIFEST_FILE
        yield "model.pt", torchscript.write(content / GPU_PROGRAM, work / "model.pt")
        yield f"{_CODE}/{_ENTRY}", _SERVE / "aws" / "inference_torchscript.py"
        return
    files = {path.relative_to(content).as_posix(): path for path in content.rglob("*") if path.is_file()}
    del files[TORCHSERVE_MANIFEST]  # with it, the container's TorchServe would load handler.py in place of inference.py
    yield from files.items()
    yield from _code(content / "serve", work)


def _code(folder: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """The members of ``code/``, from a ``serve`` folder."""
    if not (folder / _ENTRY).is_file():
        raise ArchiveError(f"the archive has no serve/{_ENTRY}, which answers in AWS's containers; export it again")
    yield f"{_CODE}/{_ENTRY}", folder / _ENTRY
    for path in (*folder.glob("*.py"), *folder.glob("evidence/*.py")):
        yield f"{_CODE}/serve/{path.relative_to(folder).as_posix()}", path
    requirements = work / "requirements.txt"
    requirements.write_text("".join(_pinned(name, marker) for name, marker in REQUIREMENTS.items()))
    yield f"{_CODE}/requirements.txt", requirements


def _pinned(name: str, marker: str) -> str:
    """A line of requirements.txt with the installed version; empty where the package is not installed."""
    with suppress(PackageNotFoundError):
        return f"{name}=={installed(name)}{marker}\n"
    return ""


def _write(path: Path, members: dict[str, Path]) -> Path:
    """A reproducible tar of ``members``: without times and owners."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,  # level 1: weights hardly compress
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, source in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = source.stat().st_size, 0o644
            with source.open("rb") as data:
                tar.addfile(info, data)
    return path


def _placeholder(choice: ModelChoice, form: ModelForm, target: Path) -> Package:
    """The package of a dry run without a champion: its code is real, its model and golden photo are not."""
    model, photo, mar = (target / f"{PLACEHOLDER}-{name}" for name in ("model", "golden.jpg", ARCHIVE_FILE))
    for file in (model, photo, mar):
        file.write_text(f"a {PLACEHOLDER}: there is no champion yet\n")
    members = {"model.pt" if form is ModelForm.TORCHSCRIPT else FP32_MODEL: model}
    if form is ModelForm.TORCHSCRIPT:
        members[f"{_CODE}/{_ENTRY}"] = _SERVE / "aws" / "inference_torchscript.py"
    else:
        members |= dict(_code(_SERVE, target))
    path = _write(target / f"{PLACEHOLDER}-model.tar.gz", members)
    return _package(choice, path, mar, (GoldenPhoto(photo, ()),), tolerance=0.0)


@contextmanager
def archive_in(path: Path) -> Iterator[Path]:
    """The archive at ``path``, or in it where it is a training job's ``model.tar.gz``. Raises ArchiveError."""
    if not path.is_file():
        raise ArchiveError(f"there is no archive {path}; name a bin-counter.mar, or a training job's model.tar.gz")
    if not tarfile.is_tarfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="binwatch-archive-") as folder, tarfile.open(path) as tar:
        archives = [member for member in tar.getmembers() if member.isfile() and member.name.endswith(".mar")]
        if len(archives) != 1:
            raise ArchiveError(f"{path} holds {len(archives)} archives (.mar); it should hold the one that was trained")
        tar.extract(archives[0], folder, filter="data")
        yield Path(folder) / archives[0].name
