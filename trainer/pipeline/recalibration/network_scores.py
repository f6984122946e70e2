"""Nonconformity scores of recounted photos, for each form of an archive's network."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from serve import verdict
from serve.archives.archive import unpacked
from serve.errors import ArchiveError, PhotoError
from serve.manifest import Form, Manifest
from serve.runtime import softmax
from trainer.evaluation.recalibration import RecountScore
from trainer.pipeline.recalibration.random_recounts import RecountPhoto

PROGRAM = Path(__file__).with_name("form_outputs.py")
THREADS = 2


@dataclass(frozen=True, kw_only=True)
class PhotoOutputs:
    """What ``form_outputs.py`` says of one photo, by form; ``error``: why it says nothing."""

    logits: Mapping[Form, tuple[float, ...]]
    record_scores: Mapping[Form, float]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PhotoScores:
    """One photo by one form: its nonconformity, and that of its record, None without one that has sizes."""

    photo: RecountPhoto
    score: float
    record_score: float | None

    def by_photo(self) -> RecountScore:
        """The score of its count."""
        return RecountScore(self.photo.name, self.score)


@dataclass(frozen=True, kw_only=True)
class NetworkScores:
    """The scores by each form that can be computed here; the forms that cannot, or that are off, with the reason."""

    forms: Mapping[Form, tuple[PhotoScores, ...]]
    left_out: Mapping[Form, str]

    def of(self, form: Form, *, calibrating: bool) -> tuple[list[RecountScore], list[RecountScore]]:
        """By the photo alone, and of records with products: of the half that calibrates, or that judges."""
        rows = [row for row in self.forms[form] if row.photo.calibrates is calibrating]
        records = [RecountScore(row.photo.name, row.record_score) for row in rows if row.record_score is not None]
        return [row.by_photo() for row in rows], records


def score_photos(archive: Path, manifest: Manifest, photos: Sequence[RecountPhoto]) -> NetworkScores:
    """The scores of ``photos`` by the network of a packed archive, run with the archive's own code.

    A photo that cannot be read is left out. A form serves only where it gives the promised answers for the golden
    photos, so one that does not give them here is left out. Raises ArchiveError where the archive does not run.
    """
    golden = [{"path": photo.file, "record": None} for photo in manifest.golden]
    questions = [{"path": str(photo.path.resolve()), "record": photo.record} for photo in photos]
    outputs = _ask(archive, [*golden, *questions])
    proofs, answers = outputs[: len(golden)], outputs[len(golden) :]
    left_out = {item.form: _problem(item.form, manifest, proofs) for item in manifest.forms}
    forms = {
        form: tuple(
            _scores(photo, form, answer, manifest)
            for photo, answer in zip(photos, answers, strict=True)
            if not answer.error
        )
        for form, problem in left_out.items()
        if not problem
    }
    return NetworkScores(forms=forms, left_out={form: problem for form, problem in left_out.items() if problem})


def _scores(photo: RecountPhoto, form: Form, answer: PhotoOutputs, manifest: Manifest) -> PhotoScores:
    probabilities = softmax(np.asarray(answer.logits[form]))
    probability = float(probabilities[manifest.names.index(photo.name)])
    score = verdict.nonconformity(probability, float(probabilities.max()))
    return PhotoScores(photo=photo, score=score, record_score=answer.record_scores.get(form))


def _problem(form: Form, manifest: Manifest, proofs: Sequence[PhotoOutputs]) -> str:
    """Why a form cannot be recalibrated here; empty where it can."""
    calibration = next(item.calibration for item in manifest.forms if item.form is form)
    errors = [proof.error for proof in proofs if proof.error]
    if errors:
        raise PhotoError(f"a golden photo of the archive cannot be read: {errors[0]}")
    if not all(form in proof.logits for proof in proofs):
        return "this processor cannot compute it"
    logits = np.array([proof.logits[form] for proof in proofs])
    off = float(np.abs(softmax(logits / calibration.temperature) - np.array(calibration.golden)).max())
    return "" if off <= manifest.tolerance else f"a probability for a golden photo is {off:.3f} off here"


_OUTPUTS = TypeAdapter(list[PhotoOutputs])


def _ask(archive: Path, questions: Sequence[Mapping[str, object]]) -> list[PhotoOutputs]:
    with unpacked(archive) as folder:
        result = subprocess.run(
            [sys.executable, "-P", str(PROGRAM), str(THREADS)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            input="".join(f"{json.dumps(question)}\n" for question in questions),
            capture_output=True,
            text=True,
        )
    if result.returncode:
        reason = result.stderr.strip().rpartition("\n")[2]  # the last line of the traceback
        raise ArchiveError(f"{archive.name} cannot be asked about recounts: {reason}")
    lines = [{"logits": {}, "record_scores": {}, **json.loads(line)} for line in result.stdout.splitlines()]
    return _OUTPUTS.validate_python(lines)
