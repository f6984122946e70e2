"""What an archive may hold: what its manifest lists, and of that only what can be in an archive at all.

Python, ONNX, a torch program, photos. Nothing in it is a pickle: where torch would read one, in its program, there is
none, or the archive is refused. Everything raises ArchiveError.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from typing import IO, Any

from serve.errors import ArchiveError

MAX_TEXT = 16 * 1024**2
"""Largest JSON file in bytes that is read into memory."""

_FORMS = re.compile(
    r"(handler|sitecustomize)\.py|serve/\w+\.py|model\.onnx|model\.int8\.onnx|model\.pt2|golden/\d+\.jpg"
)
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".bin")
_PROGRAM_FORMS = re.compile(
    r"(?P<root>[^/]+)/(data/weights/weight_\d+|data/constants/tensor_\d+|models/[^/]+\.json"
    r"|data/(weights|constants)/[^/]+_config\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id))"
)
_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
"""Where torch.export.save puts a pickle of the example that was traced; ours is empty."""
_TORCHSERVE = {"modelName", "serializedFile", "handler", "modelVersion"}
"""What TorchServe's manifest says of a model. It knows more: requirementsFile makes it call pip."""


def check_listing(content: zipfile.ZipFile, files: Mapping[str, str], known: set[str]) -> None:
    """Refuse files that the manifest does not list, and those that no archive holds; ``known``: the manifests."""
    names = set(content.namelist())
    for name in sorted({*names, *files} - known):
        if name.endswith(_PICKLES):
            raise ArchiveError(f"the archive holds {name!r}, which may be a pickle; pickles are never loaded")
        if not _FORMS.fullmatch(name):
            raise ArchiveError(f"the archive holds {name!r}, which is no part of an archive")
        if name not in files:
            raise ArchiveError(f"the archive holds {name!r}, which its manifest does not list")
        if name not in names:
            raise ArchiveError(f"the archive has no {name}, which its manifest lists: damaged")
    for name in sorted(known - names):
        raise ArchiveError(f"the archive has no {name}: it was not made by binwatch")


def copy_checked(data: IO[bytes], out: IO[bytes], name: str, expected: str) -> None:
    """Copy one file, which must have the SHA-256 ``expected``, in hexadecimal."""
    found = hashlib.sha256()
    while block := data.read(1 << 20):
        found.update(block)
        out.write(block)
    if found.hexdigest() != expected:
        raise ArchiveError(
            f"{name} in the archive has SHA-256 {found.hexdigest()}, its manifest says {expected}: damaged"
        )


def read_text(content: zipfile.ZipFile, name: str) -> bytes:
    """A small file's bytes."""
    size = content.getinfo(name).file_size
    if size > MAX_TEXT:
        raise ArchiveError(f"{name} in the archive has {size} bytes; at most {MAX_TEXT} are read")
    return content.read(name)


def torchserve_manifest(text: bytes, model: str) -> dict[str, Any]:
    """TorchServe's manifest, which may name the handler and ``model`` and nothing that would be loaded or installed."""
    try:
        found = json.loads(text)
        said = found["model"]
        good = set(said) == _TORCHSERVE and (said["handler"], said["serializedFile"]) == ("handler.py", model)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArchiveError(f"TorchServe's manifest in the archive is damaged: {error!r}") from error
    if not good or found.get("runtime") != "python":
        raise ArchiveError(f"TorchServe's manifest in the archive asks for more than {model} and handler.py: {said}")
    return dict(found)


def is_sample(name: str) -> bool:
    """Whether a file of a torch program is the example that it was traced with, which is a pickle or empty."""
    return _SAMPLES.fullmatch(name) is not None


def check_program(program: IO[bytes], name: str) -> None:
    """Refuse a torch program in which torch would find a pickle or a compiled library."""
    try:
        with zipfile.ZipFile(program) as content:
            for each in content.infolist():
                _check_part(content, each, name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"{name} in the archive is not a whole torch program: {error!r}") from error


def _check_part(content: zipfile.ZipFile, part: zipfile.ZipInfo, name: str) -> None:
    sample = is_sample(part.filename)
    if (sample and part.file_size) or not (sample or _PROGRAM_FORMS.fullmatch(part.filename)):
        raise ArchiveError(
            f"{name} in the archive holds {part.filename!r} of {part.file_size} bytes, which torch would read as a "
            "pickle or as compiled code; pickles are never loaded. An archive of an older version of binwatch has one: "
            "run the pipeline again, or scripts/sign.py, which takes it out"
        )
    if part.filename.endswith("_config.json") and _pickled(json.loads(read_text(content, part.filename))):
        raise ArchiveError(f"{part.filename} of {name} in the archive says that weights are pickles: never loaded")


def _pickled(config: Any) -> bool:
    """Whether a list of weights names one that is a pickle, or is no such list."""
    try:
        return any(each["use_pickle"] is not False for each in config["config"].values())
    except (LookupError, TypeError, AttributeError):
        return True
