"""mosec as its documentation serves images, with an ONNX file.

    python -m tests.benchmarks.peers.mosec_peer PORT WORKERS model.onnx

POST /inference, the bytes of a photo
"""

import sys

from mosec import Server, Worker

from tests.benchmarks.peers.onnx_file import OnnxFile


class OnnxWorker(Worker):
    """Returns the probabilities of all classes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = OnnxFile(sys.argv[3])

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> dict[str, list[float]]:
        return {"probabilities": self.model.probabilities(bytes(data))}


if __name__ == "__main__":
    port, workers, path = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--timeout", "60000", "--log-level", "warning"]
    server = Server()  # type: ignore[no-untyped-call]
    sys.argv[1:] = [port, workers, path]  # which its workers, started anew, read, too
    server.append_worker(OnnxWorker, num=int(workers))
    server.run()  # type: ignore[no-untyped-call]
