"""What answers in AWS containers whose Python is too old for the archive's code: by a TorchScript program.

``model.tar.gz`` has it as ``code/inference.py`` for two containers (``trainer/aws/images.py``): that for Elastic
Inference, which has Python 3.6 and torch 1.5.1, and that for Inferentia2, where the program is compiled for the
accelerator when the container starts. So this is the one module that must run with Python 3.6, and imports nothing of
the project: it squashes a photo as ``serve/photo.py`` does, and the normalisation is in the program.

A photo as image/jpeg or image/png is answered with count, expected_count, probabilities and model_version; verdicts,
links and lists need the other containers. Whatever cannot be read is answered with 400.
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
TAKEN = ("image/jpeg", "image/png", "application/x-image", "application/octet-stream")

jit = torch.jit  # type: Any
Reply = Tuple[int, Any]
"""HTTP's status, and what becomes JSON."""


class Model:
    """A loaded program, what it tells apart, and the version that answers name."""

    def __init__(self, run: Callable[[Any], Any], manifest: Dict[str, Any], version: str) -> None:
        self.run, self.manifest, self.version = run, manifest, version


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Load the program for the accelerator that this container has."""
    manifest = json.loads((Path(model_dir) / "binwatch.json").read_text())
    program = jit.load(str(Path(model_dir) / "model.pt"), map_location="cpu").eval()
    size_px = manifest["size_px"]
    if torch_neuronx is not None:
        program = torch_neuronx.trace(program, torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8))
    return Model(_runner(program), manifest, os.environ.get("BINWATCH_MODEL_VERSION", ""))


def _runner(program: Any) -> Callable[[Any], Any]:
    """Pixels uint8 ``(1, S, S, 3)`` -> logits ``(C,)``."""
    on_elastic_inference = os.environ.get("SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT") == "true"

    def run(pixels: Any) -> Any:
        with torch.no_grad():
            if not on_elastic_inference:
                return program(pixels)[0]
            with jit.optimized_execution(True, {"target_device": "eia:0"}):
                return program(pixels)[0]

    return run


def input_fn(data: Any, content_type: str, context: Any = None) -> Reply:
    """The photo's bytes, or the reason why they cannot be read, with its HTTP status."""
    if content_type not in TAKEN:
        return 415, f"the content type is {content_type!r}; this container takes image/jpeg and image/png"
    return 200, bytes(data)


def predict_fn(asked: Reply, model: Model) -> Reply:
    """The status and the answer."""
    status, content = asked
    if status != 200:
        return status, {"code": status, "type": "UnsupportedMediaType", "message": content}
    try:
        pixels = read(content, model.manifest["size_px"])
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        message = f"the photo of {len(content)} bytes cannot be read: {error}; send a JPEG or PNG"
        return 400, {"code": 400, "type": "BadPhoto", "message": message}
    return 200, answer(model, model.run(torch.from_numpy(pixels[None])).double().numpy())


def output_fn(replied: Reply, accept: str, context: Any = None) -> Tuple[str, str]:
    """The answer as JSON. A toolkit of old gives no ``context`` to set the status in, but has an error that does."""
    status, content = replied
    if status != 200 and context is not None:
        context.set_response_status(code=status, phrase=content["type"])
    elif status != 200 and BaseInferenceToolkitError is not None:
        raise BaseInferenceToolkitError(status, content["message"], content["type"])
    return json.dumps(content), "application/json"


def read(data: bytes, size_px: int) -> Any:
    """Decode a photo and squash it to uint8 ``(size_px, size_px, 3)``, RGB: ``serve/photo.py`` says how and why."""
    image = Image.open(io.BytesIO(data))  # type: Any
    if image.format not in ("JPEG", "PNG"):
        raise ValueError(f"it is {image.format}")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width}x{height} pixels; at most {MAX_PIXELS} are decoded")
    image.draft(None, (4 * size_px, 4 * size_px))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a sample: convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    bilinear = 2  # PIL.Image.BILINEAR, which newer ones call Resampling.BILINEAR
    return np.array(image.convert("RGB").resize((size_px, size_px), bilinear), dtype=np.uint8)


def answer(model: Model, logits: Any) -> Dict[str, Any]:
    """Logits ``(C,)`` -> the answer, in the words of ``serve/counter.py``; the program rests on ``exact``."""
    manifest = model.manifest
    classes, names = manifest["classes"], [str(each) for each in manifest["classes"]]
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
