"""Bodies from the library timm, with weights that a user has downloaded: ``--architecture timm:NAME --weights FILE``.

timm has some thousand networks, among them ConvNeXt and the image encoders of CLIP and DINOv2. It is an optional
requirement: requirements/timm.txt. https://huggingface.co/docs/timm
"""

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve.errors import TrainingError

PREFIX = "timm:"
"""The start of an architecture's name that is followed by timm's own."""


class TimmBody(nn.Module):
    """A network of timm without its classifier: images ``(B, 3, S, S)`` -> features ``(B, width)``.

    ``width``: the number of features; ``mean``, ``std``: per channel, 0-1, as its pretrained weights expect.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        settings: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        self.mean, self.std = tuple(settings["mean"]), tuple(settings["std"])
        with torch.no_grad():
            self.width = network.eval()(torch.zeros(1, 3, *_size_px(network, settings))).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of a batch."""
        features: Tensor = self.network(images)
        return features


def build(name: str, size_px: int, pretrained: bool = False) -> TimmBody:
    """The body ``name`` for photos of ``size_px``, with random weights unless ``pretrained``, which downloads them.

    Raises TrainingError where timm is not installed, does not know the name, cannot build it for photos of this size,
    or cannot download its weights.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` lists those that it knows"
        raise TrainingError(f"timm knows no network {name!r}; {hint}")
    try:
        return TimmBody(_create(timm, name, size_px, pretrained))
    except (AssertionError, RuntimeError, ValueError, TypeError, OSError) as error:
        what = "download the weights of" if isinstance(error, OSError) else f"build, for photos of {size_px} px,"
        raise TrainingError(
            f"timm cannot {what} {name}: {str(error)[:300]}; choose another --size-px, or pass --weights FILE"
        ) from error


def read_weights(name: str, size_px: int, path: Path) -> Mapping[str, Tensor]:
    """The weights of a file, safetensors or a state dict, with the names and shapes of the body's state dict.

    The file has timm's names, those of the network's authors where timm can convert them, or those of a counter. What
    depends on the size of the photos is interpolated. Raises TrainingError for a file that cannot be read.
    """
    network = build(name, size_px).network
    try:
        state = _timm().models.load_state_dict(str(path), use_ema=False)
        if any(key.startswith("body.") for key in state):
            return {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        state = convert(state, network) if convert else state
    except Exception as error:  # the readers raise whatever the bytes lead them to
        raise TrainingError(
            f"cannot read the weights {path} ({type(error).__name__}: {str(error)[:200]}); "
            f"pass a file of {name}, as safetensors or a state dict that torch.save wrote"
        ) from error
    return {f"network.{key}": value for key, value in state.items()}


def _create(timm: Any, name: str, size_px: int, pretrained: bool) -> nn.Module:
    """The network for one size: what depends on it, such as the positions of a transformer, has that size."""
    try:
        network: nn.Module = timm.create_model(name, pretrained, num_classes=0, img_size=size_px)
    except TypeError as error:  # a network of convolutions takes photos of any size
        if "img_size" not in str(error):
            raise
        network = timm.create_model(name, pretrained, num_classes=0)
    return network


def _size_px(network: nn.Module, settings: Mapping[str, Any]) -> tuple[int, int]:
    """The size, in pixels, of photos that ``network`` takes."""
    patches = getattr(network, "patch_embed", None)
    size = getattr(patches, "img_size", None) or settings["input_size"][1:]
    return (int(size[0]), int(size[1]))


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise TrainingError(
            f"an architecture that begins with {PREFIX} needs the package timm; "
            "install it with `pip install -r requirements/timm.txt`"
        ) from error
