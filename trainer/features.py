"""What a frozen network sees in every photo of a prepared dataset: computed once, kept, shared.

The audit and every training of a head on a frozen body read the same rows. They are valid for
those photo bytes, that size and those weights, and are made anew when one of the three changes.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from trainer.model import PRETRAINED, Counter, EfficientNetLite, create
from trainer.prepared import Prepared, decoded, kept

BATCH = 64
TAPS, COLUMNS = (10, 14), 5


def frozen_features(prepared: Prepared, counter: Counter, name: str, size_px: int) -> NDArray[np.float32]:
    """The features of ``counter``'s body, float32 ``(N, width)``, in the order of the table."""
    return _rows(prepared, nn.Sequential(counter.normalise, counter.body), name, size_px)


def layout_features(prepared: Prepared, size_px: int = 160) -> NDArray[np.float32]:
    """Features that know where things are, float32 ``(N, F)``: for the audit.

    From two depths of a frozen EfficientNet-Lite0, each channel's mean, deviation, and mean in five
    upright strips. On drawn bins a linear head on them was right for 63 % of the photos, on the
    features of the last layer for 57 %.
    """
    counter = create("efficientnet-lite0", 2, size_px, PRETRAINED)
    return _rows(prepared, nn.Sequential(counter.normalise, Layout(counter.body)), "layout", size_px)


class Layout(nn.Module):
    """Images ``(B, 3, S, S)`` -> mean, deviation and strips of the channels of the blocks TAPS."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        assert isinstance(body, EfficientNetLite)
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, F)``."""
        network = self.body.network
        x, found = network._swish(network._bn0(network._conv_stem(images))), []
        for number, block in enumerate(network._blocks[: max(TAPS) + 1]):
            x = block(x)
            if number in TAPS:
                strips = F.adaptive_avg_pool2d(x, (1, COLUMNS)).flatten(1)
                found += [x.mean((2, 3)), x.std((2, 3)), strips]
        return torch.cat(found, 1)


def _rows(prepared: Prepared, network: nn.Module, name: str, size_px: int) -> NDArray[np.float32]:
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    pixels = decoded(prepared, size_px)

    def ask(rows: slice) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: Any = network(torch.from_numpy(np.array(pixels[rows])).to(device)).float().cpu().numpy()
        return np.asarray(found, dtype=np.float32)

    def fill(out: NDArray[Any]) -> None:
        with tqdm(total=len(out), desc=f"features of {name}", unit="photo") as bar:
            for start in range(0, len(out), BATCH):
                found = ask(slice(start, start + BATCH))
                out[start : start + BATCH] = found
                bar.update(len(found))

    width = ask(slice(0, 1)).shape[1]
    return kept(prepared, f"{name}-{size_px}px-{_digest(network)}", (width,), np.float32, fill)


def _digest(network: nn.Module) -> str:
    """Names the weights: the start of a SHA-256 over all tensors."""
    found = hashlib.sha256()
    for key, value in network.state_dict().items():
        found.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
