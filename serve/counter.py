"""Counting: an unpacked archive and the bytes of photos in, answers out.

The one place where a model is run: TorchServe's handler answers through it, and so do the
evaluation and ``scripts/predict.py --archive``, which start the archive's own copy of it with

    python -m serve.counter THREADS <paths >answers    one path a line, one JSON object a line
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve import archive, photo
from serve.errors import PhotoError

BATCH = 32


class Counter:
    """A loaded model. ``threads``: of ONNX Runtime, one a worker where several share the cores."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.manifest = archive.read_manifest(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            folder / archive.MODEL, options, providers=["CPUExecutionProvider"]
        )

    def answer(self, photos: Sequence[bytes]) -> list[dict[str, Any] | PhotoError]:
        """One answer a photo, in order; an unreadable photo gets its PhotoError, the others their count."""
        pixels = [_read(data, self.manifest.size_px) for data in photos]
        readable = [each for each in pixels if not isinstance(each, PhotoError)]
        rows = iter(self.probabilities(np.stack(readable)) if readable else ())
        return [each if isinstance(each, PhotoError) else self._answer(next(rows)) for each in pixels]

    def probabilities(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> probabilities ``(B, C)``, one column a class."""
        (logits,) = self._session.run(None, {"pixels": pixels})
        calibrated = np.asarray(logits, dtype=np.float64) / self.manifest.temperature
        exponent = np.exp(calibrated - calibrated.max(axis=1, keepdims=True))
        return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))

    def _answer(self, row: NDArray[np.float64]) -> dict[str, Any]:
        classes = self.manifest.classes
        names = archive.class_names(classes, self.manifest.open_top)
        return {
            "count": classes[int(row.argmax())],
            "expected_count": round(float(row @ np.asarray(classes)), 4),
            "probabilities": {name: round(float(p), 6) for name, p in zip(names, row, strict=True)},
        }


def main() -> None:
    """Answer for the paths on stdin, from the archive that is unpacked in this folder."""
    counter = Counter(Path.cwd(), threads=int(sys.argv[1]))
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    for start in range(0, len(paths), BATCH):
        for answer in counter.answer([path.read_bytes() for path in paths[start : start + BATCH]]):
            print(json.dumps({"error": str(answer)} if isinstance(answer, PhotoError) else answer), flush=True)


def _read(data: bytes, size_px: int) -> photo.Pixels | PhotoError:
    try:
        return photo.read(data, size_px)
    except PhotoError as error:
        return error


if __name__ == "__main__":
    main()
