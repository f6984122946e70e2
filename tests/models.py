"""Recipes for tests that need a model, but not a good one."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from trainer.data.dataset import DataSpec
from trainer.training.networks import ARCHITECTURES, Architecture
from trainer.training.recipes import RECIPES
from trainer.training.run import Trained, run_evaluation, run_training


def small() -> nn.Module:
    """A body whose archive is made in seconds, and has kilobytes where ResNet-18's has a hundred megabytes."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


ARCHITECTURES["small"] = Architecture(small, 16, dict)
TINY = replace(RECIPES["resnet18-small"], architecture="small", size_px=32, epochs=1)
SURE = replace(TINY, epochs=30, learning_rate=0.03)
"""One whose model is sure enough of its answers for another model's to differ."""

LEFT = {"bin-counter.mar", "dataset.json", "evaluation.json", "predictions.json", "training.json"}
"""What a training job leaves behind."""


def train_sure(data: Path, out: Path) -> Trained:
    """An archive of ``data``, evaluated, without MLflow."""
    trained = run_training(DataSpec(data), SURE, out, None)
    run_evaluation(trained)
    return trained
