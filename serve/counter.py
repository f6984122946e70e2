"""Counting: an unpacked archive and the bytes of photos in, answers out.

The only place where a model is run. TorchServe's handler uses it as a module; the evaluation and
``scripts/predict.py --archive`` run the archive's own copy as a process:

    python -m serve.counter THREADS <paths >answers    one path per line in, one JSON object per line out
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serve import photo, runtime, verdict
from serve.errors import ArchiveError, PhotoError
from serve.manifest import GPU_PROGRAM, Form, Manifest, read_manifest
from serve.runtime import Candidates, Choice, Runner, softmax

BATCH = 32
CPU = "cpu"

Answer: TypeAlias = dict[str, Any]
"""The JSON answer to one photo: ``count``, ``expected_count``, ``probabilities`` and ``fit`` (both by count); with a
recorded quantity also ``expected_quantity``, ``alpha`` and the fields of ``verdict.Verdict``."""


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
    if gpu_id is None or find_spec("torch") is None:
        return CPU
    import torch

    return f"cuda:{gpu_id}" if torch.cuda.is_available() else CPU


class Counter:
    """A loaded model.

    ``device``: ``cpu`` runs, with this many ``threads`` (one, where several workers share the cores), the form that
    ``serve/runtime.py`` chooses; anything else, such as ``cuda:0``, runs the exported program in torch. ``shared``:
    whether workers that start later from ``folder`` use what this one has compiled.

    Raises ArchiveError for a damaged archive, and where no form gives the promised answers.
    """

    def __init__(self, folder: Path, threads: int = 1, device: str = CPU, shared: bool = False) -> None:
        manifest = read_manifest(folder)
        if device == CPU:
            candidates = Candidates(folder, manifest, lambda: _golden_pixels(folder, manifest), threads, shared)
            self.choice, self._run = candidates.choose()
            served = next(item for item in manifest.forms if item.form is self.choice.form)
            self.manifest = manifest.calibrated(served.calibration)
        else:
            self.choice, self._run = Choice(Form.GPU), torch_runner(folder / GPU_PROGRAM, device)
            self.manifest = manifest.for_gpu()

    def describe(self) -> dict[str, object]:
        """The form that answers, the kind of processor, and why the forms that were tried before do not answer."""
        return {"form": self.choice.form, "processor": runtime.processor(), "refusals": dict(self.choice.refusals)}

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


def _golden_pixels(folder: Path, manifest: Manifest) -> photo.Pixels:
    """The golden photos, decoded as all photos are: uint8 ``(G, S, S, 3)``. Raises ArchiveError."""
    try:
        return np.stack([photo.read((folder / item.file).read_bytes(), manifest.size_px) for item in manifest.golden])
    except (PhotoError, ValueError) as error:
        raise ArchiveError(f"the golden photos of the archive cannot be read: {error}") from error


if __name__ == "__main__":
    main()
