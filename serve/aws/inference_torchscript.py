"""Runs a TorchScript program in AWS containers whose Python is too old for the archive's code.

``model.tar.gz`` has this file as ``code/inference.py`` for two containers (``trainer/aws/endpoint/images.py``): the one
for Elastic Inference, with Python 3.6 and torch 1.5.1, and the one for Inferentia2, where the program is compiled for
the accelerator when the container starts. So this module must run with Python 3.6 and imports nothing of the project:
it squashes a photo like ``serve/photo.py``, and the normalisation is part of the program.

A photo as image/jpeg or image/png is answered with count, expected_count, probabilities and model_version; verdicts,
links and lists need the other containers. A photo that cannot be read is answered with 400.
"""

import io
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
from PIL import Image, ImageOps

try:
    from sagemaker_inference.errors import BaseInferenceToolkitError
except ImportError:  # outside of a container
    BaseInferenceToolkitError = None

try:
    import torch_neuronx
except ImportError:
    torch_neuronx = None

MAX_PIXELS = 50000000
"""As in serve/photo.py."""
CONTENT_TYPES = ("image/jpeg", "image/png", "application/x-image", "application/octet-stream")

jit = torch.jit  # type: Any
Network = Callable[[torch.Tensor], torch.Tensor]
Reply = Tuple[int, Any]
"""HTTP status, and content that becomes JSON."""


class Model:
    """A loaded program (``network``), the archive's manifest, and the version to put into answers."""

    def __init__(self, network: Network, manifest: Dict[str, Any], version: str) -> None:
        self.network, self.manifest, self.version = network, manifest, version


def model_fn(model_dir: str, context: object = None) -> Model:
    """Load the program for the accelerator that this container has."""
    manifest = json.loads((Path(model_dir) / "binwatch.json").read_text())
    program = jit.load(str(Path(model_dir) / "model.pt"), map_location="cpu").eval()
    size_px = manifest["size_px"]
    if torch_neuronx is not None:
        program = torch_neuronx.trace(program, torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8))
    return Model(_network(program), manifest, os.environ.get("BINWATCH_MODEL_VERSION", ""))


def _network(program: Any) -> Network:
    """A function from pixels, uint8 ``(1, S, S, 3)``, to logits ``(C,)``."""
    on_elastic_inference = os.environ.get("SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT") == "true"

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if not on_elastic_inference:
                logits = program(pixels)[0]  # type: torch.Tensor
            else:
                with jit.optimized_execution(True, {"target_device": "eia:0"}):
                    logits = program(pixels)[0]
        return logits

    return run


def input_fn(data: Any, content_type: str, context: object = None) -> Reply:
    """The photo's bytes, or the reason why they cannot be read, with its HTTP status."""
    if content_type not in CONTENT_TYPES:
        return 415, f"the content type is {content_type!r}; this container accepts image/jpeg and image/png"
    return 200, bytes(data)


def predict_fn(photo: Reply, model: Model) -> Reply:
    """HTTP status and answer for the result of ``input_fn``."""
    status, content = photo
    if status != 200:
        return status, {"code": status, "type": "UnsupportedMediaType", "message": content}
    try:
        pixels = read_photo(content, model.manifest["size_px"])
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        message = f"the photo of {len(content)} bytes cannot be read: {error}; send a JPEG or PNG"
        return 400, {"code": 400, "type": "BadPhoto", "message": message}
    return 200, to_answer(model, model.network(torch.from_numpy(pixels[None])).double().numpy())


def output_fn(reply: Reply, accept: str, context: Any = None) -> Tuple[str, str]:
    """The answer as JSON. Old toolkits pass no ``context`` to set the status in, but have an exception that sets it."""
    status, content = reply
    if status != 200 and context is not None:
        context.set_response_status(code=status, phrase=content["type"])
    elif status != 200 and BaseInferenceToolkitError is not None:
        raise BaseInferenceToolkitError(status, content["message"], content["type"])
    return json.dumps(content), "application/json"


def read_photo(data: bytes, size_px: int) -> np.ndarray:
    """Decode a photo and squash it to uint8 ``(size_px, size_px, 3)``, RGB; ``serve/photo.py`` explains the steps."""
    image = Image.open(io.BytesIO(data))  # type: Any
    if image.format not in ("JPEG", "PNG"):
        raise ValueError(f"it is {image.format}")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels, the limit is {MAX_PIXELS}")
    image.draft(None, (4 * size_px, 4 * size_px))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per sample: convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    bilinear = 2  # PIL.Image.BILINEAR; newer versions call it Resampling.BILINEAR
    return np.array(image.convert("RGB").resize((size_px, size_px), bilinear), dtype=np.uint8)


def to_answer(model: Model, logits: np.ndarray) -> Dict[str, Any]:
    """Logits ``(C,)`` to the same answer as ``serve/counter.py``; the program belongs to the ``exact`` calibration."""
    manifest = model.manifest
    classes, names = manifest["classes"], [str(count) for count in manifest["classes"]]
    if manifest.get("open_top"):
        names[-1] += "+"
    scaled = logits / (manifest.get("exact") or manifest)["temperature"]
    exponent = np.exp(scaled - scaled.max())
    row = exponent / exponent.sum()
    return {
        "count": classes[int(row.argmax())],
        "expected_count": round(float(row.dot(np.asarray(classes))), 4),
        "probabilities": {name: round(float(p), 6) for name, p in zip(names, row)},
        "model_version": model.version,
    }
