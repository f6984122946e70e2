"""LitServe as its documentation serves images, with the eager ResNet-34 or with an ONNX file.

    python -m tests.benchmarks.peers.litserve_peer PORT WORKERS resnet34.pth|model.onnx

POST /predict {"image_data": BASE64}
"""

import base64
import io
import sys

import litserve
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from tests.benchmarks.peers.eager import ImageClassifier
from tests.benchmarks.peers.onnx_file import OnnxFile


class EagerApi(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, resizes and crops as TorchServe's stock handler, and returns the five most probable classes."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.weights = weights

    def setup(self, device: str) -> None:
        self.model = ImageClassifier()
        self.model.load_state_dict(torch.load(self.weights, weights_only=True))
        self.model.eval().to(device)
        self.process = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )

    def decode_request(self, request: dict[str, str]) -> Tensor:
        """The photo of a request as ``(1, 3, 224, 224)``."""
        image = Image.open(io.BytesIO(base64.b64decode(request["image_data"]))).convert("RGB")
        pixels: Tensor = self.process(image)
        return pixels.unsqueeze(0)

    def predict(self, x: Tensor) -> Tensor:
        """Probabilities ``(1, 1000)``."""
        with torch.inference_mode():
            probabilities: Tensor = self.model(x).softmax(1)
        return probabilities

    def encode_response(self, output: Tensor) -> dict[str, float]:
        probabilities, classes = output.topk(5, dim=1)
        return dict(zip(map(str, classes[0].tolist()), probabilities[0].tolist(), strict=True))


class OnnxApi(litserve.LitAPI):  # type: ignore[misc]
    """Returns the probabilities of all classes."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def setup(self, device: str) -> None:
        self.model = OnnxFile(self.path)

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["image_data"])

    def predict(self, x: bytes) -> list[float]:
        return self.model.probabilities(x)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"probabilities": output}


if __name__ == "__main__":
    port, workers, path = sys.argv[1:]
    api = OnnxApi(path) if path.endswith(".onnx") else EagerApi(path)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers), timeout=60)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
