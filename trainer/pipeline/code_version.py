"""Hashes of the code that a step's result depends on; a cached result is reused only while its hash is the same.

The contents of files are hashed, not the git revision, so that commits to other folders do not invalidate the cache.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from serve.manifest import sha256

ROOT = Path(__file__).parents[2]
TRAINING = (
    "serve/*.py",  # the code that is copied into the archive
    "serve/evidence/*.py",
    "serve/objects/*.py",  # by which photos and labels come from buckets
    "trainer/data/**/*.py",
    "trainer/training/**/*.py",
    "trainer/evaluation/calibration.py",  # for the temperature and conformal scores in the manifest
)
EVALUATION = (
    "serve/*.py",
    "serve/evidence/*.py",
    "serve/archives/**/*.py",
    "serve/objects/*.py",
    "trainer/data/**/*.py",
    *(f"trainer/evaluation/{stem}.py" for stem in ("evaluate", "alarms", "record_alarms", "calibration", "statistics")),
)
LIBRARIES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "openvino", "pillow")


@cache
def training_code(root: Path = ROOT) -> str:
    """SHA-256 of all code that a trained archive depends on, and of the versions of the libraries."""
    return _digest(root, TRAINING)


@cache
def evaluation_code(root: Path = ROOT) -> str:
    """SHA-256 of all code, outside the archive, that an evaluation depends on, and of the libraries' versions."""
    return _digest(root, EVALUATION)


def files(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files below ``root`` that match the glob patterns, sorted."""
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def _digest(root: Path, patterns: tuple[str, ...]) -> str:
    lines = [f"{path.relative_to(root)} {sha256(path)}" for path in files(root, patterns)]
    lines += [f"{name} {version(name)}" for name in LIBRARIES]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
