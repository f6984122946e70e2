"""What runs inside a TorchServe worker: request bodies in, JSON answers out.

It travels in the archive and imports the archive's own copy of ``serve``: TorchServe puts the
unpacked archive first on the worker's path. TorchServe wants exactly one class in this module.
"""

import os
from pathlib import Path
from typing import Any

from serve import counter, errors, verdict

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


class BinCounterHandler:
    """Answers a batch of photos; a broken one gets status 400 and a reason, the others their count.

    A request whose header X-Amzn-SageMaker-Custom-Attributes holds ``expected_quantity=N``, the recorded
    quantity, gets the verdict on it too: TorchServe passes headers on, but no query beside a photo.
    BINWATCH_ALPHA is the share of right records (0-1) that may raise the alarm.
    """

    def initialize(self, context: Any) -> None:
        """Load the model of the archive that TorchServe unpacked."""
        self.counter = counter.Counter(Path(context.system_properties["model_dir"]))
        self.version = str(context.manifest["model"]["modelVersion"])
        self.alpha = float(os.environ.get("BINWATCH_ALPHA") or verdict.ALPHA)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """One answer for each request of the batch."""
        bodies = [request.get("body", request.get("data", b"")) for request in data]
        photos = [bytes(body) if isinstance(body, bytes | bytearray) else b"" for body in bodies]
        answers = []
        for index, answer in enumerate(self.counter.answer(photos)):
            context.set_response_content_type(index, "application/json")
            try:
                attributes = context.get_request_header(index, ATTRIBUTES)
                answers.append({**self._judged(answer, attributes), "model_version": self.version})
            except errors.PhotoError as error:
                context.set_response_status(400, "Bad Request", index)
                answers.append({"code": 400, "type": "BadPhoto", "message": str(error)})
            except errors.FieldError as error:
                context.set_response_status(422, "Unprocessable Content", index)
                answers.append({"code": 422, "type": "BadField", "message": str(error)})
        return answers

    def _judged(self, answer: dict[str, Any] | errors.PhotoError, attributes: str | None) -> dict[str, Any]:
        if isinstance(answer, errors.PhotoError):
            raise answer
        given = dict(each.strip().partition("=")[::2] for each in (attributes or "").split(","))
        if "expected_quantity" not in given:
            return answer
        return self.counter.judge(answer, verdict.quantity(given["expected_quantity"]), self.alpha)
