"""Counting: an unpacked archive and the bytes of photos in, answers out.

The only place where a model is run. TorchServe's handler uses it as a module; the evaluation and
``scripts/predict.py --archive`` run the archive's own copy as a process:

    python -m serve.counter THREADS <photos >answers    one photo per line in, one JSON object per line out

A line is a path, or for a verdict JSON with the photo's record: ``{"path": PATH, "record": RECORD}``. With
``"records": [RECORD, ...]`` the answer has a list ``records`` of what each of them would change (``with_products``).
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serve import photo, runtime, verdict
from serve.environment import Variables
from serve.errors import ArchiveError, FieldError, PhotoError
from serve.evidence import Evidence, novelty
from serve.evidence.attention import attention
from serve.evidence.novelty import FeatureSpace
from serve.evidence.record import Record, parse_either, shorten_notes
from serve.evidence.record_model import RecordModel
from serve.manifest import GPU_PROGRAM, NOVELTY_FILE, RECORD_FILE, Form, Manifest, read_manifest
from serve.runtime import Candidates, Choice, Outputs, Runner, outputs_of, softmax

BATCH = 32
CPU = "cpu"

Answer: TypeAlias = dict[str, Any]
"""The JSON answer to one photo: ``count``, ``expected_count``, ``probabilities`` and ``fit`` (both by count), and
``typical``; ``attention``, if asked for; with a recorded quantity also ``expected_quantity``, ``alpha``, ``evidence``,
``calibration_photos`` (how many the ``fit`` of the recorded count was ranked among), perhaps ``notes``, and the fields
of ``verdict.Verdict``. Where the record's products have sizes, count and
probabilities are those given the sizes, ``fit`` of the recorded count is that of the record, and ``photo`` has what the
photo alone says."""


def torch_runner(program: Path, device: str) -> Runner:
    """A runner of an exported torch program on ``device`` (torch's name). Raises ArchiveError without program."""
    import torch  # takes seconds to import, and the CPU path does not need it
    from torch.export.passes import move_to_device_pass

    if not program.is_file():
        raise ArchiveError(f"the archive has no {program.name}, which {device} needs: export again, or use a CPU")
    module = move_to_device_pass(torch.export.load(program), device).module()

    def run(pixels: photo.Pixels) -> Outputs:
        with torch.inference_mode():
            outputs = module(torch.tensor(pixels, device=device))
        named = outputs if isinstance(outputs, dict) else {"logits": outputs}  # exported before outputs had names
        return outputs_of({name: tensor.double().cpu().numpy() for name, tensor in named.items()})

    return run


def device_of(gpu_id: object) -> str:
    """The device of a worker: the GPU that TorchServe assigned to it, if torch can use it, else the CPU."""
    if gpu_id is None or find_spec("torch") is None:
        return CPU
    import torch

    return f"cuda:{gpu_id}" if torch.cuda.is_available() else CPU


@dataclass(frozen=True)
class CountedPhoto:
    """The answer to one photo, and the outputs of the network that it is from, without the batch's dimension."""

    answer: Answer
    outputs: Outputs


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
        self._bins = FeatureSpace.read(folder / NOVELTY_FILE) if self.manifest.novelty else None
        self._records = _read_record_model(folder, self.manifest) if self.manifest.record_scores else None

    def describe(self) -> dict[str, object]:
        """The form that answers, the kind of processor, and why the forms that were tried before do not answer."""
        return {"form": self.choice.form, "processor": runtime.processor(), "refusals": dict(self.choice.refusals)}

    def answer(self, photos: Sequence[bytes]) -> list[Answer | PhotoError]:
        """One answer per photo, in order; an unreadable photo gets its PhotoError, the others their count."""
        results = self.count([self.read(data) for data in photos])
        return [result if isinstance(result, PhotoError) else result.answer for result in results]

    def read(self, data: bytes) -> photo.Pixels | PhotoError:
        """The pixels of one photo at the size of the model's input, or the reason why there are none."""
        try:
            return photo.read(data, self.manifest.size_px)
        except PhotoError as error:
            return error

    def count(self, photos: Sequence[photo.Pixels | PhotoError]) -> list[CountedPhoto | PhotoError]:
        """One result per result of ``read``, in order."""
        readable = [pixels for pixels in photos if not isinstance(pixels, PhotoError)]
        outputs = self.outputs(np.stack(readable)) if readable else None
        rows = iter([outputs.row(number) for number in range(len(readable))] if outputs else ())
        return [pixels if isinstance(pixels, PhotoError) else self._counted(next(rows)) for pixels in photos]

    def outputs(self, pixels: photo.Pixels) -> Outputs:
        """What the network gives for pixels, uint8 ``(B, S, S, 3)``."""
        return self._run(pixels)

    def logits(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one column per class."""
        return self._run(pixels).logits

    def probabilities(self, pixels: photo.Pixels) -> NDArray[np.float64]:
        """Pixels uint8 ``(B, S, S, 3)`` -> calibrated probabilities ``(B, C)``, one column per class."""
        return softmax(self.logits(pixels) / self.manifest.temperature)

    def _counted(self, outputs: Outputs) -> CountedPhoto:
        answer = {**self._answer(outputs.logits), "typical": self._typical(outputs.features)}
        return CountedPhoto(answer, outputs)

    def _typical(self, features: NDArray[np.float32] | None) -> float | None:
        """The share of bins (0-1) that are as unlike those learned from as this photo; None where there is no test."""
        if self._bins is None or features is None:
            return None
        return novelty.typical(float(self._bins.scores(features[None])[0]), self.manifest.novelty)

    def with_attention(self, photo: CountedPhoto) -> Answer:
        """The answer to ``photo`` with a picture of where the network looked for the most probable count."""
        number = self.manifest.classes.index(photo.answer["count"])
        picture = attention(photo.outputs.maps, number, self.manifest.names[number], self.manifest.size_px)
        return {**photo.answer, "attention": picture}

    def _answer(self, logits: NDArray[np.float64]) -> Answer:
        """What the logits ``(C,)`` of one photo say."""
        scores = self.manifest.scores
        fits = verdict.p_values(self._by_count(softmax(logits)), scores) if scores else {}
        counts = self._counts(softmax(logits / self.manifest.temperature))
        return {**counts, "fit": {name: round(p, 4) for name, p in fits.items()}}

    def _counts(self, probabilities: NDArray[np.float64]) -> Answer:
        """What the probabilities ``(C,)`` of the counts say."""
        classes = self.manifest.classes
        return {
            "count": classes[int(probabilities.argmax())],
            "expected_count": round(float(probabilities @ np.asarray(classes)), 4),
            "probabilities": {name: round(p, 6) for name, p in self._by_count(probabilities).items()},
        }

    def _by_count(self, row: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.manifest.names, row.tolist(), strict=True))

    def with_verdict(
        self,
        counted: CountedPhoto,
        quantity: int,
        alpha: float,
        record: Record | None = None,
        novelty_limit: float = verdict.NOVELTY_LIMIT,
    ) -> Answer:
        """The answer to a photo with the verdict on the recorded ``quantity``, and on the ``record`` that it is from.

        ``novelty_limit``: the share of bins that may be taken for something else, whose verdict is ``unsure``.
        """
        name = self.manifest.name_of(quantity)
        fitted = self.with_products(counted, record, alpha) if record else None
        answer, scores = (fitted, self.manifest.record_scores) if fitted else (counted.answer, self.manifest.scores)
        photos = {count: len(fits) for count, fits in scores.items()}
        judgement = verdict.reach_verdict(name, answer["probabilities"], answer["fit"], photos, alpha)
        basis: Answer = {
            "evidence": Evidence.PHOTO_PRODUCTS if fitted else Evidence.PHOTO,
            "calibration_photos": photos.get(name, 0),
        }
        if record and fitted:
            seen = f"{_seen(answer['expected_count'])}; the record lists {record.summary}"
            judgement = replace(judgement, reason=f"{seen}; {judgement.reason}")
        if record and record.notes:
            basis["notes"] = shorten_notes(record.notes)
        judgement = verdict.doubt(judgement, answer["typical"], novelty_limit)
        return {**answer, "expected_quantity": quantity, "alpha": alpha, **asdict(judgement), **basis}

    def with_products(self, counted: CountedPhoto, record: Record, alpha: float) -> Answer | None:
        """The answer to a photo, given the products of its ``record``.

        None where the photo alone decides: without a record model, without sizes, or without enough calibration
        photos for a ``mismatch``.
        """
        name = self.manifest.name_of(record.quantity)
        features, scores = counted.outputs.features, self.manifest.record_scores.get(name, ())
        enough = len(scores) >= verdict.min_calibration_photos(alpha)
        if self._records is None or features is None or not record.has_sizes or not enough:
            return None
        photo = self._records.photo_features(features[None])
        fit = verdict.p_value(float(self._records.nonconformity(photo, [record])[0]), scores)
        alone = {key: counted.answer[key] for key in ("count", "expected_count", "probabilities", "fit")}
        return {
            **counted.answer,
            **self._counts(self._records.count_probabilities(photo, [record])[0]),
            "fit": {**counted.answer["fit"], name: round(fit, 4)},
            "photo": alone,
        }


def _seen(expected_count: float) -> str:
    """How many objects are seen, in words."""
    number = round(expected_count)
    return f"about {number} {'object is' if number == 1 else 'objects are'} seen"


def main() -> None:
    """Answer the photos that stdin names, with the archive that is unpacked in the working directory."""
    counter, read = Counter(Path.cwd(), threads=int(sys.argv[1])), Variables(os.environ)
    alpha, limit = verdict.read_alpha(read), verdict.read_novelty_limit(read)
    photos = [_parse_line(line) for line in sys.stdin.read().splitlines()]
    if any("record" in question for _, question in photos):
        read.check()
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        photos_read = [counter.read(path.read_bytes()) for path, _ in batch]
        for counted, (_, question) in zip(counter.count(photos_read), batch, strict=True):
            print(json.dumps(_judge(counter, counted, question, alpha, limit)), flush=True)


def _parse_line(line: str) -> tuple[Path, Mapping[str, Any]]:
    """The path of a photo, and the rest of its line: ``record``, ``records``, or nothing."""
    if not line.startswith("{"):
        return Path(line), {}
    content = json.loads(line)
    return Path(content["path"]), content


def _judge(
    counter: Counter, counted: CountedPhoto | PhotoError, question: Mapping[str, Any], alpha: float, limit: float
) -> Answer:
    """The answer to one photo, with what its line asks for; or why there is none."""
    if isinstance(counted, PhotoError):
        return {"error": str(counted)}
    try:
        if "records" in question:
            records = [counter.with_products(counted, parse_either(content), 1.0) for content in question["records"]]
            return {**counted.answer, "records": records}
        if "record" not in question:
            return counted.answer
        record = parse_either(question["record"])
    except FieldError as error:
        return {"error": str(error)}
    return counter.with_verdict(counted, record.quantity, alpha, record, limit)


def _read_record_model(folder: Path, manifest: Manifest) -> RecordModel:
    """The record model, for the counts of the manifest. Raises ArchiveError."""
    model = RecordModel.read(folder / RECORD_FILE)
    if model.columns.classes != manifest.classes:
        raise ArchiveError(f"{RECORD_FILE} is for the counts {model.columns.classes}, not {manifest.classes}: damaged")
    return model


def _golden_pixels(folder: Path, manifest: Manifest) -> photo.Pixels:
    """The golden photos, decoded as all photos are: uint8 ``(G, S, S, 3)``. Raises ArchiveError."""
    try:
        return np.stack([photo.read((folder / item.file).read_bytes(), manifest.size_px) for item in manifest.golden])
    except (PhotoError, ValueError) as error:
        raise ArchiveError(f"the golden photos of the archive cannot be read: {error}") from error


if __name__ == "__main__":
    main()
