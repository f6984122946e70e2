"""A champion whose archive MLflow has lost: the challenger is compared with what is known of it.

The promoter gives MLflow the archive back from the model store, if it can (``trainer/promotion/recovery.py``), so the
evaluation waits for that. After it, the champion's earlier answers count, on the photos that both have answered. If
these are lost as well, the challenger is compared as if there were no champion, rather than never.
"""

import logging
import time
from dataclasses import replace

from serve.errors import ArchiveError, DataError
from trainer.artifacts import ARCHIVE, ARCHIVE_FOLDER
from trainer.data.counts import Counts
from trainer.data.dataset import digest
from trainer.evaluation.evaluate import Evaluated, summarise
from trainer.promotion import decisions
from trainer.registry.entities import Version
from trainer.registry.mlflow_registry import Registry

log = logging.getLogger(__name__)

POLL_S = 2.0


def wait_for_archive(registry: Registry, version: Version, timeout_s: float) -> None:
    """Wait until MLflow has the archive of a version. Raises ArchiveError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not _has_archive(registry, version):
        if time.monotonic() >= deadline:
            raise ArchiveError(f"MLflow has lost the archive of version {version.number}, run {version.run_id}")
        time.sleep(min(POLL_S, timeout_s))


def _has_archive(registry: Registry, version: Version) -> bool:
    try:
        return ARCHIVE in registry.artifacts(version.run_id, ARCHIVE_FOLDER)
    except DataError:  # its run is lost as well
        return False


def known_answers_run(registry: Registry, champion: Version, problem: Exception) -> str:
    """The run that has the champion's earlier answers; empty where they are lost, too. Logs which it is."""
    try:
        decisions.read_evaluated(registry, champion.run_id)
    except DataError as error:
        log.warning("%s; its answers are lost, too (%s): the challenger is compared with no champion", problem, error)
        return ""
    log.warning("%s; the challenger is compared with its earlier answers", problem)
    return champion.run_id


def on_common_photos(challenger: Evaluated, champion: Evaluated) -> tuple[Evaluated, Evaluated] | None:
    """Both on the photos that both have answered with the same recorded count; None where there are none."""
    recorded = {answer.id: answer.recorded for answer in champion.predictions}
    common = frozenset(answer.id for answer in challenger.predictions if recorded.get(answer.id) == answer.recorded)
    if not common or challenger.evaluation.classes != champion.evaluation.classes:
        return None
    return _only(challenger, common), _only(champion, common)


def _only(evaluated: Evaluated, ids: frozenset[str]) -> Evaluated:
    names = evaluated.evaluation.classes
    counts = Counts(tuple(int(name.rstrip("+")) for name in names), names[-1].endswith("+"))
    answers = sorted((answer for answer in evaluated.predictions if answer.id in ids), key=lambda answer: answer.id)
    fingerprint = digest([f"{answer.id} {answer.recorded}" for answer in answers])
    return replace(evaluated, evaluation=summarise(answers, counts, fingerprint), predictions=answers, latency_ms=None)
