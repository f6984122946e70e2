"""Counting: an unpacked archive and the bytes of photos in, answers out.

The only place where a model is run. TorchServe's handler uses it as a module; the evaluation and
``scripts/predict.py --archive`` run the archive's own copy as a process:

    python -m serve.counter THREADS <paths >answers    one path per line in, one JSON object per line out
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve import photo, verdict
from serve.errors import ArchiveError, PhotoError
from serve.manifest import GPU_PROGRAM, read_manifest

BATCH = 32
CPU = "cpu"

Answer: TypeAlias = dict[str, Any]
"""The JSON answer to one photo: ``count``, ``expected_count``, ``probabilities`` and ``fit`` (both by count); with a
recorded quantity also ``expected_quantity``, ``alpha`` and the fields of ``verdict.Verdict``."""

Runner = Callable[[photo.Pixels], NDArray[np.float64]]
"""Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one column per class."""


def onnx_runner(model: Path, threads: int = 1) -> Runner:
    """A runner of an ONNX file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0], dtype=np.float64)


def torch_runner(program: Path, device: str) -> Runner:
    """A runner of an exported torch program on ``device`` (torch's name). Raises ArchiveError without program."""
    import torch  # takes seconds to import, and the CPU path does not need it
    from torch.export.passes import move_to_device_pass

    if not program.is_file():
        raise ArchiveError(f"the archive has no {program.name}, which {device} needs: export again, or use a CPU")
    module = move_to_device_pass(torch.export.load(program), device).module()

    def run(pixels: photo.Pixels) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.asarray(module(torch.tensor(pixels, device=device)).double().cpu().numpy())

    return run


def device_of(gpu_id: object) -> str:
    """The device of a worker: the GPU that TorchServe assigned to it, if torch can use it, else the CPU."""
    if gpu_id is None:
        return CPU
    import torch

    return f"cuda:{gpu_id}" if torch.cuda.is_available() else CPU


class Counter:
    """A loaded model.

    ``device``: ``cpu`` runs the ONNX file with this many ``threads`` (one, where several workers share the cores);
    anything else, such as ``cuda:0``, runs the exported program in torch. Raises ArchiveError for a damaged archive.
    """

    def __init__(self, folder: Path, threads: int = 1, device: str = CPU) -> None:
        manifest = read_manifest(folder)
        if device == CPU:
            self.manifest, self._run = manifest, onnx_runner(folder / manifest.cpu_model, threads)
        else:
            self.manifest, self._run = manifest.for_gpu(), torch_runner(folder / GPU_PROGRAM, device)

    def answer(self, photos: Sequence[bytes]) -> list[Answer | PhotoError]:
        """One answer per photo, in order; an unreadable photo gets its PhotoError, the others their count."""
        return self.count([self.read(data) for data in photos])

    def read(self, data: bytes) -> photo.Pixels | PhotoError:
        """The pixels of one photo at the size of the model's input, or the reason why there are none."""
        try:
            return photo.read(data, self.manifest.size_px)
        except PhotoError as error:
            return error

    def count(self, photos: Sequence[photo.Pixels | PhotoError]) -> list[Answer | PhotoError]:
        """One answer per result of ``read``, in order."""
        readable = [pixels for pixels in photos if not isinstance(pixels, PhotoError)]
        rows = iter(self.logits(np.stack(readable)) if readable else ())
        return [pixels if isinstance(pixels, PhotoError) else self._answer(next(rows)) for pixels in photos]

    def logits(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one column per class."""
        return self._run(pixels)

    def probabilities(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> calibrated probabilities ``(B, C)``, one column per class."""
        return softmax(self.logits(pixels) / self.manifest.temperature)

    def _answer(self, logits: NDArray[np.float64]) -> Answer:
        """The answer to one photo from its logits ``(C,)``."""
        classes, scores = self.manifest.classes, self.manifest.scores
        calibrated = softmax(logits / self.manifest.temperature)
        fits = verdict.p_values(self._by_count(softmax(logits)), scores) if scores else {}
        return {
            "count": classes[int(calibrated.argmax())],
            "expected_count": round(float(calibrated @ np.asarray(classes)), 4),
            "probabilities": {name: round(p, 6) for name, p in self._by_count(calibrated).items()},
            "fit": {name: round(p, 4) for name, p in fits.items()},
        }

    def _by_count(self, row: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.manifest.names, row.tolist(), strict=True))

    def with_verdict(self, answer: Answer, quantity: int, alpha: float) -> Answer:
        """``answer`` with the verdict on the recorded ``quantity``."""
        photos = {name: len(scores) for name, scores in self.manifest.scores.items()}
        name = self.manifest.name_of(quantity)
        judgement = verdict.reach_verdict(name, answer["probabilities"], answer["fit"], photos, alpha)
        return {**answer, "expected_quantity": quantity, "alpha": alpha, **asdict(judgement)}


def main() -> None:
    """Answer the photos whose paths are on stdin, with the archive that is unpacked in the working directory."""
    counter = Counter(Path.cwd(), threads=int(sys.argv[1]))
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    for start in range(0, len(paths), BATCH):
        for answer in counter.answer([path.read_bytes() for path in paths[start : start + BATCH]]):
            print(json.dumps({"error": str(answer)} if isinstance(answer, PhotoError) else answer), flush=True)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits ``(..., C)`` -> probabilities that sum to 1."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


if __name__ == "__main__":
    main()
