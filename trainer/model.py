"""The networks that count: one table, one way to build them.

A counter is a torchvision network whose last layer has one output a count, behind a layer that
turns pixels into what the network expects. That layer is part of the exported graph, so
training and serving cannot normalise differently.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

from serve.errors import TrainingError

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
}
"""Name -> builder that takes ``weights`` and ``num_classes``."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


class Normalise(nn.Module):
    """uint8 ``(B, S, S, 3)``, 0-255 -> float32 ``(B, 3, S, S)``, about zero mean and unit variance."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise a batch."""
        # a permuted NHWC tensor is channels_last in memory already: no copy
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class Counter(nn.Module):
    """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one a count."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Count the objects of a batch."""
        logits: Tensor = self.backbone(self.normalise(pixels))
        return logits


def create(architecture: str, classes: int) -> Counter:
    """Build an untrained counter for ``classes`` counts. Raises TrainingError for an unknown name."""
    if architecture not in ARCHITECTURES:
        raise TrainingError(f"there is no model {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    return Counter(ARCHITECTURES[architecture](weights=None, num_classes=classes))
