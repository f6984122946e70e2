"""Recalibrates the champion by itself where the promise about false alarms is broken (``promise.py``).

A poll reads nothing but a folder's time while no recount comes, and asks MLflow only when enough have come.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from serve.errors import BinwatchError, DataError, TrackingError
from serve.recount.recount_entities import Recount
from trainer.pipeline import execution_lock
from trainer.pipeline.recalibration.promise import LastLook, check_promise, is_due, read_last_look, write_last_look
from trainer.pipeline.recalibration.random_recounts import RecountFolder
from trainer.pipeline.recalibration.recalibrate import (
    RecalibrationOptions,
    idle_champion,
    recalibrate,
)
from trainer.pipeline.recalibration.recalibration_report import RecalibrationReport
from trainer.promotion.outcome import PromotionOutcome
from trainer.registry.mlflow_registry import Registry

PURPOSE = "a recalibration"
log = logging.getLogger(__name__)


class PromiseKeeper:
    """Recalibrates the champion where the promise is broken; called by the watcher when no execution is due."""

    def __init__(
        self,
        registry: Registry,
        options: RecalibrationOptions,
        promote: Callable[[str], PromotionOutcome],
        *,
        state: Path,
        after: int,
    ) -> None:
        self._registry, self._options, self._promote = registry, options, promote
        self._state, self._after = state, after
        self._folder, self._polled = RecountFolder(options.recounts), -1

    def poll(self) -> RecalibrationReport | None:
        """Look if enough recounts have come, and recalibrate if the promise is broken.

        Raises LockHeldError while an execution runs, TrackingError; both are retried by the next poll.
        """
        recounts = self._folder.poll() if self._after else []
        if len(recounts) < self._after or len(recounts) == self._polled:
            return None
        try:
            champion = idle_champion(self._registry)
        except DataError:  # the next poll looks again
            return None
        answered = [recount for recount in recounts if recount.model_version == champion.number]
        if not is_due(len(answered), champion.number, read_last_look(self._state), self._after):
            self._polled = len(recounts)
            return None
        with execution_lock.lock_state(self._state, PURPOSE):
            report = self._look(answered)
            write_last_look(self._state, LastLook(version=champion.number, recounts=len(answered)))
        self._polled = len(recounts)
        return report

    def _look(self, answered: Sequence[Recount]) -> RecalibrationReport | None:
        check = check_promise(answered, self._options.policy.alpha)
        if not check.is_broken:
            log.info("the promise is kept: %s", check.in_words())
            return None
        log.info("the promise is broken, so the scores are calibrated again: %s", check.in_words())
        try:
            report = recalibrate(self._registry, self._options, self._promote)
        except TrackingError:
            raise
        except BinwatchError as error:  # would fail again: the next look is after more recounts
            log.warning("the champion is not recalibrated: %s", error)
            return None
        log.info("recalibration: %s", report.in_words())
        return report
