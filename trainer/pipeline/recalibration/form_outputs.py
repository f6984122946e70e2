"""What every form of an archive's network says of photos. Runs in the folder of an unpacked archive, with its code:

    python -P form_outputs.py THREADS <photos >outputs     one JSON object per photo in, and one out

A photo is ``{"path": PATH, "record": RECORD or null}``, its outputs ``{"logits": {FORM: [...]}, "record_scores": {FORM:
SCORE}}``, or ``{"error": REASON}``. A form that this processor cannot compute is absent. ``record_scores`` is empty
unless the archive has a record model and the record has sizes.

The archive's own modules are imported, those which read its photos in TorchServe, so that nothing but ``serve`` may be.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve import photo
from serve.errors import ArchiveError, FieldError, PhotoError
from serve.evidence.record import Record, parse_either
from serve.evidence.record_model import RecordModel
from serve.manifest import RECORD_FILE, Form, Manifest, read_manifest
from serve.runtime import Outputs, Runner, onnx_runner, runs_here


def main() -> None:
    """Answer the photos that stdin names."""
    folder = Path.cwd()
    manifest = read_manifest(folder)
    runners = _runners(folder, manifest, int(sys.argv[1]))
    model = RecordModel.read(folder / RECORD_FILE) if manifest.record_scores else None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            pixels = photo.read(Path(question["path"]).read_bytes(), manifest.size_px)
            outputs = {form: run(pixels[None]) for form, run in runners.items()}
            print(json.dumps(_answer(outputs, model, _record(question))), flush=True)
        except PhotoError as error:
            print(json.dumps({"error": str(error)}), flush=True)


def _runners(folder: Path, manifest: Manifest, threads: int) -> dict[Form, Runner]:
    runners = {}
    for item in manifest.forms:
        if not runs_here(item.form):
            continue
        try:
            runners[item.form] = onnx_runner(folder / item.form.file, threads, item.form)
        except ArchiveError as error:
            print(f"form {item.form} is left out: {error}", file=sys.stderr)
    return runners


def _record(question: Mapping[str, Any]) -> Record | None:
    """The record of a photo; None where it has none, or one without sizes."""
    try:
        record = parse_either(question["record"]) if question.get("record") else None
    except FieldError:
        return None
    return record if record and record.has_sizes else None


def _answer(outputs: Mapping[Form, Outputs], model: RecordModel | None, record: Record | None) -> dict[str, object]:
    scores = {
        form: float(model.nonconformity(model.photo_features(result.features), [record])[0])
        for form, result in outputs.items()
        if model and record and result.features is not None
    }
    return {"logits": {form: result.logits[0].tolist() for form, result in outputs.items()}, "record_scores": scores}


if __name__ == "__main__":
    main()
