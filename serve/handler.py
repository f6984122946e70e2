"""What runs inside a TorchServe worker: request bodies in, JSON answers out.

It travels in the archive and imports the archive's own copy of ``serve``: TorchServe puts the
unpacked archive first on the worker's path. TorchServe wants exactly one class in this module.
"""

from pathlib import Path
from typing import Any

from serve import counter, errors


class BinCounterHandler:
    """Answers a batch of photos; a broken one gets status 400 and a reason, the others their count."""

    def initialize(self, context: Any) -> None:
        """Load the model of the archive that TorchServe unpacked."""
        self.counter = counter.Counter(Path(context.system_properties["model_dir"]))
        self.version = str(context.manifest["model"]["modelVersion"])

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """One answer for each request of the batch."""
        bodies = [request.get("body", request.get("data", b"")) for request in data]
        photos = [bytes(body) if isinstance(body, bytes | bytearray) else b"" for body in bodies]
        answers = []
        for index, answer in enumerate(self.counter.answer(photos)):
            context.set_response_content_type(index, "application/json")
            if isinstance(answer, errors.PhotoError):
                context.set_response_status(400, "Bad Request", index)
                answers.append({"code": 400, "type": "BadPhoto", "message": str(answer)})
            else:
                answers.append({**answer, "model_version": self.version})
        return answers
