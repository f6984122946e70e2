"""Chooses the version to deploy: the registry's champion, a version by its number, or a local archive."""

import logging
import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from serve.errors import SettingsError, TrackingError
from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, EVALUATION
from trainer.aws.endpoint.package import PLACEHOLDER, ModelChoice, archive_in
from trainer.evaluation.policy import UNDEPLOYED_ACCURACY

log = logging.getLogger(__name__)

Options: TypeAlias = Mapping[str, Any]
"""The parsed options of a command line."""

MAX_VERSION_LENGTH = 12


def version(text: str) -> str:
    """A type for argparse: a version that fits into the names of models."""
    if not (text.isascii() and text.isalnum() and len(text) <= MAX_VERSION_LENGTH):
        raise ArgumentTypeError(f"{text!r} is no version; it has up to {MAX_VERSION_LENGTH} letters and digits")
    return text


def add_options(parser: ArgumentParser, work: Path) -> None:
    """The options that name a version; ``work``: the default folder for its files."""
    add = parser.add_argument
    add("--version", type=version, help="a version of the registry; default: the champion")
    add(
        "--archive",
        type=Path,
        help="a bin-counter.mar, or a training job's output with one; needs no MLflow",
    )
    add("--evaluation", type=Path, help="evaluation.json of --archive")
    add("--work", type=Path, default=work, help="folder for what is built")


@contextmanager
def choose_version(options: Options, work: Path) -> Iterator[ModelChoice]:
    """The version that the options name. A dry run gets a placeholder where there is none, or MLflow is unreachable.

    Raises SettingsError, TrackingError, DataError, ArchiveError.
    """
    if options["archive"]:
        with archive_in(Path(options["archive"])) as archive:
            yield _read_local(archive, options)
        return
    if options["dry_run"]:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # a placeholder is better than waiting
    try:
        choice = _download(options, work)
    except TrackingError as error:
        if not options["dry_run"]:
            raise
        log.warning("%s; using a placeholder for the champion", error)
        choice = ModelChoice(options["version"] or PLACEHOLDER, None, UNDEPLOYED_ACCURACY)
    yield choice


def _download(options: Options, work: Path) -> ModelChoice:
    from trainer.registry.entities import CHAMPION
    from trainer.registry.mlflow_registry import Registry  # mlflow takes seconds, and --archive needs none

    registry = Registry(options["tracking_uri"])
    version = registry.version(options["version"]) if options["version"] else registry.alias(CHAMPION)
    if version is None:
        raise TrackingError(f"MLflow at {registry.uri} has no champion; run scripts/pipeline.py, or give --version")
    archive = registry.download(version.run_id, ARCHIVE, work)
    return _model_choice(version.number, archive, registry.read_text(version.run_id, EVALUATION) or "{}")


def _read_local(archive: Path, options: Options) -> ModelChoice:
    if not options["evaluation"]:
        raise SettingsError("--archive has no accuracy; give its evaluation.json with --evaluation")
    try:
        text = Path(options["evaluation"]).read_text()
    except OSError as error:
        raise SettingsError(f"--evaluation {options['evaluation']} cannot be read: {error.strerror}") from error
    return _model_choice(options["version"] or sha256(archive)[:MAX_VERSION_LENGTH], archive, text)


def _model_choice(number: str, archive: Path, text: str) -> ModelChoice:
    from trainer.evaluation.evaluate import evaluation_from_json

    evaluation = evaluation_from_json(text)
    return ModelChoice(number, archive, evaluation.accuracy, evaluation.fingerprint)
