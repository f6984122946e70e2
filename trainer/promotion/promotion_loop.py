"""The loop of the promoter: it reconciles every few seconds, and scales the workers in between."""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event

from serve.errors import OUTSIDE, BinwatchError, LockHeldError, sentence
from trainer.promotion.notices import Notices
from trainer.promotion.outcome import PromotionOutcome, Upkeep
from trainer.promotion.promoter import OBSERVE_S, Promoter

log = logging.getLogger(__name__)


def watch(
    promoter: Promoter, heartbeat: Path, interval_s: float, stop: Event, scale: Callable[[], object] | None = None
) -> None:
    """Reconcile every ``interval_s`` seconds until ``stop``, and touch ``heartbeat`` after each success.

    ``scale`` is called in each round under the same lock, also in one that fails. Errors are logged when they change,
    and retried: the next reconciliation finishes what a failed one left undone. So is the lock that another promoter
    holds; to wait for it is a success, too.
    """
    notices = Notices()

    def idle() -> None:
        try:
            if scale:
                scale()
        except BinwatchError as error:
            notices.warn("scale", f"the workers are not scaled: {error}")
        else:
            notices.clear("scale")

    while not stop.is_set():
        wait_s = interval_s
        try:
            outcome = promoter.reconcile_once(idle)
        except LockHeldError as error:
            heartbeat.touch()
            notices.warn("round", sentence(error))
        except (BinwatchError, *OUTSIDE) as error:
            notices.warn("round", f"{sentence(error)}; trying again every {interval_s:.0f} s")
        else:
            heartbeat.touch()
            _log(outcome, notices)
            if outcome.did == Upkeep.WATCHED:
                wait_s = min(OBSERVE_S, interval_s)
        stop.wait(wait_s)


def _log(outcome: PromotionOutcome, notices: Notices) -> None:
    notices.clear("round")
    if outcome.did == Upkeep.KEPT:
        notices.warn("champion", outcome.reason)
    elif outcome.did in (Upkeep.NOTHING, Upkeep.WATCHED):
        notices.clear("champion")
    else:
        log.info("%s version %s: %s", outcome.did, outcome.version, outcome.reason)
