"""The same archive with other conformal scores: every file is the same but for its manifest, ``binwatch.json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve.errors import ArchiveError
from serve.manifest import AcceptedForm, Calibration, Form, Manifest

SCORES = ("scores", "record_scores")


@dataclass(frozen=True)
class NewScores:
    """The scores of one form by the photo alone, and those of records with products."""

    photo: Mapping[str, tuple[float, ...]]
    records: Mapping[str, tuple[float, ...]]


def check_forms(manifest: Manifest) -> None:
    """Raises ArchiveError for an archive that says nothing of forms, which alone have scores of their own."""
    if not manifest.forms:
        raise ArchiveError("the archive was made before forms were measured, so it is not recalibrated; train again")


def recalibrated_manifest(manifest: Manifest, run_id: str, scores: Mapping[Form, NewScores]) -> Manifest:
    """The manifest of run ``run_id`` with other scores. A form that has none is left out of it.

    Raises ArchiveError where that is the form that serves, or the archive says nothing of forms.
    """
    check_forms(manifest)
    serving = manifest.forms[0].form
    if serving not in scores:
        raise ArchiveError(
            f"the form {serving}, which serves, cannot be computed on this machine; recalibrate on one that can"
        )
    forms = tuple(_with_scores(item, scores[item.form]) for item in manifest.forms if item.form in scores)
    exact = manifest.exact
    if exact and Form.FP32 in scores:
        exact = _calibration(exact, scores[Form.FP32])
    first = forms[0].calibration
    return replace(
        manifest, run_id=run_id, scores=first.scores, record_scores=first.record_scores, forms=forms, exact=exact
    )


def _with_scores(item: AcceptedForm, scores: NewScores) -> AcceptedForm:
    return replace(item, calibration=_calibration(item.calibration, scores))


def _calibration(calibration: Calibration, scores: NewScores) -> Calibration:
    return replace(calibration, scores=dict(scores.photo), record_scores=dict(scores.records))


def differences(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """What differs between two manifests beside the run, the scores, and forms that the new one leaves out."""
    first, second = _without_scores(old), _without_scores(new)
    names = [name for name in first if name != "forms" and first[name] != second[name]]
    forms = {item["form"]: item for item in first["forms"]}
    names += [f"form {item['form']}" for item in second["forms"] if forms.get(item["form"]) != item]
    return tuple(names)


def _without_scores(manifest: Manifest) -> dict[str, Any]:
    content = json.loads(manifest.to_json())
    del content["run_id"]
    calibrations = [item["calibration"] for item in content["forms"]]
    for part in (content, *calibrations, *([content["exact"]] if content["exact"] else [])):
        for name in SCORES:
            del part[name]
    return dict(content)
