"""From the champion and the recounts to a version with other conformal scores, through the gate to the promoter.

No training, and no test photos: a version with the champion's network answers as the champion does. Its run has the
champion's evaluation, with other p-values, so that it can be compared with challengers as any version.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from serve import verdict
from serve.archives.archive import manifest_of, with_manifest
from serve.errors import DataError
from serve.manifest import Form, Manifest, sha256
from trainer.artifacts import (
    ARCHIVE_FILE,
    ARCHIVE_FOLDER,
    ARCHIVE_SHA,
    DATASET,
    EVALUATION,
    LEARNED_RECOUNTS,
    LINEAGE_TAG,
    PREDICTIONS,
    RECALIBRATES_TAG,
    RECALIBRATION,
    REFERENCE,
)
from trainer.data.counts import Counts
from trainer.evaluation.evaluate import Evaluated
from trainer.evaluation.gate import Decision
from trainer.evaluation.policy import DEFAULT, GatePolicy
from trainer.evaluation.recalibration import (
    Recalibration,
    count_false_alarms,
    replace_scores,
    with_scores,
)
from trainer.evaluation.recalibration_gate import decide_recalibration
from trainer.pipeline.recalibration.network_scores import NetworkScores, score_photos
from trainer.pipeline.recalibration.random_recounts import RecountFolder, RecountSelection, select_photos
from trainer.pipeline.recalibration.recalibrated_archive import (
    NewScores,
    check_forms,
    differences,
    recalibrated_manifest,
)
from trainer.pipeline.recalibration.recalibration_report import RecalibrationReport, RecalibrationStatus
from trainer.promotion import decisions
from trainer.promotion.outcome import PromotionOutcome
from trainer.registry import signing
from trainer.registry.entities import CHAMPION, Status, Version
from trainer.registry.mlflow_registry import Registry
from trainer.registry.signed_archive import fetch
from trainer.registry.tracked_run import TrackedRun

COPIED = (DATASET, REFERENCE, LEARNED_RECOUNTS)
_EVENT_IDS = TypeAdapter(list[str])


@dataclass(frozen=True, kw_only=True)
class RecalibrationOptions:
    """``recounts``: the folder BINWATCH_RECOUNTS; ``trusted``: the keys that archives must be signed with."""

    recounts: Path
    policy: GatePolicy = DEFAULT
    trusted: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RecalibrationPlan:
    """What would be done. ``manifest``: of the new archive, without its run; ``evaluated``: the champion's answers."""

    champion: Version
    archive: Path
    manifest: Manifest
    evaluated: Evaluated
    selection: RecountSelection
    recalibration: Recalibration
    decision: Decision


def recalibrate(
    registry: Registry,
    options: RecalibrationOptions,
    promote: Callable[[str], PromotionOutcome],
    *,
    dry_run: bool = False,
) -> RecalibrationReport:
    """Recalibrate the champion. The caller holds the lock of the state folder.

    Raises DataError without a champion, and while another version waits for the promoter; ArchiveError, TrackingError,
    PromoterTimeoutError, with which the version stays approved.
    """
    champion = idle_champion(registry)
    with tempfile.TemporaryDirectory(prefix="binwatch-recalibrate-") as folder:
        plan = _plan(registry, champion, options, Path(folder))
        reasons = plan.decision.reasons
        if idle := _why_nothing(plan, options.policy.alpha):
            return _report(plan, RecalibrationStatus.NOTHING, (idle,))
        if dry_run:
            would = f"the gate would {'approve' if plan.decision.promote else 'refuse'} it"
            return _report(plan, RecalibrationStatus.PLANNED, (would, *reasons))
        version = _register(registry, plan)
    if not plan.decision.promote:
        return _report(plan, RecalibrationStatus.REFUSED, reasons, version.number)
    outcome = promote(version.number)
    status = registry.version(version.number).status
    if status == Status.PROMOTED:
        return _report(plan, RecalibrationStatus.PROMOTED, reasons, version.number)
    unwanted = status in (Status.REFUSED, Status.REJECTED, Status.ROLLED_BACK)
    did = RecalibrationStatus.REFUSED if unwanted else RecalibrationStatus.APPROVED
    return _report(plan, did, (*reasons, outcome.reason), version.number)


def _why_nothing(plan: RecalibrationPlan, alpha: float) -> str:
    """Why there is nothing to register, or ""."""
    if not plan.recalibration.replaces_any:
        return f"no count has {verdict.min_calibration_photos(alpha)} recounts to calibrate with"
    old, new = manifest_of(plan.archive), plan.manifest
    if (old.scores, old.record_scores) == (new.scores, new.record_scores):
        return "the champion was calibrated with the same recounts"
    return ""


def idle_champion(registry: Registry) -> Version:
    """The champion, if no other version is on its way. Raises DataError."""
    champion = registry.alias(CHAMPION)
    if champion is None:
        raise DataError("there is no champion to recalibrate; run the pipeline first")
    pending = [
        version.number
        for version in registry.versions()
        if version.status == Status.APPROVED
        or (version.status == Status.UNDECIDED and int(version.number) > int(champion.number))
    ]
    if pending:
        raise DataError(
            f"version {pending[0]} waits for the promoter or is on probation; recalibrate when that is decided"
        )
    return champion


def _report(
    plan: RecalibrationPlan, status: RecalibrationStatus, reasons: tuple[str, ...], version: str = ""
) -> RecalibrationReport:
    return RecalibrationReport(
        status=status,
        version=version,
        reasons=reasons,
        recalibration=plan.recalibration,
        left_out=plan.selection.left_out,
    )


def _plan(registry: Registry, champion: Version, options: RecalibrationOptions, folder: Path) -> RecalibrationPlan:
    archive = fetch(registry, champion.run_id, folder / "champion", options.trusted)
    old, alpha = manifest_of(archive), options.policy.alpha
    check_forms(old)
    counts = Counts(old.classes, old.open_top)
    recounts = RecountFolder(options.recounts).poll()
    learned_from = _learned_recounts(registry, champion.run_id)
    selection = select_photos(recounts, options.recounts, counts, learned_from)
    scores = score_photos(archive, old, selection.photos)
    minimum = verdict.min_calibration_photos(alpha)
    new = recalibrated_manifest(old, "", {form: _new_scores(old, form, scores, minimum) for form in scores.forms})
    recalibration = _recalibration(champion, old, new, scores, alpha)
    evaluated = decisions.read_evaluated(registry, champion.run_id)
    return RecalibrationPlan(
        champion=champion,
        archive=archive,
        manifest=new,
        evaluated=evaluated,
        selection=selection,
        recalibration=recalibration,
        decision=decide_recalibration(recalibration, evaluated, options.policy),
    )


def _learned_recounts(registry: Registry, run_id: str) -> frozenset[str]:
    text = registry.read_text(run_id, LEARNED_RECOUNTS)
    try:
        return frozenset(_EVENT_IDS.validate_json(text)) if text else frozenset()
    except ValidationError as error:
        raise DataError(f"{LEARNED_RECOUNTS} of run {run_id} is not a list of event ids; run the pipeline") from error


def _new_scores(manifest: Manifest, form: Form, scores: NetworkScores, minimum: int) -> NewScores:
    calibration = next(item.calibration for item in manifest.forms if item.form is form)
    photo, records = scores.of(form, calibrating=True)
    return NewScores(
        replace_scores(calibration.scores, photo, minimum)[0],
        replace_scores(calibration.record_scores, records, minimum)[0] if calibration.record_scores else {},
    )


def _recalibration(
    champion: Version, old: Manifest, new: Manifest, scores: NetworkScores, alpha: float
) -> Recalibration:
    """What changed, and the alarms that held-out recounts raise, both by the form that serves."""
    minimum, serving = verdict.min_calibration_photos(alpha), old.forms[0].form
    photo, records = scores.of(serving, calibrating=True)
    held_out, held_out_records = scores.of(serving, calibrating=False)
    by_photo = replace_scores(old.scores, photo, minimum)[1]
    with_products = replace_scores(old.record_scores, records, minimum)[1] if old.record_scores else ()
    return Recalibration(
        version=champion.number,
        run_id=champion.run_id,
        recounts=len(photo),
        differences=differences(old, new),
        photo=by_photo,
        products=with_products,
        alarms=count_false_alarms(held_out, old.scores, new.scores, by_photo, alpha),
        product_alarms=count_false_alarms(held_out_records, old.record_scores, new.record_scores, with_products, alpha),
        left_out=tuple(f"{form}: {reason}" for form, reason in scores.left_out.items()),
    )


def _register(registry: Registry, plan: RecalibrationPlan) -> Version:
    """Log the run of the new archive, register it with the gate's decision, and record that."""
    champion = plan.champion
    lineage = f"recalibrated from version {champion.number} with {plan.recalibration.recounts} recounts"
    tags = {RECALIBRATES_TAG: champion.run_id, LINEAGE_TAG: lineage}
    with registry.run(f"recalibration of version {champion.number}", parent=champion.run_id, tags=tags) as run:
        run.log_params(registry.params(champion.run_id))
        for name in COPIED:
            if text := registry.read_text(champion.run_id, name):
                run.log_text(text, name)
        run.log_json({**asdict(plan.recalibration), "event_ids": _event_ids(plan)}, RECALIBRATION)
        _log_evaluation(run, plan)
        _log_archive(run, plan)
    status, reason = decisions.status_and_reason(plan.decision)
    version = registry.register(run.id, status, reason, champion.number)
    with registry.run(f"gate of version {version.number}", parent=run.id) as gate_run:
        decisions.record(gate_run, plan.decision, version)
    return version


def _log_evaluation(run: TrackedRun, plan: RecalibrationPlan) -> None:
    """Log the champion's evaluation with the p-values of the new scores."""
    manifest = plan.manifest
    counts = Counts(manifest.classes, manifest.open_top)
    evaluated = with_scores(plan.evaluated, manifest.scores, manifest.temperature, counts)
    from trainer.training.run import columns_of  # torch takes seconds to import: not where nothing is registered

    run.log_metrics(evaluated.evaluation.metrics())
    run.log_json(evaluated.evaluation.to_sagemaker(), EVALUATION)
    run.log_table(columns_of(evaluated.predictions), PREDICTIONS)


def _log_archive(run: TrackedRun, plan: RecalibrationPlan) -> None:
    """Write the archive of the run, sign it, and log both."""
    archive = plan.archive.parent.with_name("recalibrated") / ARCHIVE_FILE
    archive.parent.mkdir()
    with_manifest(plan.archive, replace(plan.manifest, run_id=run.id), archive)
    run.set_tags({ARCHIVE_SHA: sha256(archive)})
    key = signing.signing_key(os.environ)
    # the signature first, so that an archive is never without one
    for path in (signing.sign(archive, key), archive) if key else (archive,):
        run.log_file(path, ARCHIVE_FOLDER)


def _event_ids(plan: RecalibrationPlan) -> dict[str, list[str]]:
    """The recounts that calibrated, and those that judged."""
    photos = plan.selection.photos
    return {
        name: [photo.event_id for photo in photos if photo.calibrates is calibrates]
        for name, calibrates in (("calibration", True), ("held_out", False))
    }
