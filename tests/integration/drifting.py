"""Bins whose pictures lose their contrast, a model that was calibrated before, and what a person counts in them."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageEnhance

from serve import verdict
from serve.archives.archive import manifest_of, with_manifest
from serve.recount.recount_entities import Outcome, Recount
from tests.integration.promoting import challenger
from trainer.data.counts import Counts
from trainer.evaluation.policy import GatePolicy
from trainer.evaluation.recalibration import replace_scores
from trainer.pipeline.recalibration.network_scores import score_photos
from trainer.pipeline.recalibration.random_recounts import RecountPhoto
from trainer.pipeline.recalibration.recalibrated_archive import NewScores, recalibrated_manifest
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry
from trainer.training.run import Trained

POLICY = GatePolicy()
SIDE_PX, CONTRAST = 96, 0.4
MINIMUM = verdict.min_calibration_photos(POLICY.alpha)


def write_recounts(bins: Path, folder: Path, version: str = "1", contrast: float = CONTRAST) -> list[Recount]:
    """Recounts, all of the random share, of bins that lost contrast: every record was right.

    ``version``: the model that had answered; every sixth photo raised the alarm.
    """
    recounts = []
    for name in ("metadata", "bin-images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((bins / "bin-images").glob("*.jpg"))):
        quantity = json.loads((bins / "metadata" / f"{path.stem}.json").read_text())["EXPECTED_QUANTITY"]
        recount = Recount(
            event_id=f"event-{path.stem}",
            bin_id=f"bin-{path.stem}",
            seen_at="2026-11-30T08:00:00Z",
            settled_at=f"2026-11-30T09:{number // 60:02}:{number % 60:02}Z",
            recorded_quantity=quantity,
            count=quantity,
            outcome=Outcome.COUNT,
            random=True,
            model_version=version,
            alarm=number % 6 == 0,
            p_value=0.01 if number % 6 == 0 else 0.5,
        )
        with Image.open(path) as photo:
            small = photo.resize((SIDE_PX, SIDE_PX))
        ImageEnhance.Contrast(small).enhance(contrast).save(folder / "bin-images" / f"{recount.event_id}.jpg")
        (folder / "metadata" / f"{recount.event_id}.json").write_text(json.dumps(recount.to_metadata()))
        recounts.append(recount)
    return recounts


def calibrated_champion(
    registry: Registry, trained: Trained, bins: Path, folder: Path, keys: signing.KeyPair | None
) -> str:
    """Register the trained archive with scores of the bins as they were before they lost contrast; its version."""
    folder.mkdir()
    recounts = write_recounts(bins, folder / "before", contrast=1.0)
    old = manifest_of(trained.archive)
    scores = score_photos(trained.archive, old, _photos(recounts, folder / "before", Counts(old.classes)))
    anew = {
        form: NewScores(replace_scores(old.scores, [row.by_photo() for row in rows], MINIMUM)[0], old.record_scores)
        for form, rows in scores.forms.items()
    }
    archive = folder / trained.archive.name
    with_manifest(trained.archive, recalibrated_manifest(old, old.run_id, anew), archive)
    return challenger(registry, trained, 0.5, archive=archive, keys=keys)


def _photos(recounts: Sequence[Recount], folder: Path, counts: Counts) -> list[RecountPhoto]:
    return [
        RecountPhoto(
            event_id=recount.event_id,
            bin=recount.bin_id,
            name=str(recount.count),
            path=folder / "bin-images" / f"{recount.event_id}.jpg",
            record=None,
        )
        for recount in recounts
        if recount.count in counts.values
    ]
