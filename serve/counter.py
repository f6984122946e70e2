"""Counting: an unpacked archive and the bytes of photos in, answers out.

The one place where a model is run: TorchServe's handler answers through it, and so do the
evaluation and ``scripts/predict.py --archive``, which start the archive's own copy of it with

    python -m serve.counter THREADS <paths >answers    one path a line, one JSON object a line
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve import archive, photo, verdict
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
        return self.count([self.read(data) for data in photos])

    def read(self, data: bytes) -> photo.Pixels | PhotoError:
        """The pixels of one photo as the model sees them, or why there are none."""
        try:
            return photo.read(data, self.manifest.size_px)
        except PhotoError as error:
            return error

    def count(self, pixels: Sequence[photo.Pixels | PhotoError]) -> list[dict[str, Any] | PhotoError]:
        """One answer a photo that ``read`` gave, in order."""
        readable = [each for each in pixels if not isinstance(each, PhotoError)]
        rows = iter(self.logits(np.stack(readable)) if readable else ())
        return [each if isinstance(each, PhotoError) else self._answer(next(rows)) for each in pixels]

    def logits(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one column a class."""
        (logits,) = self._session.run(None, {"pixels": pixels})
        return np.asarray(logits, dtype=np.float64)

    def probabilities(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> calibrated probabilities ``(B, C)``, one column a class."""
        return softmax(self.logits(pixels) / self.manifest.temperature)

    def _answer(self, logits: NDArray[np.float64]) -> dict[str, Any]:
        classes, row = self.manifest.classes, softmax(logits / self.manifest.temperature)
        fits = verdict.fit(self._named(softmax(logits)), self.manifest.scores) if self.manifest.scores else {}
        return {
            "count": classes[int(row.argmax())],
            "expected_count": round(float(row @ np.asarray(classes)), 4),
            "probabilities": {name: round(p, 6) for name, p in self._named(row).items()},
            "fit": {name: round(p, 4) for name, p in fits.items()},
        }

    def _named(self, row: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.manifest.names, row.tolist(), strict=True))

    def judge(self, answer: dict[str, Any], quantity: int, alpha: float) -> dict[str, Any]:
        """``answer`` with the verdict on the recorded ``quantity``."""
        photos = {name: len(scores) for name, scores in self.manifest.scores.items()}
        name = self.manifest.name_of(quantity)
        found = verdict.judge(name, answer["probabilities"], answer["fit"], photos, alpha)
        return {**answer, "expected_quantity": quantity, "alpha": alpha, **asdict(found)}


def main() -> None:
    """Answer for the paths on stdin, from the archive that is unpacked in this folder."""
    counter = Counter(Path.cwd(), threads=int(sys.argv[1]))
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    for start in range(0, len(paths), BATCH):
        for answer in counter.answer([path.read_bytes() for path in paths[start : start + BATCH]]):
            print(json.dumps({"error": str(answer)} if isinstance(answer, PhotoError) else answer), flush=True)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits ``(..., C)`` -> probabilities, which sum to 1."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


if __name__ == "__main__":
    main()
