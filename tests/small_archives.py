"""Archives of a few kilobytes, valid but for their model, which is none, and zips with arbitrary contents."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from serve.archives.archive import TORCHSERVE_MANIFEST
from serve.manifest import FORMAT, MANIFEST_FILE

FILES = {
    "handler.py": b"raise SystemExit\n",
    "serve/__init__.py": b'"""Nothing."""\n',
    "serve/inference.py": b'"""Nothing."""\n',
    "model.onnx": b"onnx" * 200,
    "golden/0.jpg": b"\xff\xd8photo\xff\xd9",
}
PROGRAM = {
    "archive_format": b"pt2",
    "data/weights/weight_0": b"w" * 300,
    "models/model.json": b"{}",
    "data/weights/model_weights_config.json": b'{"config": {"a": {"use_pickle": false}}}',
    "data/sample_inputs/model.pt": b"",
}


def manifest(files: Mapping[str, bytes], /, **changes: object) -> bytes:
    """The text of binwatch.json for these files."""
    content = {
        "format": FORMAT,
        "classes": [1, 2],
        "size_px": 32,
        "run_id": "a run",
        "dataset_fingerprint": "f",
        "metrics": {},
        "golden": [{"file": "golden/0.jpg", "probabilities": [0.5, 0.5]}],
        "licence": "none",
        "recipe": {},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        **changes,
    }
    return json.dumps(content).encode()


def for_torchserve(**changes: str) -> bytes:
    """The text of TorchServe's manifest."""
    model = {"modelName": "bin-counter", "serializedFile": "model.onnx", "handler": "handler.py", "modelVersion": "0"}
    return json.dumps({"runtime": "python", "model": {**model, **changes}, "archiverVersion": "0.12.0"}).encode()


def program(**changes: bytes) -> bytes:
    """A torch program, made without torch."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as content:
        for name, data in {**PROGRAM, **{key.replace("__", "/"): value for key, value in changes.items()}}.items():
            content.writestr(f"model/{name}", data)
    return out.getvalue()


def contents(files: Mapping[str, bytes] = FILES, /, **changes: object) -> dict[str, bytes]:
    """All files of an archive with these files; ``changes``: of its manifest."""
    files = {"model.pt2": program(), **files}
    return {MANIFEST_FILE: manifest(files, **changes), **files, TORCHSERVE_MANIFEST: for_torchserve()}


def packed(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip of these files at ``path``."""
    with zipfile.ZipFile(path, "w", compression) as content:
        for name, data in files.items():
            content.writestr(name, data)
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    """The files of a zip."""
    with zipfile.ZipFile(path) as content:
        return {name: content.read(name) for name in content.namelist()}
