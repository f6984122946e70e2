"""Builds the promoter, its TorchServe and the autoscaler from the settings."""

import os

from serve.rollout.autoscale import MAX_WORKERS, Autoscaler
from serve.rollout.rollout import Rollout
from serve.rollout.torchserve_client import Inference, Management, Metrics
from trainer.artifacts import ACCURACY
from trainer.promotion.promoter import Promoter
from trainer.promotion.promoter_settings import PromoterSettings
from trainer.registry import signing
from trainer.registry.mlflow_registry import Registry

SETTINGS = ("inference_url", "management_url", "metrics_url", "model_store", "workers", "verify_key", "autoscale")
"""The settings that are also options of scripts/promote.py."""


def build_rollout(settings: PromoterSettings) -> Rollout:
    """The server side of a promotion."""
    return Rollout(
        Inference(settings.inference_url),
        Management(settings.management_url),
        settings.model_store,
        settings.workers or min(MAX_WORKERS, len(os.sched_getaffinity(0))),
        Metrics(settings.metrics_url),
        settings.probation,
    )


def build_autoscaler(settings: PromoterSettings, rollout: Rollout, dry_run: bool) -> Autoscaler:
    """The autoscaler of ``rollout``'s workers."""
    scaling = settings.scaling.fitted_to(os.cpu_count() or 1)
    return Autoscaler(Management(settings.management_url), Metrics(settings.metrics_url), rollout, scaling, dry_run)


def build_promoter(settings: PromoterSettings, registry: Registry, rollout: Rollout) -> Promoter:
    """The promoter from ``registry`` to ``rollout``."""
    trusted = settings.verify_key or signing.trusted_keys(settings.state)
    return Promoter(registry, rollout, settings.model_store / ACCURACY, settings.gate, trusted)
