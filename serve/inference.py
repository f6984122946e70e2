"""What runs in AWS's PyTorch inference container: the answers of ``serve/handler.py``, by the same functions.

``model.tar.gz`` has it as ``code/inference.py``, with the ``serve`` that it needs beside it. The container's toolkit
(https://github.com/aws/sagemaker-inference-toolkit) calls the four functions below for each request, one at a time:

    /opt/ml/model/            the unpacked archive: binwatch.json, model.onnx, ...
    /opt/ml/model/code/       inference.py, serve/, requirements.txt

A request has the forms of ``serve/payload.py`` but two that SageMaker has not: a form's parts, and a query. The record
is in the JSON, or in the header X-Amzn-SageMaker-Custom-Attributes: ``expected_quantity=3``. Errors have their status
and a JSON body, set through the context: what the toolkit makes of an exception is a traceback. What is captured is
SageMaker's affair. The settings are those of ``configured`` in ``serve/answers.py``, and

    BINWATCH_MODEL_VERSION    the version that answers name
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from serve import answers, counter, payload

JSON = "application/json"


@dataclass(frozen=True)
class Model:
    """A loaded model and the version that its answers name."""

    answers: answers.Answers
    version: str


@dataclass(frozen=True)
class Reply:
    """What a request is answered: HTTP's status, and what becomes JSON."""

    status: HTTPStatus
    content: Any


def model_fn(model_dir: str, context: Any) -> Model:
    """Load the model of the unpacked archive, on the GPU that the server gave this worker, if any."""
    _take_bodies_as_they_come()
    device = counter.device_of(context.system_properties.get("gpu_id") if context else None)
    model = counter.Counter(Path(model_dir), device=device)
    return Model(answers.configured(model, os.environ), os.environ.get("BINWATCH_MODEL_VERSION", ""))


def _take_bodies_as_they_come() -> None:
    """Before it asks us the toolkit decodes JSON: a photo sent as such would be its 500 and traceback, not our 400."""
    with suppress(ImportError):
        from sagemaker_inference import content_types  # type: ignore[import-not-found]

        content_types.UTF8_TYPES.clear()


def input_fn(data: bytes | None, content_type: str | None, context: Any) -> payload.PredictionRequest:
    """The photos that a request asks about. ``data``: the body; None where there is none, or a form."""
    headers = {"content-type": content_type or "", **context.get_all_request_header(0)}
    return answers.parsed({} if data is None else {"body": data}, headers)


def predict_fn(request: payload.PredictionRequest, model: Model) -> Reply:
    """Answer the photos of one request."""
    entries = [answers.entry(each, model.version) for each in model.answers.of(request.photos)]
    return Reply(*answers.reply(entries, request.listed))


def output_fn(reply: Reply, accept: str, context: Any) -> tuple[str, str]:  # noqa: ARG001
    """The body, which is JSON whatever ``accept`` wants, and its content type. The toolkit passes by position."""
    if reply.status != HTTPStatus.OK:
        context.set_response_status(int(reply.status), reply.status.phrase)
    return json.dumps(reply.content), JSON
