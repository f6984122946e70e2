"""The int8 form of a network, for CPUs, and whether it is good enough to be served.

Static quantisation as QDQ (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html):
weights int8, a scale a channel; activations uint8, with the ranges that training photos give them.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from serve.photo import Pixels
from trainer.data.dataset import Part

PHOTOS = 256
"""How many training photos give the activations their ranges."""
MOST_LOST = 0.005
"""How much of its accuracy (0-1) on the validation photos a network may lose."""
TOLERANCE = 0.1
"""How far (0-1) a probability of a golden photo may move."""

_BATCH = 16
_INT8 = ["Add", "Clip", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "ReduceMean", "Relu"]


@dataclass(frozen=True)
class Choice:
    """Whether the int8 form serves, why, and the accuracies (0-1) of both forms on the same validation photos."""

    accepted: bool
    reason: str
    fp32_accuracy: float
    int8_accuracy: float

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by name."""
        return {"fp32_accuracy": self.fp32_accuracy, "int8_accuracy": self.int8_accuracy}


def decide(
    fp32: NDArray[Any],
    int8: NDArray[Any],
    labels: NDArray[Any],
    golden_fp32: NDArray[Any],
    golden_int8: NDArray[Any],
) -> Choice:
    """Whether int8 may stand for fp32.

    Probabilities ``(N, C)`` of both forms and labels ``(N,)`` of the same validation photos, and probabilities
    ``(G, C)`` of both for the golden photos. A form that is not finite is refused.
    """
    right, right_too = fp32.argmax(1) == labels, int8.argmax(1) == labels
    lost, gained = int((right & ~right_too).sum()), int((~right & right_too).sum())
    moved = float(np.abs(golden_fp32 - golden_int8).max(initial=0))
    other = int((golden_fp32.argmax(1) != golden_int8.argmax(1)).sum())
    figures = (
        f"of {len(labels)} validation photos {right.sum()} are right as fp32, {right_too.sum()} as int8 "
        f"({lost} lost, {gained} gained); of {len(golden_fp32)} golden photos {other} get another count, "
        f"and a probability moves by {moved:.3f} at most"
    )
    within = lost - gained <= MOST_LOST * len(labels)
    accepted = bool(len(labels) and within and not other and moved <= TOLERANCE and np.isfinite(int8).all())
    allowed = f"allowed are {MOST_LOST:.1%} of the photos, no other count, and {TOLERANCE}"
    return Choice(accepted, f"{figures}; {allowed}", _mean(right), _mean(right_too))


def _mean(right: NDArray[np.bool_]) -> float:
    return float(right.mean()) if len(right) else 0.0


def sample(train: Part, seed: int) -> Pixels:
    """Pixels of some training photos, uint8 ``(N, S, S, 3)``, N at most PHOTOS."""
    rows = np.random.default_rng(seed).permutation(len(train))[:PHOTOS]
    return np.asarray(train.pixels[np.sort(rows)], dtype=np.uint8)


def candidates(model: Path) -> tuple[float, ...]:
    """What to try, in order: the share (0-1) of the network, from its input on, that stays in fp32.

    The more stays, the nearer are the answers, and the longer they take; the early layers of a network with
    depthwise convolutions, of few products a value, take no longer in fp32.
    """
    convolutions = [node for node in onnx.load(model).graph.node if node.op_type == "Conv"]
    depthwise = any(each.name == "group" and each.i > 1 for node in convolutions for each in node.attribute)
    return (0.25, 0.5) if depthwise else (0.0, 0.25, 0.5)


def quantise(model: Path, target: Path, pixels: Pixels, spared: float = 0.0) -> None:
    """Write the int8 form of the ONNX file ``model``, of which the share ``spared`` (0-1) stays in fp32.

    ``pixels``, uint8 ``(N, S, S, 3)``, give the ranges.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-int8-") as folder, _quiet():
        fused = Path(folder) / "fused.onnx"
        quant_pre_process(model, fused, skip_symbolic_shape=True)  # batch norm becomes part of the convolution
        nodes = onnx.load(fused).graph.node
        quantize_static(
            fused,
            target,
            _Photos(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_INT8,
            nodes_to_exclude=[*_early(nodes, spared), *_heads(nodes)],
            reduce_range=not _multiplies_int8(),
        )


class _Photos(CalibrationDataReader):  # type: ignore[misc]
    """Batches of photos, as the quantiser asks for them."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = (pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch, by the name of the network's input."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _early(nodes: Sequence[onnx.NodeProto], share: float) -> list[str]:
    """The nodes of the first ``share`` (0-1) of the network, by how many convolutions lie before them."""
    depth_of: dict[str, int] = {}
    depths = {}
    for node in nodes:  # in an order in which inputs are known
        depth = max((depth_of.get(name, 0) for name in node.input), default=0) + (node.op_type == "Conv")
        depth_of.update(dict.fromkeys(node.output, depth))
        depths[node.name] = depth
    deepest = max(depths.values())
    return [name for name, depth in depths.items() if depth <= share * deepest]


def _heads(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """The last linear layer, for the photo and for its mirror image: it costs nothing, and the logits stay fine."""
    linear = [node for node in nodes if node.op_type in ("Gemm", "MatMul")]
    return [node.name for node in linear if node.input[1] == linear[-1].input[1]]


def _multiplies_int8(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor sums products of int8 without overflow; an older x86 needs weights of 7 bits."""
    words = set(cpu.read_text().split()) if cpu.is_file() else set()
    return "avx2" not in words or bool(words & {"avx512_vnni", "avx_vnni"})


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice to the root logger, and warns of its own internals."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
