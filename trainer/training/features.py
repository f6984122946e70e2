"""What a frozen network sees in every photo of a prepared dataset: computed once, kept, shared.

The audit and every training of a head on a frozen body read the same rows. They are valid for
those photo bytes, that size and those weights, and are made anew when one of the three changes.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from trainer.data.dataset import Dataset, Part, Pixels, Rows
from trainer.data.prepared import EXTRA, Prepared, cached_array, decoded, read
from trainer.training.distributed import pick_device
from trainer.training.networks import PRETRAINED, Counter, EfficientNetLite, average_with_mirror, create

BATCH = 64
WORTH_COMPILING = 500
"""Photos: below that, compiling a network takes longer than it saves."""
TAPS, COLUMNS = (10, 14), 5


class Head(nn.Module):
    """The part of a counter with a frozen body that learns: features ``(B, width)`` -> logits ``(B, C)``."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def forward(self, features: Tensor) -> Tensor:
        """Count by features."""
        return self.counter.classify(features)


class Stem(nn.Module):
    """The frozen blocks of a counter: pixels -> float16 ``(B, 2, s, s, C)``, of the photo and of its mirror image."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        assert isinstance(counter.body, EfficientNetLite)
        self.normalise, self.body = counter.normalise, counter.body

    def forward(self, pixels: Tensor) -> Tensor:
        """See a batch."""
        seen = [self.body.early(self.normalise(each)).permute(0, 2, 3, 1) for each in (pixels, pixels.flip(2))]
        return torch.stack(seen, 1).half()


class Tail(nn.Module):
    """The blocks of a counter that learn: what Stem gives -> logits ``(B, C)``.

    While it learns it takes one of the two images of a photo, ``(B, s, s, C)``.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self.counter = counter

    def forward(self, seen: Tensor) -> Tensor:
        """Count by what the frozen blocks have seen."""
        if self.training:
            return self._logits(seen)
        logits = self._logits(seen[:, 0])
        return average_with_mirror(logits, self._logits(seen[:, 1])) if self.counter.mirrored else logits

    def _logits(self, seen: Tensor) -> Tensor:
        # a permuted NHWC tensor is channels_last in memory already: no copy
        body = self.counter.body
        assert isinstance(body, EfficientNetLite)
        return self.counter.answer(self.counter.classify(body.late(seen.float().permute(0, 3, 1, 2))))


def with_features(data: Dataset, network: nn.Module, name: str) -> Dataset:
    """``data`` with what ``network`` makes of each photo in place of its pixels.

    The test photos keep their pixels: they are left alone. The features of a prepared dataset are
    kept beside its decoded photos, and every later training reads them.
    """

    def seen(part: Part, folder: Path | None) -> Part:
        if folder is None:
            return replace(part, pixels=_computed(part, network, name))
        return replace(part, pixels=Rows(_kept_rows(read(folder), network, name, data.size_px), part.pixels.index))

    train, validation = seen(data.train, data.folder), seen(data.validation, data.folder)
    extra = seen(data.extra, data.folder / EXTRA if data.folder else None) if data.extra else None
    return replace(data, train=train, validation=validation, extra=extra)


def _computed(part: Part, network: nn.Module, name: str) -> Rows:
    ask = make_predictor(network, part.pixels, len(part))
    blocks = tqdm(range(0, len(part), BATCH), desc=f"features of {name}", unit="batch")
    found = np.concatenate([ask(slice(start, start + BATCH)) for start in blocks])
    return Rows(found, np.arange(len(found)))


def layout_features(prepared: Prepared, size_px: int = 160) -> NDArray[np.float32]:
    """Features that know where things are, float32 ``(N, F)``: for the audit.

    From two depths of a frozen EfficientNet-Lite0, each channel's mean, deviation, and mean in five
    upright strips. On drawn bins a linear head on them was right for 63 % of the photos, on the
    features of the last layer for 57 %.
    """
    counter = create("efficientnet-lite0", 2, size_px, PRETRAINED)
    return _kept_rows(prepared, nn.Sequential(counter.normalise, Layout(counter.body)), "layout", size_px)


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


def _kept_rows(prepared: Prepared, network: nn.Module, name: str, size_px: int) -> NDArray[Any]:
    ask = make_predictor(network, decoded(prepared, size_px), len(prepared.rows))

    def fill(out: NDArray[Any]) -> None:
        with tqdm(total=len(out), desc=f"features of {name}", unit="photo") as bar:
            for start in range(0, len(out), BATCH):
                found = ask(slice(start, start + BATCH))
                out[start : start + BATCH] = found
                bar.update(len(found))

    one = ask(slice(0, 1))
    return cached_array(prepared, f"{name}-{size_px}px-{_digest(network)}", one.shape[1:], one.dtype.type, fill)


def make_predictor(network: nn.Module, pixels: Pixels, photos: int) -> Callable[[slice], NDArray[Any]]:
    """A function from rows of ``pixels`` to what ``network`` makes of them, in evaluation mode.

    ``photos``: how many will be asked about.
    """
    device = pick_device()
    network = network.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    slow = any(isinstance(each, EfficientNetLite) for each in network.modules())  # the others gain nothing
    if device.type == "cpu" and slow and photos >= WORTH_COMPILING:
        run = _compiled(network, np.array(pixels[slice(0, 2)]))
        return lambda rows: run(np.array(pixels[rows]))

    def ask(rows: slice) -> NDArray[Any]:
        with torch.inference_mode():
            found: NDArray[Any] = network(torch.from_numpy(np.array(pixels[rows])).to(device)).cpu().numpy()
        return found

    return ask


def _compiled(network: nn.Module, example: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """``network`` in ONNX Runtime, which fuses layers: a frozen EfficientNet came 5 times as fast as in torch."""
    batch = torch.from_numpy(
        np.resize(example, (2, *example.shape[1:]))
    )  # an example of one would fix the batch to one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            network,
            (batch,),
            input_names=["pixels"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(photos: NDArray[Any]) -> NDArray[Any]:
        (found,) = session.run(None, {"pixels": photos})
        return np.asarray(found)

    return run


def _digest(network: nn.Module) -> str:
    """Names the weights: the start of a SHA-256 over all tensors."""
    found = hashlib.sha256()
    for key, value in network.state_dict().items():
        found.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]
