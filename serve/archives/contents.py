"""What an archive may contain: exactly the files that its manifest lists, and only of the kinds that archives have.

These are Python, ONNX, a torch program and photos. Pickles are never loaded: an archive whose torch program contains
one is refused. Every function raises ArchiveError for what it refuses.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from typing import IO, Any

from serve.errors import ArchiveError

MAX_TEXT = 16 * 1024**2
"""Largest JSON file, in bytes, that is read into memory."""

_MEMBERS = re.compile(
    r"(handler|sitecustomize)\.py|serve/(evidence/)?\w+\.py|model\.onnx|model\.int8\.onnx|model\.pt2|golden/\d+\.jpg"
    r"|novelty\.npz|record\.npz"
)
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".bin")
_PROGRAM_MEMBERS = re.compile(
    r"(?P<root>[^/]+)/(data/weights/weight_\d+|data/constants/tensor_\d+|models/[^/]+\.json"
    r"|data/(weights|constants)/[^/]+_config\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id))"
)
_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
"""Where torch.export.save writes a pickle of the example that was traced; in our exports it is empty."""
_MODEL_KEYS = {"modelName", "serializedFile", "handler", "modelVersion"}
"""The keys that TorchServe's manifest may have. It knows more: requirementsFile, for one, makes it call pip."""


def check_listing(content: zipfile.ZipFile, files: Mapping[str, str], known: set[str]) -> None:
    """Refuse missing and unlisted files, and files of other kinds; ``known``: the manifests, which are not listed."""
    names = set(content.namelist())
    for name in sorted({*names, *files} - known):
        if name.endswith(_PICKLES):
            raise ArchiveError(f"the archive holds {name!r}, which may be a pickle; pickles are never loaded")
        if not _MEMBERS.fullmatch(name):
            raise ArchiveError(f"the archive holds {name!r}, which does not belong in an archive")
        if name not in files:
            raise ArchiveError(f"the archive holds {name!r}, which its manifest does not list")
        if name not in names:
            raise ArchiveError(f"the archive has no {name}, which its manifest lists: damaged")
    for name in sorted(known - names):
        raise ArchiveError(f"the archive has no {name}: it was not made by binwatch")


def copy_checked(data: IO[bytes], out: IO[bytes], name: str, expected: str) -> None:
    """Copy one file, which must have the SHA-256 ``expected`` (hexadecimal)."""
    digest = hashlib.sha256()
    while block := data.read(1 << 20):
        digest.update(block)
        out.write(block)
    if digest.hexdigest() != expected:
        raise ArchiveError(
            f"{name} in the archive has SHA-256 {digest.hexdigest()}, its manifest says {expected}: damaged"
        )


def read_text(content: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a file of at most MAX_TEXT bytes."""
    size = content.getinfo(name).file_size
    if size > MAX_TEXT:
        raise ArchiveError(f"{name} in the archive has {size} bytes; at most {MAX_TEXT} are read")
    return content.read(name)


def torchserve_manifest(text: bytes, model: str) -> dict[str, Any]:
    """Parse TorchServe's manifest. It may name the handler and ``model``, but nothing else to load or install."""
    try:
        manifest = json.loads(text)
        entry = manifest["model"]
        allowed = set(entry) == _MODEL_KEYS and (entry["handler"], entry["serializedFile"]) == ("handler.py", model)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArchiveError(f"TorchServe's manifest in the archive is damaged: {error!r}") from error
    if not allowed or manifest.get("runtime") != "python":
        raise ArchiveError(f"TorchServe's manifest in the archive asks for more than {model} and handler.py: {entry}")
    return dict(manifest)


def check_program(program: IO[bytes], name: str) -> None:
    """Refuse a torch program that contains a pickle or a compiled library."""
    try:
        with zipfile.ZipFile(program) as content:
            for part in content.infolist():
                _check_part(content, part, name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"{name} in the archive is not a whole torch program: {error!r}") from error


def _check_part(content: zipfile.ZipFile, part: zipfile.ZipInfo, name: str) -> None:
    sample = _SAMPLES.fullmatch(part.filename)  # a pickle, unless it is empty
    if (sample and part.file_size) or not (sample or _PROGRAM_MEMBERS.fullmatch(part.filename)):
        raise ArchiveError(
            f"{name} in the archive holds {part.filename!r} of {part.file_size} bytes, which torch would read as a "
            "pickle or as compiled code; pickles are never loaded. Run the pipeline again"
        )
    if part.filename.endswith("_config.json") and _names_pickles(json.loads(read_text(content, part.filename))):
        raise ArchiveError(
            f"{part.filename} of {name} in the archive says that weights are pickles; these are never loaded"
        )


def _names_pickles(config: object) -> bool:
    """Whether a list of weights names a pickle, or is not such a list."""
    weights = config.get("config") if isinstance(config, dict) else None
    if not isinstance(weights, dict):
        return True
    return any(not isinstance(weight, dict) or weight.get("use_pickle") is not False for weight in weights.values())
