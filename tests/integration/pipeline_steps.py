"""ListPipelineExecutionSteps, which moto lacks: a proxy in front of moto's server answers it.

The steps are those of the definition in moto, as if the execution had succeeded, two a page; each answer is validated
against the service's description before it is sent.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import boto3
import requests

from trainer.aws.requests import Answer, service_model, shape_problems

OPERATION = "ListPipelineExecutionSteps"
PAGE = 2


def _steps(definition: Answer) -> list[str]:
    names = []
    for step in definition["Steps"]:
        names += [step["Name"], *(branch["Name"] for branch in step["Arguments"].get("IfSteps", ()))]
    return names


def _answer(moto: str, parameters: Answer) -> Answer:
    model = service_model("sagemaker").operation_model(OPERATION)
    assert not shape_problems(parameters, model.input_shape)
    credentials = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    client = boto3.client("sagemaker", endpoint_url=moto, **credentials)
    name = parameters["PipelineExecutionArn"].split("/")[1]
    names = _steps(json.loads(client.describe_pipeline(PipelineName=name)["PipelineDefinition"]))
    first = int(parameters.get("NextToken", 0))
    start = datetime(2026, 3, 1, tzinfo=UTC)
    answer: Answer = {
        "PipelineExecutionSteps": [
            {"StepName": step, "StepStatus": "Succeeded", "StartTime": start, "EndTime": start + timedelta(minutes=1)}
            for step in names[first : first + PAGE]
        ]
    }
    if first + PAGE < len(names):
        answer["NextToken"] = str(first + PAGE)
    assert not shape_problems(answer, model.output_shape)
    return answer


@contextmanager
def steps_proxy(moto: str) -> Iterator[str]:
    """The address of the proxy."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("X-Amz-Target", "").endswith(f".{OPERATION}"):
                answer = json.dumps(_answer(moto, json.loads(body)), default=datetime.timestamp)
                self._send(200, {"Content-Type": "application/x-amz-json-1.1"}, answer.encode())
                return
            with requests.request(self.command, moto + self.path, data=body, headers=dict(self.headers)) as response:
                kept_headers = {
                    key: value
                    for key, value in response.headers.items()
                    if key.lower() in ("content-type", "etag", "x-amzn-errortype")
                }
                self._send(response.status_code, kept_headers, response.content)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = _do

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
