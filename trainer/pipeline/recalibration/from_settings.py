"""Recalibration as the settings of the trainer say: once, for scripts/recalibrate.py, and by the watcher."""

from collections.abc import Callable
from functools import partial

from serve.errors import DataError, SettingsError
from trainer.data.mirrors.recount_mirror import RECOUNT_CACHE, recount_folder
from trainer.pipeline import execution_lock
from trainer.pipeline.pipeline import wait_for_promoter
from trainer.pipeline.recalibration.promise_keeper import PURPOSE, PromiseKeeper
from trainer.pipeline.recalibration.recalibrate import RecalibrationOptions, recalibrate
from trainer.pipeline.recalibration.recalibration_report import RecalibrationReport
from trainer.pipeline.trainer_settings import TrainerSettings
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry


def promise_check(settings: TrainerSettings, registry: Registry) -> Callable[[], object]:
    """What the watcher calls at each poll; nothing where recounts are off, or start no recalibration."""
    if settings.recounts is None or not settings.recalibrate_after:
        return lambda: None
    return PromiseKeeper(
        registry,
        _options(settings, settings.recounts),
        partial(wait_for_promoter, registry),
        state=settings.state,
        after=settings.recalibrate_after,
    ).poll


def recalibrate_once(settings: TrainerSettings, *, dry_run: bool) -> RecalibrationReport:
    """Recalibrate now, or with ``dry_run`` only say what would change.

    Raises SettingsError without BINWATCH_RECOUNTS, LockHeldError while an execution or a pruning runs, and as
    ``recalibrate`` does.
    """
    if settings.recounts is None:
        raise SettingsError("BINWATCH_RECOUNTS is not set; name a folder or bucket of recounts, or give --recounts")
    registry, options = Registry(settings.tracking_uri), _options(settings, settings.recounts)
    promote = partial(wait_for_promoter, registry)
    if dry_run:
        return recalibrate(registry, options, promote, dry_run=True)
    with execution_lock.lock_state(settings.state, PURPOSE):
        if execution_lock.read_unfinished(settings.state):
            raise DataError("an execution was cut off and will be resumed; recalibrate when it has ended")
        return recalibrate(registry, options, promote)


def _options(settings: TrainerSettings, recounts: str) -> RecalibrationOptions:
    trusted = signing.ensure_local_keys(settings.state)
    folder = recount_folder(recounts, settings.state / RECOUNT_CACHE)
    return RecalibrationOptions(recounts=folder, policy=settings.gate, trusted=trusted)
