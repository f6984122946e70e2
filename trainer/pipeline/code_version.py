"""Hashes of the code that decides a step: a step is done again where they change, and only there.

Contents are hashed, not revisions: a commit that changes other folders keeps the cache.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from serve.manifest import sha256

ROOT = Path(__file__).parents[2]
TRAINING = (
    "serve/*.py",  # what travels in the archive
    "trainer/data/**/*.py",
    "trainer/training/**/*.py",
    "trainer/evaluation/calibration.py",  # the temperature and the conformal scores in the manifest
)
EVALUATION = (
    "serve/*.py",
    "serve/archives/**/*.py",
    "trainer/data/**/*.py",
    *(f"trainer/evaluation/{stem}.py" for stem in ("evaluate", "alarms", "calibration", "statistics")),
)
LIBRARIES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "pillow")


@cache
def training_code(root: Path = ROOT) -> str:
    """SHA-256 of everything that may change a trained archive, the versions of the libraries included."""
    return _digest(root, TRAINING)


@cache
def evaluation_code(root: Path = ROOT) -> str:
    """SHA-256 of everything outside an archive that may change its evaluation."""
    return _digest(root, EVALUATION)


def files(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files below ``root`` that the patterns name, in one order."""
    return sorted({path for pattern in patterns for path in root.glob(pattern)})


def _digest(root: Path, patterns: tuple[str, ...]) -> str:
    lines = [f"{path.relative_to(root)} {sha256(path)}" for path in files(root, patterns)]
    lines += [f"{name} {version(name)}" for name in LIBRARIES]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
