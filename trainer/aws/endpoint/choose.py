"""Which version is deployed: the registry's champion, a version by its number, or an archive at hand."""

import logging
import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.errors import SettingsError, TrackingError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, EVALUATION
from trainer.aws.endpoint.package import PLACEHOLDER, Chosen, archive_in
from trainer.evaluation.policy import UNDEPLOYED_ACCURACY

log = logging.getLogger(__name__)

LONGEST_VERSION = 12


def version(text: str) -> str:
    """A type for argparse: what names of models can hold."""
    if not (text.isascii() and text.isalnum() and len(text) <= LONGEST_VERSION):
        raise ArgumentTypeError(f"{text!r} is no version; it has up to {LONGEST_VERSION} letters and digits")
    return text


def add_options(to: ArgumentParser, work: Path) -> None:
    """The options that name a version; ``work``: where its files are written."""
    to.add_argument("--version", type=version, help="of the registry; the champion without")
    to.add_argument(
        "--archive", type=Path, help="a bin-counter.mar, or a training job's output that holds it: no MLflow"
    )
    to.add_argument("--evaluation", type=Path, help="the archive's evaluation.json")
    to.add_argument("--work", type=Path, default=work, help="folder for what is made")


@contextmanager
def chosen(options: Mapping[str, Any], work: Path) -> Iterator[Chosen]:
    """The version that the options name. A dry run gets a placeholder where there is none, or no MLflow.

    Raises SettingsError, TrackingError, DataError, ArchiveError.
    """
    if options["archive"]:
        with archive_in(Path(options["archive"])) as given:
            yield _at_hand(given, options)
        return
    if options["dry_run"]:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it is at hand or stood for, not waited for
    try:
        found = _registered(options, work)
    except TrackingError as error:
        if not options["dry_run"]:
            raise
        log.warning("%s: a placeholder stands for the champion", error)
        found = Chosen(options["version"] or PLACEHOLDER, None, UNDEPLOYED_ACCURACY)
    yield found


def _registered(options: Mapping[str, Any], work: Path) -> Chosen:
    from trainer.registry.mlflow_registry import Registry  # mlflow takes seconds, and an archive at hand does without
    from trainer.registry.versions import CHAMPION

    registry = Registry(options["tracking_uri"])
    found = registry.version(options["version"]) if options["version"] else registry.alias(CHAMPION)
    if found is None:
        raise TrackingError(f"MLflow at {registry.uri} has no champion; run scripts/pipeline.py, or name a --version")
    made = registry.download(found.run_id, ARCHIVE, work)
    return _judged(found.number, made, registry.read_text(found.run_id, EVALUATION) or "{}")


def _at_hand(given: Path, options: Mapping[str, Any]) -> Chosen:
    if not options["evaluation"]:
        raise SettingsError("--archive says nothing of accuracy; give its evaluation.json with --evaluation")
    try:
        text = Path(options["evaluation"]).read_text()
    except OSError as error:
        raise SettingsError(f"--evaluation {options['evaluation']} cannot be read: {error.strerror}") from error
    return _judged(options["version"] or sha256(given)[:LONGEST_VERSION], given, text)


def _judged(number: str, made: Path, evaluation: str) -> Chosen:
    from trainer.evaluation.evaluate import from_json

    found = from_json(evaluation)
    return Chosen(number, made, found.accuracy, found.fingerprint)
