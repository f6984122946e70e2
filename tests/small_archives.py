"""Archives of a few kilobytes, right in every respect but that their model is none, and zips that are wrong."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve.archives.archive import TORCHSERVE_MANIFEST
from serve.manifest import FORMAT, MANIFEST_FILE

FILES = {
    "handler.py": b"raise SystemExit\n",
    "serve/__init__.py": b'"""Nothing."""\n',
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


def manifest(held: Mapping[str, bytes], **other: Any) -> bytes:
    """The text of binwatch.json for these files."""
    said = {
        "format": FORMAT,
        "classes": [1, 2],
        "size_px": 32,
        "run_id": "a run",
        "dataset_fingerprint": "f",
        "metrics": {},
        "golden": [{"file": "golden/0.jpg", "probabilities": [0.5, 0.5]}],
        "licence": "none",
        "recipe": {},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in held.items()},
        **other,
    }
    return json.dumps(said).encode()


def for_torchserve(**other: Any) -> bytes:
    """The text of TorchServe's manifest."""
    model = {"modelName": "bin-counter", "serializedFile": "model.onnx", "handler": "handler.py", "modelVersion": "0"}
    return json.dumps({"runtime": "python", "model": {**model, **other}, "archiverVersion": "0.12.0"}).encode()


def program(**changes: bytes) -> bytes:
    """A torch program without a torch in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, data in {**PROGRAM, **{key.replace("__", "/"): value for key, value in changes.items()}}.items():
            made.writestr(f"model/{name}", data)
    return out.getvalue()


def contents(held: Mapping[str, bytes] = FILES, **other: Any) -> dict[str, bytes]:
    """Everything that an archive of these files holds."""
    files = {"model.pt2": program(), **held}
    return {MANIFEST_FILE: manifest(files, **other), **files, TORCHSERVE_MANIFEST: for_torchserve()}


def packed(path: Path, held: Mapping[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """A zip of these files at ``path``."""
    with zipfile.ZipFile(path, "w", how) as made:
        for name, data in held.items():
            made.writestr(name, data)
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    """What a zip holds."""
    with zipfile.ZipFile(path) as content:
        return {name: content.read(name) for name in content.namelist()}
