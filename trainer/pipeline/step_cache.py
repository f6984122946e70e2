"""The cache of trainings and evaluations: keys of their inputs, stored as tags of the MLflow runs with the results.

A key is a SHA-256 of contents, never of times: the fingerprint of the photos and their labels, their records where
products matter, the recipe, the initial weights, and the code.

    binwatch.training       tag of a train run: the inputs of the training
    binwatch.evaluation     tag of a train run that has the evaluation of its archive on its own test photos
    binwatch.champion       tag of an evaluate run that has the champion's evaluation on the challenger's test photos
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_FOLDER, ARCHIVE_SHA, CHAMPION_KEY_TAG, TRAINING_KEY_TAG
from trainer.data.bin_records.records import records_digest
from trainer.data.dataset import Dataset, Part
from trainer.pipeline.code_version import evaluation_code, training_code
from trainer.registry.entities import RunInfo
from trainer.registry.mlflow_registry import Registry
from trainer.training.recipes import Recipe


def _key(**parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def training_key(data: Dataset, recipe: Recipe, seed: int) -> str:
    """The key of a training; ``seed``: of the split of the validation photos."""
    weights = Path(recipe.weights)
    initial_weights = sha256(weights) if weights.is_file() else recipe.weights
    return _key(
        what="training",
        data=data.fingerprint,
        counts=str(data.counts),
        recipe=asdict(recipe),
        weights=initial_weights,
        seed=seed,
        records=_records_of(data) if recipe.auxiliary or recipe.record_folds else "",
        code=training_code(),
    )


def _records_of(data: Dataset) -> str:
    parts = (data.train, data.validation, *([data.extra] if data.extra else []))
    return records_digest(photo for part in parts for photo in part.photos)


def evaluation_key(archive_sha256: str, test: Part) -> str:
    """The key of the evaluation of one archive on one set of test photos, with their records."""
    records = records_digest(test.photos)
    return _key(
        what="evaluation", archive=archive_sha256, photos=test.fingerprint, records=records, code=evaluation_code()
    )


def find_training(registry: Registry, key: str) -> RunInfo | None:
    """The newest train run with that key whose archive still exists."""
    for run in registry.runs(f"tags.`{TRAINING_KEY_TAG}` = '{key}'"):
        if ARCHIVE_SHA in run.tags and ARCHIVE in registry.artifacts(run.id, ARCHIVE_FOLDER):
            return run
    return None


def find_champion_evaluation(registry: Registry, key: str) -> str:
    """The id of the newest run with a champion's evaluation of that key, or ""."""
    return next((run.id for run in registry.runs(f"tags.`{CHAMPION_KEY_TAG}` = '{key}'")), "")
