"""All settings of the trainer."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from serve.errors import DataError
from serve.settings import FolderOrBucket, Settings
from serve.settings.common import (
    AlertSettings,
    CaptureSettings,
    MlflowSettings,
    RecountPlaceSettings,
    RevisionSettings,
    StateSettings,
)
from trainer.data import counts
from trainer.evaluation.policy import GatePolicy
from trainer.pipeline.triggers import Limits
from trainer.registry.signing import SigningSettings
from trainer.training.recipes import RECIPES


def _at_least_one_or_zero(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("give a number of at least 1, or 0 to keep all")
    return value


Days = Annotated[float, AfterValidator(_at_least_one_or_zero)]


class RetentionPolicy(Settings):
    """How much is kept; 0 keeps all."""

    model_config = SettingsConfigDict(env_prefix="BINWATCH_KEEP_")

    versions: int = Field(
        default=10, ge=0, le=100_000, description="archives of this many newest versions are kept; 0: all"
    )
    days: Days = Field(
        default=90.0, ge=0, le=100_000, description="days that archives and artifacts of runs are kept; 0: for ever"
    )
    capture_days: Days = Field(
        default=30.0, ge=0, le=100_000, description="days that captured answers are kept; 0: for ever"
    )
    cache_days: Days = Field(
        default=14.0,
        ge=0,
        le=100_000,
        description="days that decoded photos and checkpoints are kept after their last use; 0: for ever",
    )


class PruneSettings(MlflowSettings, StateSettings, CaptureSettings):
    """What scripts/prune.py reads from the environment."""

    retention: RetentionPolicy = RetentionPolicy()


def _counts(text: str) -> str:
    try:
        counts.parse(text)
    except DataError as error:
        raise ValueError(str(error).partition("; ")[2]) from error
    return text


class PhotoSettings(Settings):
    """Which photos are used."""

    data: FolderOrBucket | None = Field(
        default=None,
        description="photos: a folder with bin-images/ and metadata/, or s3://bucket/prefix; drawn bins without",
        examples=["/srv/bins/aft-vbi-pds"],
    )
    counts: Annotated[str, AfterValidator(_counts)] | None = Field(
        default=None,
        description="the counts to tell apart, such as 0-5 or, with 8 and above as one, 1-8+; 1-5 without",
        examples=["1-5"],
    )
    limit: int | None = Field(
        default=None, ge=1, description="a subset of this many photos, with the same shares of counts", examples=[1500]
    )


def _known_recipe(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"give one of {', '.join(RECIPES)}")
    return name


class TrainerSettings(
    PruneSettings, PhotoSettings, RecountPlaceSettings, SigningSettings, AlertSettings, RevisionSettings
):
    """What scripts/pipeline.py reads from the environment."""

    recipe: Annotated[str, AfterValidator(_known_recipe)] = Field(
        default="resnet18-small",
        description="training recipe: resnet18-small needs no GPU, tiny takes a minute, best also judges products",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="epochs of a training; without, the recipe's", examples=[12]
    )
    monitoring: FolderOrBucket = Field(
        default="var/monitoring",
        description="where the monitor writes monitoring.json: a folder, or s3://bucket/prefix",
    )
    recalibrate_after: int = Field(
        default=200,
        ge=0,
        le=10**9,
        description="random recounts after which the promise about false alarms is checked, and mended; 0: never",
    )
    recounts_train: bool = Field(
        default=True, description="whether recounts are trained on and count as new photos, where there is their folder"
    )
    limits: Limits = Limits()
    gate: GatePolicy = GatePolicy()
