"""Whether a step was done before: keys made of what goes into it, and where MLflow has what came out.

A key is a SHA-256 over contents, never over times: the fingerprint of the photos and their labels, the recipe, the
weights it begins with, and the code. A training's key is a tag of its run; so is that of each evaluation.

    binwatch.training       of a train run: what it was trained on and with
    binwatch.evaluation     of a train run: its archive was evaluated on its own test photos
    binwatch.champion       of an evaluate run: a champion's archive was evaluated on the challenger's test photos
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from serve.manifest import sha256
from trainer.artifacts import ARCHIVE, ARCHIVE_SHA
from trainer.data.dataset import Dataset
from trainer.pipeline.code_version import evaluation_code, training_code
from trainer.registry.mlflow_registry import Registry
from trainer.registry.runs import RunInfo
from trainer.training.recipes import Recipe

TRAINING, EVALUATED, CHAMPION_EVALUATED = "binwatch.training", "binwatch.evaluation", "binwatch.champion"
CACHED_FROM = "cached_from"


def _key(**parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def training_key(data: Dataset, recipe: Recipe, seed: int) -> str:
    """Of a training; ``seed`` divides the validation photos."""
    weights = Path(recipe.weights)
    begun = sha256(weights) if weights.is_file() else recipe.weights
    return _key(
        what="training",
        data=data.fingerprint,
        counts=str(data.counts),
        recipe=asdict(recipe),
        weights=begun,
        seed=seed,
        code=training_code(),
    )


def evaluation_key(archive_sha256: str, test_fingerprint: str) -> str:
    """Of the evaluation of one archive on one set of test photos."""
    return _key(what="evaluation", archive=archive_sha256, photos=test_fingerprint, code=evaluation_code())


def find_training(registry: Registry, key: str) -> RunInfo | None:
    """The newest run of a training with that key whose archive is still there."""
    for run in registry.runs(f"tags.`{TRAINING}` = '{key}'"):
        if ARCHIVE_SHA in run.tags and ARCHIVE in registry.artifacts(run.id, "archive"):
            return run
    return None


def find_champion_evaluation(registry: Registry, key: str) -> str:
    """The run that has a champion's evaluation with that key, or nothing."""
    return next((run.id for run in registry.runs(f"tags.`{CHAMPION_EVALUATED}` = '{key}'")), "")
