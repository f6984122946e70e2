"""Counting: an unpacked archive and the bytes of photos in, answers out.

The one place where a model is run: TorchServe's handler answers through it, and so do the
evaluation and ``scripts/predict.py --archive``, which start the archive's own copy of it with

    python -m serve.counter THREADS <paths >answers    one path a line, one JSON object a line
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve import photo, verdict
from serve.errors import ArchiveError, PhotoError
from serve.manifest import GPU_PROGRAM, read_manifest

BATCH = 32
CPU = "cpu"

Runner = Callable[[photo.Pixels], NDArray[np.float64]]
"""Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one column a class."""


def onnx_runner(model: Path, threads: int = 1) -> Runner:
    """Run an ONNX file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0], dtype=np.float64)


def torch_runner(program: Path, device: str) -> Runner:
    """Run an exported torch program on ``device``, as torch names it. Raises ArchiveError where there is none."""
    import torch  # takes seconds, and a CPU does without
    from torch.export.passes import move_to_device_pass

    if not program.is_file():
        raise ArchiveError(f"the archive has no {program.name}, which {device} would run: export again, or use a CPU")
    module = move_to_device_pass(torch.export.load(program), device).module()

    def run(pixels: photo.Pixels) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.asarray(module(torch.tensor(pixels, device=device)).double().cpu().numpy())

    return run


def device_of(gpu_id: object) -> str:
    """Where a worker runs its model: on the GPU that TorchServe gave it, if torch can use that, else on the CPU."""
    if gpu_id is None:
        return CPU
    import torch

    return f"cuda:{gpu_id}" if torch.cuda.is_available() else CPU


class Counter:
    """A loaded model.

    ``device``: ``cpu`` is ONNX Runtime with so many ``threads``, one a worker where several share the cores;
    anything else, such as ``cuda:0``, is the exported program in torch.
    """

    def __init__(self, folder: Path, threads: int = 1, device: str = CPU) -> None:
        manifest = read_manifest(folder)
        if device == CPU:
            self.manifest, self._run = manifest, onnx_runner(folder / manifest.cpu_model, threads)
        else:
            self.manifest, self._run = manifest.on_gpu(), torch_runner(folder / GPU_PROGRAM, device)

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
        return self._run(pixels)

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
        found = verdict.reach_verdict(name, answer["probabilities"], answer["fit"], photos, alpha)
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
