"""An ONNX file of this project's archives as others would serve it: ONNX Runtime, Pillow, one thread a worker."""

import io

import numpy as np
import onnxruntime
from PIL import Image


class OnnxFile:
    """The network in a file; squashes photos as this project does, so that the answers agree."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name
        self._size_px = int(self._session.get_inputs()[0].shape[1])

    def probabilities(self, photo: bytes) -> list[float]:
        """The probability of each class for the bytes of a photo."""
        image = Image.open(io.BytesIO(photo)).convert("RGB")
        image = image.resize((self._size_px, self._size_px), Image.Resampling.BILINEAR)
        logits = self._session.run(None, {self._name: np.asarray(image)[None]})[0][0]
        exponent = np.exp(logits - logits.max())
        return [round(float(p), 6) for p in exponent / exponent.sum()]
