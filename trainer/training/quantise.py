"""The int8 form of a network for CPUs, and the decision whether a form is accurate enough to be served.

Static quantisation in the QDQ format (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html):
int8 weights with one scale per channel, uint8 activations whose ranges are measured on training photos. Weights have 7
bits: with 8, sums overflow on an x86 without VNNI, and an archive must be right wherever it serves.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from serve.manifest import Form
from serve.photo import Pixels
from trainer.data.dataset import Part

RANGE_PHOTOS = 256
"""How many training photos are used to measure the ranges of the activations."""
MAX_ACCURACY_LOSS = 0.005
"""How much accuracy (0-1) on the validation photos a form may lose."""
MAX_PROBABILITY_SHIFT = 0.1
"""How far (0-1) a probability of a golden photo may move."""

_BATCH = 4  # all outputs of all layers are in memory: 1.1 GB with EfficientNet-Lite0 and its mirror image at 224 px
_INT8_OPERATORS = ["Add", "Clip", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "ReduceMean", "Relu"]


@dataclass(frozen=True)
class FormDecision:
    """Whether a form may be served, why, and its and fp32's accuracy (0-1) on the same validation photos."""

    form: Form
    accepted: bool
    reason: str
    fp32_accuracy: float
    accuracy: float


def decide(
    fp32: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    golden_fp32: NDArray[np.float64],
    golden: NDArray[np.float64],
    form: Form = Form.INT8,
) -> FormDecision:
    """Decide whether ``form`` may replace fp32.

    ``fp32``, ``probabilities``: ``(N, C)``, of both forms, and ``labels`` ``(N,)``, of the same validation photos;
    ``golden_fp32``, ``golden``: probabilities ``(G, C)`` for the golden photos. Probabilities that are not finite are
    rejected.
    """
    fp32_correct, correct = fp32.argmax(1) == labels, probabilities.argmax(1) == labels
    lost, gained = int((fp32_correct & ~correct).sum()), int((~fp32_correct & correct).sum())
    shift = float(np.abs(golden_fp32 - golden).max(initial=0))
    changed = int((golden_fp32.argmax(1) != golden.argmax(1)).sum())
    figures = (
        f"of {len(labels)} validation photos fp32 counts {fp32_correct.sum()} correctly, {form} {correct.sum()} "
        f"({lost} lost, {gained} gained); of {len(golden_fp32)} golden photos {changed} change their count, and a "
        f"probability moves by at most {shift:.3f}"
    )
    limits = f"the limits are {MAX_ACCURACY_LOSS:.1%} of the photos, no changed count, and {MAX_PROBABILITY_SHIFT}"
    accurate = lost - gained <= MAX_ACCURACY_LOSS * len(labels)
    accepted = bool(
        len(labels) and accurate and not changed and shift <= MAX_PROBABILITY_SHIFT and np.isfinite(probabilities).all()
    )
    return FormDecision(form, accepted, f"{figures}; {limits}", _share(fp32_correct), _share(correct))


def _share(correct: NDArray[np.bool_]) -> float:
    return float(correct.mean()) if len(correct) else 0.0


def sample_pixels(train: Part, seed: int) -> Pixels:
    """Pixels of random training photos, uint8 ``(N, S, S, 3)``, N at most RANGE_PHOTOS."""
    rows = np.random.default_rng(seed).permutation(len(train))[:RANGE_PHOTOS]
    return np.asarray(train.pixels[np.sort(rows)], dtype=np.uint8)


def fp32_shares(model: Path) -> tuple[float, ...]:
    """The shares (0-1) of the network, from its input on, to keep in fp32, in the order to try them.

    A higher share gives more accurate and slower predictions. In a network with depthwise convolutions, the early
    layers compute few products per value and are as fast in fp32.
    """
    convolutions = [node for node in onnx.load(model).graph.node if node.op_type == "Conv"]
    attributes = [attribute for node in convolutions for attribute in node.attribute]
    depthwise = any(attribute.name == "group" and attribute.i > 1 for attribute in attributes)
    return (0.25, 0.5) if depthwise else (0.0, 0.25, 0.5)


def quantise(model: Path, target: Path, pixels: Pixels, fp32_share: float = 0.0) -> None:
    """Write the int8 form of the ONNX file ``model`` to ``target``; the first ``fp32_share`` (0-1) of it stays in fp32.

    ``pixels``, uint8 ``(N, S, S, 3)``, are used to measure the ranges of the activations.
    """
    with tempfile.TemporaryDirectory(prefix="binwatch-int8-") as folder, _quiet():
        fused = Path(folder) / "fused.onnx"
        quant_pre_process(model, fused, skip_symbolic_shape=True)  # folds batch norm into the convolutions
        nodes, side = _nodes_of_logits(onnx.load(fused).graph)
        quantize_static(
            fused,
            target,
            _PixelReader(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_INT8_OPERATORS,
            nodes_to_exclude=[*_early_nodes(nodes, fp32_share), *_head_nodes(nodes), *side],
            reduce_range=True,
        )


class _PixelReader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds batches of photos to the quantiser."""

    def __init__(self, pixels: Pixels) -> None:
        self._batches: Iterator[Pixels] = (pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch, by the name of the network's input."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch}


def _nodes_of_logits(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes that the first output, the logits, depends on; and the names of the others, which stay in fp32."""
    needed, nodes, side = {graph.output[0].name}, list[onnx.NodeProto](), list[str]()
    for node in reversed(graph.node):  # which are in topological order
        if needed.isdisjoint(node.output):
            side.append(node.name)
        else:
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1], side


def _early_nodes(nodes: Sequence[onnx.NodeProto], share: float) -> list[str]:
    """The nodes in the first ``share`` (0-1) of the network, by the number of convolutions before them."""
    depth_of: dict[str, int] = {}
    depths = {}
    for node in nodes:  # in topological order
        depth = max((depth_of.get(name, 0) for name in node.input), default=0) + (node.op_type == "Conv")
        depth_of.update(dict.fromkeys(node.output, depth))
        depths[node.name] = depth
    deepest = max(depths.values())
    return [name for name, depth in depths.items() if depth <= share * deepest]


def _head_nodes(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """The last linear layer, once for the photo and once for its mirror image: fp32 is as fast and more precise."""
    linear = [node for node in nodes if node.op_type in ("Gemm", "MatMul")]
    return [node.name for node in linear if node.input[1] == linear[-1].input[1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the advice that the quantiser logs to the root logger, and its warnings about its own internals."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
