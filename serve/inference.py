"""What runs in AWS's PyTorch inference container: the same answers as ``serve/handler.py``, by the same functions.

``model.tar.gz`` holds it as ``code/inference.py``, beside its copy of ``serve``. The container's toolkit
(https://github.com/aws/sagemaker-inference-toolkit) calls the four functions below for each request, one at a time:

    /opt/ml/model/            the unpacked archive: binwatch.json, model.onnx, ...
    /opt/ml/model/code/       inference.py, serve/, requirements.txt

A request has the formats of ``serve/payload.py`` except two that SageMaker does not pass on: the parts of a form, and a
query. The recorded quantity is in the JSON, or in the header X-Amzn-SageMaker-Custom-Attributes:
``expected_quantity=3``; a record with its products is in the JSON. Errors get their status and a JSON body through the
context, because the toolkit turns an exception into a traceback. Data capture is left to SageMaker. The settings are
those of ``predictor_from`` in ``serve/answers.py``, and

    BINWATCH_MODEL_VERSION    the version that answers name
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from serve import answers, counter, payload
from serve.answers import ServerContext

JSON = "application/json"


@dataclass(frozen=True)
class Model:
    """A loaded model and the version that its answers name."""

    predictor: answers.Predictor
    version: str


@dataclass(frozen=True)
class Reply:
    """A response: the HTTP status, and what becomes the JSON body."""

    status: HTTPStatus
    content: answers.Content


def model_fn(model_dir: str, context: ServerContext | None) -> Model:
    """Load the model of the unpacked archive, on the GPU that the server assigned to this worker, if any."""
    _disable_toolkit_decoding()
    device = counter.device_of(context.system_properties.get("gpu_id") if context else None)
    model = counter.Counter(Path(model_dir), device=device, shared=True)
    return Model(answers.predictor_from(model, os.environ), os.environ.get("BINWATCH_MODEL_VERSION", ""))


def _disable_toolkit_decoding() -> None:
    """Keep the toolkit from decoding JSON bodies: for bytes that are not text, it answers 500, not 400."""
    with suppress(ImportError):
        from sagemaker_inference import content_types  # type: ignore[import-not-found]

        content_types.UTF8_TYPES.clear()


def input_fn(data: bytes | None, content_type: str | None, context: ServerContext) -> payload.PredictionRequest:
    """Parse a request. ``data``: the body; None where there is none, or a form."""
    headers = {"content-type": content_type or "", **context.get_all_request_header(0)}
    return answers.parse_request({} if data is None else {"body": data}, headers)


def predict_fn(request: payload.PredictionRequest, model: Model) -> Reply:
    """Answer the photos of one request."""
    outcomes = model.predictor.predict(request.photos)
    entries = [answers.response_entry(outcome, model.version) for outcome in outcomes]
    return Reply(*answers.http_response(entries, request.listed))


def output_fn(reply: Reply, accept: str, context: ServerContext) -> tuple[str, str]:  # noqa: ARG001
    """The body and its content type, always JSON, whatever ``accept`` asks for. The toolkit passes by position."""
    if reply.status != HTTPStatus.OK:
        context.set_response_status(int(reply.status), reply.status.phrase)
    return json.dumps(reply.content), JSON
